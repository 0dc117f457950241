"""Grad-CAM: where in an image a class was found (Selvaraju et al. 2017, arXiv:1610.02391)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.common.numbers import at_least_float32
from jaxcifar.models.resnet import ResNet

# A smaller map hardly shows where something is: at 32x32 with the ImageNet stem, the last stage's
# map is 1x1, and its Grad-CAM is the same for every image.
SMALLEST_MAP = 4


def grad_cam(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
    layer: str,
) -> jax.Array:
    """The parts of a layer's feature maps that raise the logit of a class, in evaluation mode.

    Each channel is weighted by the gradient of the class logit, averaged over the map. The weighted
    channels are summed, and negative values become 0. The gradient is that of the logit, not of a
    probability: the network is split after the layer, and only its second part is differentiated.

    Args:
        model: the network.
        variables: ``{"params", "batch_stats"}``.
        images: float32 [n, h, w, 3], normalised.
        classes: int32 [n], the class to explain in each image, from 0.
        layer: a child of the network whose output is maps, see `map_children`.

    Returns:
        float32 [n, h, w] in [0, 1], at the layer's resolution: each map divided by its maximum, or
        0 everywhere if no value is positive.

    Raises:
        ValueError: the layer is not such a child, the network is not a built-in one (RecipeError),
            or `classes` has not one of its classes for each image (RecipeError).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxcifar import grad_cam, resnet18
        >>> model, images = resnet18(width=4), jnp.zeros((2, 32, 32, 3))
        >>> variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
        >>> classes = jnp.array([3, 5])
        >>> jax.eval_shape(
        ...     lambda v: grad_cam(model, v, images, classes, "layer1"), variables
        ... ).shape
        (2, 8, 8)
    """
    children = map_children(model)
    if layer not in children:
        raise ValueError(
            f"Grad-CAM needs a child of the network whose output is maps, not {layer!r}"
            f"{did_you_mean(layer, children)}"
        )
    classes = jnp.asarray(classes, jnp.int32)
    _check_classes(classes, len(images), built_in(model).num_classes)
    return _grad_cam(built_in(model), layer, variables, images, classes)


def _check_classes(classes: jax.Array, n: int, num_classes: int) -> None:
    if classes.shape != (n,):
        raise RecipeError(
            f"classes must be int32 [{n}], one for each of the {n} images, not {classes.shape}"
        )
    if isinstance(classes, jax.core.Tracer):  # under jit the values are not known
        return
    unknown = [index for index in classes.tolist() if not 0 <= index < num_classes]
    if unknown:
        raise RecipeError(f"class {unknown[0]} is none of the network's 0 to {num_classes - 1}")


def map_children(model: nn.Module) -> tuple[str, ...]:
    """The children of the network whose output is maps, in order: conv1 to the last stage.

    Raises:
        RecipeError: the network is not a built-in one.
    """
    model = built_in(model)
    return model.children[: model.children.index("avgpool")]


def built_in(model: nn.Module) -> ResNet:
    """The network, where it is one that this library makes.

    Raises:
        RecipeError: it is not.
    """
    if not isinstance(model, ResNet):
        raise RecipeError(
            f"{type(model).__name__} is a model of your own: only the built-in networks can be "
            "split at a layer for Grad-CAM, and be saved under torchvision's names"
        )
    return model


def default_layer(model: nn.Module, image_size: int) -> str:
    """The last stage whose map is at least 4x4, for an image of `image_size` pixels per side.

    Raises:
        ValueError: there is no such stage.
    """
    model = built_in(model)
    side, layer = image_size, None
    for child in map_children(model):
        if child == "maxpool" or (child == "conv1" and model.stem == "imagenet"):
            side = -(-side // 2)  # every layer pads: an odd side is rounded up
        elif child.startswith("layer"):
            side = side if child == "layer1" else -(-side // 2)
            layer = child if side >= SMALLEST_MAP else layer
    if layer is None:
        raise ValueError(
            f"no stage has a map of {SMALLEST_MAP}x{SMALLEST_MAP} for an image of {image_size} "
            "pixels per side: name an earlier layer or use a larger image"
        )
    return layer


def upsample(maps: jax.Array, height: int, width: int) -> jax.Array:
    """Resize maps [n, h, w] bilinearly to the size of an image: [n, height, width]."""
    return jax.image.resize(maps, (len(maps), height, width), "bilinear")


@partial(jax.jit, static_argnums=(0, 1))  # at module level: a second call compiles nothing
def _grad_cam(
    model: ResNet,
    layer: str,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
) -> jax.Array:
    maps = jnp.asarray(model.apply(variables, images, train=False, stop=layer))

    def sum_of_logits(maps: jax.Array) -> jax.Array:  # each logit depends on its own map only
        logits = jnp.asarray(model.apply(variables, maps, train=False, start=layer))
        return jnp.sum(jnp.take_along_axis(logits, classes[:, None], axis=1))

    weights = jnp.mean(at_least_float32(jax.grad(sum_of_logits)(maps)), axis=(1, 2))
    heat = jax.nn.relu(jnp.einsum("nhwc,nc->nhw", at_least_float32(maps), weights))
    peak = jnp.max(heat, axis=(1, 2), keepdims=True)
    return jnp.where(peak == 0, 0, heat / peak)
