"""Cached features: a frozen prefix of the network runs once, and training starts from its output.

It is the same run, only faster, where the prefix always gives the same output for an image: its
BatchNorms run on their stored statistics, and the images are not augmented, or in a fixed number
of stored views.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcifar.common.errors import FeatureError
from jaxcifar.devices.layout import ONE_DEVICE, Layout
from jaxcifar.devices.memory import free_memory, memory_excess
from jaxcifar.models.names import is_below
from jaxcifar.models.resnet import ResNet, batch_norm_names
from jaxcifar.step.augment import Augment
from jaxcifar.step.freeze import Labels, frozen_prefix
from jaxcifar.step.state import Draw, draw_key
from jaxcifar.step.steps import Normalize
from jaxcifar.training.epoch import Data

# Of the free memory; training needs some, too.
USABLE_SHARE = 0.8


def cut_point(model: ResNet, labels: Labels) -> str | None:
    """The last child of the network before anything trainable ("avgpool" for FREEZE_B), or None.

    Raises:
        FeatureError: the frozen prefix has BatchNorms that follow the batch.
    """
    prefix = frozen_prefix(labels)
    if not prefix:
        return None
    cut = None
    for child in model.children:
        if child in labels and child not in prefix:
            break
        cut = child
    moving = [
        name
        for name in batch_norm_names(model)
        if name.split(".")[0] in prefix and not is_below(name, model.frozen)
    ]
    if moving:
        raise FeatureError(
            f"{', '.join(moving)} normalise with each batch's own statistics, so "
            "that their output is never the same twice: only bn='frozen' can be cached"
        )
    return cut


def check_memory(
    model: ResNet, variables: Mapping[str, Any], cut: str, *, images: int, image_size: int
) -> int:
    """The bytes that the features of this many images take.

    Args:
        variables: arrays or shapes.
        images: views counted.

    Raises:
        FeatureError: they do not fit in the device's free memory.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    one = jax.eval_shape(partial(_prefix, model, cut), variables, image)
    needed = images * one.size * one.dtype.itemsize
    excess = memory_excess(needed, free_memory(), USABLE_SHARE)
    if excess is not None:
        raise FeatureError(
            f"the features after {cut} of {images:,} images take {excess}: free some "
            "memory, or start a run with fewer views or images, more frozen layers, bfloat16, or "
            "--no-cache-features"
        )
    return needed


def cache_features(
    model: ResNet,
    variables: Mapping[str, Any],
    data: Data,
    cut: str,
    *,
    normalize: Normalize,
    batch_size: int = 500,
    augment: Augment | None = None,
    views: int = 1,
    key: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
    size: int | None = None,
) -> Data:
    """The network's output after `cut` for every image, on the device that holds the image.

    Args:
        data: "image" uint8 [n, h, w, 3] and "label" [n].
        batch_size: changes only the time.
        augment, views, key: view v of image i is augmented as in epoch v (from 0) of the run with
            this key, see `resident.make_train_epoch`; without `augment` there is one view.
        layout, size: the devices, and the number of images where there are several devices.

    Returns:
        "image" [views * n, ...] in the network's compute dtype, view by view; "label" [n]. On
        several devices each holds the views of its own rows, see `devices.layout.Layout.take`.
    """
    if augment is not None and key is None:
        raise ValueError("augmented views are drawn at random: pass the run's key")
    share = layout.share(len(data["image"]) if size is None else size)
    batch_size = min(batch_size, share)
    batches = -(-share // batch_size)

    def batch_of_features(
        variables: Mapping[str, Any], images: jax.Array, key: Any, first: jax.Array, view: jax.Array
    ) -> jax.Array:
        index = first + jnp.arange(batch_size)
        batch = images[index]
        if augment is not None:
            rows = layout.position() * share + index
            view_key = draw_key(key, Draw.AUGMENT, view)
            batch = augment(jax.vmap(lambda i: jax.random.fold_in(view_key, i))(rows), batch)
        return _prefix(model, cut, variables, normalize(batch))

    def all_features(variables: Mapping[str, Any], images: jax.Array, key: Any) -> jax.Array:
        def body(i: jax.Array, features: jax.Array) -> jax.Array:
            view = i // batches
            # The last batch reaches back over the one before: there is nothing to pad.
            first = jnp.minimum(i % batches * batch_size, share - batch_size)
            output = batch_of_features(variables, images, key, first, view)
            return jax.lax.dynamic_update_slice_in_dim(features, output, view * share + first, 0)

        batch = jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), images.dtype)
        shape = jax.eval_shape(
            lambda variables, batch: _prefix(model, cut, variables, normalize(batch)),
            variables,
            batch,
        )
        features = jnp.zeros((views * share, *shape.shape[1:]), shape.dtype)
        return jax.lax.fori_loop(0, views * batches, body, features)

    program = layout.on_each(all_features, shared=(1,), shares=True)
    features = program(variables, data["image"], 0 if key is None else key)
    return {"image": jax.block_until_ready(features), "label": data["label"]}


def _prefix(model: ResNet, cut: str, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    return jnp.asarray(model.apply(variables, images, train=False, stop=cut))
