"""What the layers of a network put out for given images, by torchvision's names."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxcifar.suggest import did_you_mean


def capture(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, layers: Sequence[str]
) -> dict[str, jax.Array]:
    """The outputs of `layers` in evaluation mode.

    Args:
        variables: ``{"params", "batch_stats"}``.
        images: float32 [n, h, w, 3], normalised.
        layers: names as in torchvision: "conv1", "layer1.0.conv1", "layer1.0.bn2", "layer1.0" (a
            block, after its last ReLU), "layer1", "avgpool", "fc"; and after the ReLUs inside
            "relu" (of the stem), "layer1.0.relu1". "bn1" is before its ReLU, where a torch hook
            would see the ReLU done in place.

    Returns:
        Name -> [n, h, w, channels] ([n, features] from "avgpool" on), in the order asked for.

    Raises:
        ValueError: an unknown layer, with the nearest name.
    """
    found = list_layers(model, variables, images)
    for name in layers:
        if name not in found:
            raise ValueError(f"unknown layer {name!r}{did_you_mean(name, found)}")

    captured = _capture(model, tuple(layers), variables, images)
    return {name: captured[name] for name in layers}


@partial(jax.jit, static_argnums=(0, 1))  # of the module, so that a second call compiles nothing
def _capture(
    model: nn.Module, layers: tuple[str, ...], variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    outputs = _outputs(model, variables, images)
    return {name: outputs[name] for name in layers}


def list_layers(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.ShapeDtypeStruct]:
    """Every layer that `capture` knows, with the shape of its output; nothing is computed."""
    return jax.eval_shape(lambda v, x: _outputs(model, v, x), variables, images)


def _outputs(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array
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
