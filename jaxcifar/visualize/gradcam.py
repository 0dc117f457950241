"""Where in an image a class was found: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcifar.common.messages import did_you_mean
from jaxcifar.common.numbers import at_least_float32
from jaxcifar.models.resnet import ResNet

# Fewer rows of a map can hardly say where something is: at 32x32 with the ImageNet stem the last
# stage's map is 1x1, and its Grad-CAM the same for every image.
SMALLEST_MAP = 4


def grad_cam(
    model: ResNet,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
    layer: str,
) -> jax.Array:
    """The parts of a layer's map that speak for a class, in evaluation mode.

    The channels are weighted by the mean over the map of the class logit's gradient, summed, and
    what is negative set to 0. The network is cut behind the layer, so that the gradient is that of
    the logit and passes no normalisation of probabilities.

    Args:
        variables: ``{"params", "batch_stats"}``.
        images: float32 [n, h, w, 3], normalised.
        classes: int32 [n], the class to explain in each image.
        layer: a child of the network with a map, see `map_children`.

    Returns:
        float32 [n, h, w] in [0, 1], the layer's resolution: each divided by its largest value, and
        0 everywhere where nothing speaks for the class.

    Raises:
        ValueError: the layer is no such child.
    """
    children = map_children(model)
    if layer not in children:
        raise ValueError(
            f"Grad-CAM is of a child of the network that has a map, not {layer!r}"
            f"{did_you_mean(layer, children)}"
        )
    return _grad_cam(model, layer, variables, images, jnp.asarray(classes, jnp.int32))


def map_children(model: ResNet) -> tuple[str, ...]:
    """The children that put out a map, in the order they run: conv1 to the last stage."""
    return model.children[: model.children.index("avgpool")]


def default_layer(model: ResNet, image_size: int) -> str:
    """The last stage whose map of an image of `image_size` pixels a side is at least 4x4.

    Raises:
        ValueError: no stage has one.
    """
    side, found = image_size, None
    for child in map_children(model):
        if child == "maxpool" or (child == "conv1" and model.stem == "imagenet"):
            side = -(-side // 2)  # every layer pads so that an odd side is rounded up
        elif child.startswith("layer"):
            side = side if child == "layer1" else -(-side // 2)
            found = child if side >= SMALLEST_MAP else found
    if found is None:
        raise ValueError(
            f"no stage has a map of {SMALLEST_MAP}x{SMALLEST_MAP} for an image of {image_size} "
            "pixels a side: name an earlier layer or give a larger image"
        )
    return found


def upsample(maps: jax.Array, height: int, width: int) -> jax.Array:
    """Maps [n, h, w] over an image: bilinear, [n, height, width]."""
    return jax.image.resize(maps, (len(maps), height, width), "bilinear")


@partial(jax.jit, static_argnums=(0, 1))  # of the module, so that a second call compiles nothing
def _grad_cam(
    model: ResNet,
    layer: str,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
) -> jax.Array:
    maps = jnp.asarray(model.apply(variables, images, train=False, stop=layer))

    def sum_of_logits(maps: jax.Array) -> jax.Array:  # an image's logit depends on its own map only
        logits = jnp.asarray(model.apply(variables, maps, train=False, start=layer))
        return jnp.sum(jnp.take_along_axis(logits, classes[:, None], axis=1))

    weights = jnp.mean(at_least_float32(jax.grad(sum_of_logits)(maps)), axis=(1, 2))
    found = jax.nn.relu(jnp.einsum("nhwc,nc->nhw", at_least_float32(maps), weights))
    peak = jnp.max(found, axis=(1, 2), keepdims=True)
    return jnp.where(peak == 0, 0, found / peak)
