"""The outputs of a network's layers, by torchvision's names."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxcifar.common.messages import did_you_mean
from jaxcifar.models.resnet import ResNet

# The names that the course report uses for three layers of keras.applications' ResNet50. The last
# one ends its block, which has two convolutions instead of three in a basic block.
KERAS_NAMES = {
    "conv1_conv": "conv1",
    "conv2_block1_1_conv": "layer1.0.conv1",
    "conv2_block2_3_conv": "layer1.1.conv{last}",
}


def torchvision_name(model: nn.Module, layer: str) -> str:
    """The torchvision name of a layer, which may be given by its Keras name (`KERAS_NAMES`)."""
    if layer not in KERAS_NAMES or not isinstance(model, ResNet):
        return layer
    return KERAS_NAMES[layer].format(last=3 if model.bottleneck else 2)


def capture(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, layers: Sequence[str]
) -> dict[str, jax.Array]:
    """The outputs of `layers` in evaluation mode.

    Args:
        model: the network.
        variables: ``{"params", "batch_stats"}``.
        images: float32 [n, h, w, 3], normalised.
        layers: torchvision's names: "conv1", "layer1.0.conv1", "layer1.0.bn2", "layer1.0" (a block,
            after its last ReLU), "layer1", "avgpool", "fc". The inner ReLUs are "relu" (of the
            stem), "layer1.0.relu1" and so on. "bn1" is the output before the ReLU; a torch hook
            would see the output after it, because that ReLU works in place. The names in
            `KERAS_NAMES` are accepted, too. Of a module of your own: the linen paths of its
            modules, such as "Block_0.Conv_1", and what it sows under a name.

    Returns:
        Name -> [n, h, w, channels] ([n, features] from "avgpool" on), in the order of `layers`.

    Raises:
        ValueError: an unknown layer; the message has the nearest names.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxcifar import capture, resnet18
        >>> model, images = resnet18(width=4), jnp.zeros((2, 32, 32, 3))
        >>> variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
        >>> layers = ["conv1", "layer1.0.relu1"]
        >>> outputs = jax.eval_shape(lambda v: capture(model, v, images, layers), variables)
        >>> outputs["conv1"].shape, outputs["layer1.0.relu1"].shape
        ((2, 16, 16, 4), (2, 8, 8, 4))
    """
    known = list_layers(model, variables, images)
    names = {name: torchvision_name(model, name) for name in layers}
    for name, path in names.items():
        if path not in known:
            hint = f": the network has no {path}"
            if path == name:
                hint = _nearest(model, name, known)
            raise ValueError(f"unknown layer {name!r}{hint}")

    captured = _capture(model, tuple(names.values()), variables, images)
    return {name: captured[path] for name, path in names.items()}


def _nearest(model: nn.Module, name: str, known: Mapping[str, Any]) -> str:
    if not isinstance(model, ResNet):
        return did_you_mean(name, known, others=list(known), count=3)
    return did_you_mean(name, [*known, *KERAS_NAMES], others=model.children, count=3)


@partial(jax.jit, static_argnums=(0, 1))  # at module level: a second call compiles nothing
def _capture(
    model: nn.Module, layers: tuple[str, ...], variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    outputs = _outputs(model, variables, images)
    return {name: outputs[name] for name in layers}


def list_layers(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.ShapeDtypeStruct]:
    """Every layer that `capture` knows, with the shape of its output; nothing is computed."""
    return _all_outputs.eval_shape(model, variables, images)


@partial(jax.jit, static_argnums=0)  # at module level: a second call traces nothing
def _all_outputs(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    return _outputs(model, variables, images)


def _outputs(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    # The built-in networks sow what has a name in torchvision; of others every module's output is
    # captured.
    own = not isinstance(model, ResNet)
    _, updates = model.apply(
        variables, images, train=False, mutable=["intermediates"], capture_intermediates=own
    )
    outputs: dict[str, jax.Array] = {}

    def walk(prefix: tuple[str, ...], tree: Mapping[str, Any]) -> None:
        for name, value in tree.items():
            if not isinstance(value, tuple):
                walk((*prefix, name), value)
                continue
            # flax's `sow` stores a tuple of values, one for each call.
            path = prefix if name in ("output", "__call__") else (*prefix, name)
            if path and isinstance(value[0], jax.Array):  # the whole network's are the logits
                outputs[".".join(path)] = value[0]

    walk((), updates["intermediates"])
    return outputs
