"""The feature maps of one image, and which layers are shown by default."""

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.inference.activations import capture, list_layers, torchvision_name
from jaxcifar.inference.network import TrainedNetwork
from jaxcifar.inference.predictions import class_logits
from jaxcifar.models.resnet import ResNet
from jaxcifar.step.precision import computed_at

# An early convolution, the first of the first block, and a later one of the same stage.
REPORT_LAYERS = ("conv1", "layer1.0.conv1", "layer1.1.conv2")


def feature_maps(
    network: TrainedNetwork, layers: Sequence[str] | None, inputs: jax.Array
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """The maps of one image by layer, and its class probabilities.

    Args:
        network: the network.
        layers: names that `capture` knows; None for the default ones.
        inputs: float32 [1, h, w, 3].

    Raises:
        RecipeError: an unknown layer, or one without maps.
    """
    shapes = list_layers(network.model, network.variables, inputs)
    if layers is None:
        layers = default_layers(network, shapes)
    names = {layer: torchvision_name(network.model, layer) for layer in layers}
    flat = [layer for layer, name in names.items() if name in shapes and shapes[name].ndim != 4]
    if flat:
        raise RecipeError(
            f"the output of layer {flat[0]!r} is {list(shapes[names[flat[0]]].shape[1:])}, not "
            "feature maps [h, w, channels]; choose a layer before avgpool, or another with maps"
        )
    built_in = isinstance(network.model, ResNet)
    try:  # with the logits where they have a name, so that one program computes both
        wanted = [*layers, "fc"] if built_in else layers
        with computed_at(network.precision):
            outputs = capture(network.model, network.variables, inputs, wanted)
    except ValueError as error:
        raise RecipeError(f"{error} (--list-layers prints them all)") from None
    maps = {
        layer if layer == name else f"{layer} ({name})": np.asarray(outputs[layer][0], np.float32)
        for layer, name in names.items()
    }
    with computed_at(network.precision):
        logits = (
            outputs["fc"] if built_in else class_logits(network.model, network.variables, inputs)
        )
    probabilities = jax.nn.softmax(logits.astype(np.float32))
    return maps, network.check_finite(probabilities)[0]


def default_layers(
    network: TrainedNetwork, shapes: dict[str, jax.ShapeDtypeStruct]
) -> tuple[str, ...]:
    """The layers of the course report; of another network the first, a middle and the last map.

    Raises:
        RecipeError: no layer has maps.
    """
    if isinstance(network.model, ResNet):
        return REPORT_LAYERS
    with_maps = [name for name, shape in shapes.items() if shape.ndim == 4]
    if not with_maps:
        raise RecipeError(
            f"no layer of {network.name} has feature maps [n, h, w, channels]: use "
            "TrainedNetwork.features for its vectors"
        )
    chosen = {0, len(with_maps) // 2, len(with_maps) - 1}
    return tuple(with_maps[i] for i in sorted(chosen))
