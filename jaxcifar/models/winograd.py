"""3x3 convolutions with fewer multiplications, for CPUs.

A map is cut into tiles. Each tile and the kernel are transformed, multiplied position by position
(one batched matrix product over tiles and channels), and transformed back. This is Winograd's
minimal filtering in two dimensions, Lavin and Gray 2016 (arXiv:1509.09308). There are two schemes:

* F(4x4, 3x3): tiles of 6x6 pixels that overlap by two, 36 products instead of 144 for 16 outputs.
  In float32 its rounding error is about ten times that of the plain sum: about 1e-5 of the
  largest output on random maps of 64 to 256 channels.
* Maps of up to 2x2 pixels, which the kernel covers whole: 9 products instead of 16 for 4 outputs
  (a 2x2 Toeplitz matrix takes three multiplications per direction).

Vertically, the rows of a tile are stacked and transformed by a small matrix. Horizontally, cutting,
padding and transforming are one product with a banded constant matrix. This keeps all tiles of a
position together, so that the transformed maps are multiplied in 36 large products. With banded
matrices in both directions there were eight times as many products for 32x32 maps (52 instead of
30 ms for the products), and a ResNet-18 step with the CIFAR stem took 3.2 instead of 2.65 s, each
alone in its process, medians of 3. Channels are the innermost axis, then images.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.numbers import at_least_float32

Matrix = NDArray[np.float64]


class Scheme(NamedTuple):
    """Tiles of `size` outputs; a tile's inputs start `padding` pixels before its outputs.

    ``outputs @ ((kernel @ w) * (inputs @ x))`` is the correlation of x with the three taps w.
    """

    size: int
    padding: int
    inputs: Matrix  # [products, pixels of a tile's input]
    kernel: Matrix  # [products, 3]
    outputs: Matrix  # [size, products]


# Points 0, 1, -1, 2, -2 and infinity.
F4 = Scheme(
    4,
    1,
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
    np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
)
# Two pixels p, q under taps (a, b, c): b (p + q) + (c - b) q and b (p + q) + (a - b) p.
WHOLE_MAP = Scheme(
    2,
    0,
    np.array([[1, 1], [0, 1], [1, 0]]),
    np.array([[0, 1, 0], [0, -1, 1], [1, -1, 0]]),
    np.array([[1, 1, 0], [1, 0, 1]]),
)


class Cut(NamedTuple):
    """How a scheme cuts maps into tiles: `down` rows of tiles, `across` tiles in each row."""

    scheme: Scheme
    down: int
    across: int
    inputs: Matrix  # [products * across, width]: cuts, pads and transforms a row of tiles
    outputs: Matrix  # [width, products * across]: transforms the row back and joins its tiles


@jax.custom_vjp
def winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 cross-correlation, stride 1, padding 1: [n, h, w, c_in] to [n, h, w, c_out].

    Args:
        images: [n, h, w, c_in], any float dtype; computed in float32 or wider.
        kernel: [3, 3, c_in, c_out], same dtype.
    """
    return _correlate(images, kernel)


def _forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return winograd(images, kernel), (images, kernel)


def _backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    return _gradients(images, kernel, cotangent)


winograd.defvjp(_forward, _backward)


# Axes in the einsums: a and b are products down and across, i and o the rows of a tile before and
# after a transform, s and t tiles across and down, q is (b, s), w the width, n images, c and d
# channels in and out (of any map in `_tiles` and `_untiled`). Axes are kept apart where possible,
# so that a batch sharded over devices stays sharded.


@jax.jit  # traced once for all layers and passes of one shape
def _correlate(images: jax.Array, kernel: jax.Array) -> jax.Array:
    cut = _cut(images)
    tiles = _tiles(cut.scheme.inputs, cut.scheme.padding, cut.inputs, images, cut)
    weights = _transform_kernel(cut.scheme.kernel, at_least_float32(kernel))
    products = jnp.einsum("abstnc,abcd->abstnd", tiles, weights)
    maps = _untiled(products, cut.scheme.outputs, 0, cut.outputs, cut)
    return maps[:, : images.shape[1]].astype(images.dtype)


@jax.jit
def _gradients(
    images: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The transposes of `_correlate`: of images and kernel, in their shapes and dtypes.

    They share the tiles of the output's gradient, and the tiles of the images and the transformed
    kernel with the forward pass, where XLA finds them, unless the batch is done in parts.

    Args:
        images: [n, h, w, c_in].
        kernel: [3, 3, c_in, c_out].
        cotangent: the output's gradient, [n, h, w, c_out].
    """
    cut = _cut(images)
    tiles = _tiles(cut.scheme.inputs, cut.scheme.padding, cut.inputs, images, cut)
    weights = _transform_kernel(cut.scheme.kernel, at_least_float32(kernel))
    output_tiles = _tiles(cut.scheme.outputs.T, 0, cut.outputs.T, cotangent, cut)
    products = jnp.einsum("abstnd,abcd->abstnc", output_tiles, weights)
    of_images = _untiled(products, cut.scheme.inputs.T, cut.scheme.padding, cut.inputs.T, cut)
    # Sum over one axis: for several, XLA would transpose (84 instead of 40 ms, 32x32x64).
    tiles, output_tiles = (x.reshape(*x.shape[:2], -1, x.shape[5]) for x in (tiles, output_tiles))
    products = jnp.einsum("abkc,abkd->abcd", tiles, output_tiles)
    of_kernel = _transform_kernel(cut.scheme.kernel.T, products)
    height = images.shape[1]
    return of_images[:, :height].astype(images.dtype), of_kernel.astype(kernel.dtype)


def _tiles(rows: Matrix, padding: int, columns: Matrix, images: jax.Array, cut: Cut) -> jax.Array:
    """The transformed tiles, [products down, products across, across, down, n, c].

    Args:
        rows: [products, rows of a tile], the vertical transform.
        padding: rows of zeros above the map.
        columns: [products * across, width], the horizontal transform.
        images: [n, h, w, c].
        cut: how maps of this size are cut.
    """
    window, step = rows.shape[1], cut.scheme.size
    last = step * (cut.down - 1)  # the last tile's first row
    below = last + window - padding - images.shape[1]
    padded = jnp.pad(at_least_float32(images), ((0, 0), (padding, below), (0, 0), (0, 0)))
    inputs = [padded[:, i : i + last + 1 : step].transpose(2, 1, 0, 3) for i in range(window)]
    down = jnp.einsum("ai,iwtnc->awtnc", jnp.asarray(rows, padded.dtype), jnp.stack(inputs))
    across = jnp.einsum("aqw,awtnc->aqtnc", _for_each(down, columns), down)
    return across.reshape(len(rows), -1, cut.across, *across.shape[2:])


def _untiled(
    products: jax.Array, rows: Matrix, padding: int, columns: Matrix, cut: Cut
) -> jax.Array:
    """The maps [n, rows of all tiles, w, c] from transformed tiles, the transpose of `_tiles`.

    Args:
        products: [products down, products across, across, down, n, c].
        rows: [rows of a tile, products], the vertical transform. A tile's rows beyond `cut`'s step
            are added to those of its neighbours.
        padding: how many of a tile's rows come before its own.
        columns: [width, products * across], the horizontal transform.
        cut: how maps of this size are cut.
    """
    across = products.reshape(len(products), -1, *products.shape[3:])
    across = jnp.einsum("awq,aqtnd->awtnd", _for_each(products, columns), across)
    down = jnp.einsum("oa,awtnd->owtnd", jnp.asarray(rows, across.dtype), across)
    step = cut.scheme.size
    own, before, after = down[padding : padding + step], down[:padding], down[padding + step :]
    if len(before):  # to the end of the tile above
        own += jnp.pad(before[:, :, 1:], ((step - len(before), 0), (0, 0), (0, 1), (0, 0), (0, 0)))
    if len(after):  # to the beginning of the tile below
        own += jnp.pad(after[:, :, :-1], ((0, step - len(after)), (0, 0), (1, 0), (0, 0), (0, 0)))
    n, channels = own.shape[3:]
    return own.transpose(3, 2, 0, 1, 4).reshape(n, -1, len(columns), channels)


def _for_each(products: jax.Array, matrix: Matrix) -> jax.Array:
    """The matrix, repeated along the leading axis of `products`, which avoids a transpose."""
    return jnp.broadcast_to(jnp.asarray(matrix, products.dtype), (len(products), *matrix.shape))


def _transform_kernel(matrix: Matrix, x: jax.Array) -> jax.Array:
    """Apply the matrix to both directions of a kernel: [i, i, c, d] to [a, a, c, d]."""
    both = jnp.asarray(np.kron(matrix, matrix), x.dtype) @ x.reshape(-1, x.shape[2] * x.shape[3])
    return both.reshape(len(matrix), len(matrix), *x.shape[2:])


def _cut(images: jax.Array) -> Cut:
    """How maps of the images' size are cut."""
    height, width = images.shape[1:3]
    scheme = WHOLE_MAP if max(height, width) <= 2 else F4
    products, across = len(scheme.kernel), -(-width // scheme.size)
    inputs = np.zeros((products, across, width))
    outputs = np.zeros((width, products, across))
    for tile in range(across):
        first = tile * scheme.size
        for pixel in range(scheme.inputs.shape[1]):
            at = first + pixel - scheme.padding
            if 0 <= at < width:
                inputs[:, tile, at] = scheme.inputs[:, pixel]
        for at in range(first, min(first + scheme.size, width)):
            outputs[at, :, tile] = scheme.outputs[at - first]
    return Cut(
        scheme,
        -(-height // scheme.size),
        across,
        inputs.reshape(-1, width),
        outputs.reshape(width, -1),
    )
