"""3x3 convolutions with fewer multiplications, for processors.

A map is cut into tiles; each tile and the kernel are transformed, multiplied position by position
(one batched matrix product over tiles and channels), and transformed back: Winograd's minimal
filtering in two dimensions, Lavin and Gray 2016 (arXiv:1509.09308). Two schemes:

* F(4x4, 3x3), tiles of 6x6 pixels that overlap by two: 36 products for 16 outputs in place of 144.
  In float32 its rounding error is about ten times that of the plain sum: about 1e-5 of the
  largest output on random maps of 64 to 256 channels.
* For maps of up to 2x2, of which the kernel sees every pixel at once: 9 products for 4 outputs in
  place of 16 (a 2x2 Toeplitz matrix takes three multiplications per direction).

Cutting, padding and transforming are one product with a banded constant matrix in each direction.
Tiles cut out as 36 slices made a step of ResNet-18 no faster with the ImageNet stem (215 against
234, 244 against 245 ms in two runs), 5 to 10 % faster with the CIFAR stem, and took twice as long
to compile. The images lie innermost but for the channels, so that the products are long.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from jaxcifar.precision import widened

Matrix = NDArray[np.float64]


class Scheme(NamedTuple):
    """Tiles of `size` outputs, seen through `padding` more pixels at the beginning.

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


class Axis(NamedTuple):
    """A scheme along an axis of a map, all tiles at once; products are [product, tile]."""

    products: int
    tiles: int
    inputs: Matrix  # [products * tiles, length]
    outputs: Matrix  # [length, products * tiles]


@jax.custom_vjp
def winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 cross-correlation, stride 1, padding 1: [n, h, w, c_in] to [n, h, w, c_out].

    Args:
        images: [n, h, w, c_in], any float dtype; what is narrower than float32 is computed in it.
        kernel: [3, 3, c_in, c_out], same dtype.
    """
    return _correlate(images, kernel)


def _forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return winograd(images, kernel), (images, kernel)


def _backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    return _correlate(cotangent, turned(kernel)), _correlate_images(images, cotangent)


winograd.defvjp(_forward, _backward)


def turned(kernel: jax.Array) -> jax.Array:
    """The kernel [k, k, c_out, c_in] with which a stride of 1's input gradient is a correlation."""
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


def _correlate(images: jax.Array, kernel: jax.Array) -> jax.Array:
    scheme, down, across = _scheme(images)
    tiles = _tiles(down.inputs, across.inputs, images, down, across)
    weights = _products(scheme.kernel, widened(kernel).reshape(9, -1))
    weights = weights.reshape(down.products, 1, across.products, *kernel.shape[2:])
    weights = jnp.broadcast_to(weights, (*tiles.shape[:3], *kernel.shape[2:]))
    products = lax.dot_general(tiles, weights, (((4,), (3,)), ((0, 1, 2), (0, 1, 2))))
    products = products.reshape(len(down.inputs), len(across.inputs), -1)
    outputs = _in_both_directions(down.outputs, across.outputs, products)
    outputs = outputs.reshape(*images.shape[1:3], len(images), kernel.shape[3])
    return outputs.transpose(2, 0, 1, 3).astype(images.dtype)


def _correlate_images(images: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The kernel's gradient [3, 3, c_in, c_out]: tiles of the images times tiles of the output."""
    scheme, down, across = _scheme(images)
    tiles = _tiles(down.inputs, across.inputs, images, down, across)
    of_output = _tiles(down.outputs.T, across.outputs.T, cotangent, down, across)
    products = lax.dot_general(tiles, of_output, (((3,), (3,)), ((0, 1, 2), (0, 1, 2))))
    products = jnp.sum(products, axis=1)  # over the tiles down; those across are in the product
    gradient = _products(scheme.kernel.T, products.reshape(down.products * across.products, -1))
    return gradient.reshape(3, 3, *products.shape[2:]).astype(images.dtype)


def _tiles(rows: Matrix, columns: Matrix, images: jax.Array, down: Axis, across: Axis) -> jax.Array:
    """Transformed tiles, [products down, tiles down, products across, tiles across * n, c]."""
    n, height, width, channels = images.shape
    innermost = widened(images).transpose(1, 2, 0, 3).reshape(height, width, -1)
    products = _in_both_directions(rows, columns, innermost)
    return products.reshape(down.products, down.tiles, across.products, across.tiles * n, channels)


def _in_both_directions(rows: Matrix, columns: Matrix, x: jax.Array) -> jax.Array:
    """Matrices [a, h] and [b, w] on [h, w, k]: [a, b, k]."""
    height, width, numbers = x.shape
    down = jnp.asarray(rows, x.dtype) @ x.reshape(height, -1)
    across = jnp.broadcast_to(jnp.asarray(columns, x.dtype), (len(rows), *columns.shape))
    return lax.batch_matmul(across, down.reshape(len(rows), width, numbers))


def _products(matrix: Matrix, x: jax.Array) -> jax.Array:
    """A transform of both directions of a kernel: [a, b] twice on [b * b, k] gives [a * a, k]."""
    return jnp.asarray(np.kron(matrix, matrix), x.dtype) @ x


def _scheme(images: jax.Array) -> tuple[Scheme, Axis, Axis]:
    """The scheme for maps of that size, along their height and their width."""
    height, width = images.shape[1:3]
    scheme = WHOLE_MAP if max(height, width) <= 2 else F4
    return scheme, _axis(scheme, height), _axis(scheme, width)


def _axis(scheme: Scheme, length: int) -> Axis:
    products, tiles = len(scheme.kernel), -(-length // scheme.size)
    inputs = np.zeros((products, tiles, length))
    outputs = np.zeros((length, products, tiles))
    for tile in range(tiles):
        first = tile * scheme.size
        for pixel in range(scheme.inputs.shape[1]):
            at = first + pixel - scheme.padding
            if 0 <= at < length:
                inputs[:, tile, at] = scheme.inputs[:, pixel]
        for at in range(first, min(first + scheme.size, length)):
            outputs[at, :, tile] = scheme.outputs[at - first]
    return Axis(products, tiles, inputs.reshape(-1, length), outputs.reshape(length, -1))
