"""What the layers of a network put out for given images, by torchvision's names."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax

from jaxcifar.common.messages import did_you_mean
from jaxcifar.models.resnet import ResNet

# Three layers of keras.applications' ResNet50 as the course report names them. The last ends its
# block, whose basic form has two convolutions and not three.
KERAS_NAMES = {
    "conv1_conv": "conv1",
    "conv2_block1_1_conv": "layer1.0.conv1",
    "conv2_block2_3_conv": "layer1.1.conv{last}",
}


def torchvision_name(model: ResNet, layer: str) -> str:
    """The torchvision name of a layer that may be named as Keras does (`KERAS_NAMES`)."""
    if layer not in KERAS_NAMES:
        return layer
    return KERAS_NAMES[layer].format(last=3 if model.bottleneck else 2)


def capture(
    model: ResNet, variables: Mapping[str, Any], images: jax.Array, layers: Sequence[str]
) -> dict[str, jax.Array]:
    """The outputs of `layers` in evaluation mode.

    Args:
        variables: ``{"params", "batch_stats"}``.
        images: float32 [n, h, w, 3], normalised.
        layers: names as in torchvision: "conv1", "layer1.0.conv1", "layer1.0.bn2", "layer1.0" (a
            block, after its last ReLU), "layer1", "avgpool", "fc"; and after the ReLUs inside
            "relu" (of the stem), "layer1.0.relu1". "bn1" is before its ReLU, where a torch hook
            would see the ReLU done in place. The names in `KERAS_NAMES` will do, too.

    Returns:
        Name -> [n, h, w, channels] ([n, features] from "avgpool" on), in the order asked for.

    Raises:
        ValueError: an unknown layer, with the nearest names.
    """
    found = list_layers(model, variables, images)
    wanted = {name: torchvision_name(model, name) for name in layers}
    for name, path in wanted.items():
        if path not in found:
            hint = f": the network has no {path}"
            if path == name:
                hint = did_you_mean(name, [*found, *KERAS_NAMES], others=model.children, count=3)
            raise ValueError(f"unknown layer {name!r}{hint}")

    captured = _capture(model, tuple(wanted.values()), variables, images)
    return {name: captured[path] for name, path in wanted.items()}


@partial(jax.jit, static_argnums=(0, 1))  # of the module, so that a second call compiles nothing
def _capture(
    model: ResNet, layers: tuple[str, ...], variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    outputs = _outputs(model, variables, images)
    return {name: outputs[name] for name in layers}


def list_layers(
    model: ResNet, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.ShapeDtypeStruct]:
    """Every layer that `capture` knows, with the shape of its output; nothing is computed."""
    return _everything.eval_shape(model, variables, images)


@partial(jax.jit, static_argnums=0)  # of the module, so that shapes asked for again trace nothing
def _everything(
    model: ResNet, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    return _outputs(model, variables, images)


def _outputs(
    model: ResNet, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    _, updates = model.apply(variables, images, train=False, mutable=["intermediates"])
    outputs: dict[str, jax.Array] = {}

    def walk(prefix: tuple[str, ...], tree: Mapping[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, tuple):  # sow keeps a tuple of the values sown
                path = prefix if name == "output" else (*prefix, name)
                outputs[".".join(path)] = value[0]
            else:
                walk((*prefix, name), value)

    walk((), updates["intermediates"])
    return outputs
