"""Initial weights of fast training, from Jordan 2024 (arXiv:2404.00498, "airbench").

Identity (Dirac) convolutions, and a first layer that whitens the patches of the training images.
Both change the random weights before training and nothing afterwards.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.data import Source
from jaxcifar.devices.processes import of_main
from jaxcifar.models.names import is_kernel, path_name
from jaxcifar.recipes.settings import Init

PyTree = Any
Filters = NDArray[np.float32] | jax.Array
WHITENED_IMAGES = 5_000
# Added to the variances. On grey images two thirds of them are zero.
WHITENING_EPSILON = 5e-4
_SIZE = 3  # of the first layer's patches, which have three colours
_IMAGES_AT_ONCE = 100  # 10 MB of patches at 32x32


def make_adjust(init: Init, filters: Filters | None) -> Callable[[PyTree], PyTree] | None:
    """Build ``random params -> initial params``, or None where the random ones stay.

    Args:
        init: "dirac" is `begin_as_identity`, "kaiming" the random weights.
        filters: those of the first layer, see `whitening_filters`; None leaves them random.
    """
    if init == "kaiming" and filters is None:
        return None

    def adjust(params: PyTree) -> PyTree:
        if init == "dirac":
            params = begin_as_identity(params)
        return params if filters is None else begin_whitening(params, filters)

    return adjust


def begin_as_identity(params: PyTree) -> PyTree:
    """Set the first filters of every convolution in the stages to the identity of one channel each.

    There are as many as the smaller number of channels, in or out (torch's `dirac_` on these
    filters). The stem, the head, BatchNorms and the other filters stay random.
    """

    def of_leaf(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        in_stage = path_name(path).startswith("layer")
        return _begin_one_as_identity(leaf) if in_stage and is_kernel(path) else leaf

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def _begin_one_as_identity(kernel: jax.Array) -> jax.Array:
    size, _, c_in, c_out = kernel.shape
    channel = jnp.arange(min(c_in, c_out))
    kernel = kernel.at[..., : len(channel)].set(0)
    return kernel.at[size // 2, size // 2, channel, channel].set(1)


def begin_whitening(params: PyTree, filters: Filters) -> PyTree:
    """Set the first filters of `conv1` [3, 3, 3, width].

    A layer too narrow for all of them takes the first ones; the filters of a wider one that are
    left over stay random.
    """
    kernel = params["conv1"]["kernel"]
    count = min(kernel.shape[-1], filters.shape[-1])
    kernel = kernel.at[..., :count].set(filters[..., :count])
    return {**params, "conv1": {**params["conv1"], "kernel": kernel}}


def whitening_filters(
    source: Source, normalize: Callable[[jax.Array], jax.Array]
) -> NDArray[np.float32]:
    """The filters [3, 3, 3, 54] whose outputs on images of the source are uncorrelated and have
    variance one.

    They are the principal components of the 3x3 patches, each divided by the square root of its
    variance plus `WHITENING_EPSILON` and followed by its negative, so that a ReLU loses neither.
    The components of largest variance come first. They depend only on the images (up to the last
    bits of the eigensolver; of several processes the first one computes them).
    """
    values, vectors = np.linalg.eigh(patch_covariance(source, normalize))
    whitening = (vectors / np.sqrt(np.maximum(values, 0) + WHITENING_EPSILON))[:, ::-1]
    both = np.stack([whitening, -whitening], axis=-1)
    return of_main(both.reshape(_SIZE, _SIZE, 3, -1).astype(np.float32))


def patch_covariance(
    source: Source, normalize: Callable[[jax.Array], jax.Array]
) -> NDArray[np.float64]:
    """The covariance [27, 27] of the normalised 3x3 patches (row, column, colour) inside
    `WHITENED_IMAGES` images, evenly spaced: those of a folder lie in the order of their classes.
    """
    count, total, products = 0, np.zeros(27), np.zeros((27, 27))
    size = min(len(source), WHITENED_IMAGES)
    chosen = np.arange(size) * len(source) // size
    for first in range(0, size, _IMAGES_AT_ONCE):
        rows = chosen[first : first + _IMAGES_AT_ONCE]
        images = np.asarray(normalize(jnp.asarray(source.read(rows).images)), np.float64)
        # [n, h - 2, w - 2, colour, row, column]
        windows = np.lib.stride_tricks.sliding_window_view(images, (_SIZE, _SIZE), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 27)
        count += len(patches)
        total += patches.sum(0)
        products += patches.T @ patches
    mean = total / count
    return products / count - np.outer(mean, mean)
