"""3x3 convolutions with fewer multiplications, for processors.

A map is cut into tiles; each tile and the kernel are transformed, multiplied position by position
(one batched matrix product over tiles and channels), and transformed back: Winograd's minimal
filtering in two dimensions, Lavin and Gray 2016 (arXiv:1509.09308). Two schemes:

* F(4x4, 3x3), tiles of 6x6 pixels that overlap by two: 36 products for 16 outputs in place of 144.
  In float32 its rounding error is about ten times that of the plain sum: at most 1e-5 of the
  largest output on random maps of 64 to 256 channels.
* For maps of up to 2x2, of which the kernel sees every pixel at once: 9 products for 4 outputs in
  place of 16 (a 2x2 Toeplitz matrix takes three multiplications per direction).

The transforms are products with small constant matrices, too: as sums of slices they took longer
(32x32x64 maps: 133 ms against 112), and so did tiles of 4x4 (259 against 163, before chunks).

What a map passes through is 2.25 times its size or more: `conv` takes large batches in parts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray


class Scheme(NamedTuple):
    """Tiles of `size` outputs a side, seen through `padding` more pixels on the left and top.

    ``outputs @ ((kernel @ w) * (inputs @ x))`` is the correlation of x with the three taps w.
    """

    size: int
    padding: int
    inputs: NDArray[np.float64]  # [products, pixels of a tile's input]
    kernel: NDArray[np.float64]  # [products, 3]
    outputs: NDArray[np.float64]  # [size, products]


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
    # The input's gradient is the correlation with the kernel turned by 180 degrees.
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    return _correlate(cotangent, turned), _correlate_images(images, cotangent)


winograd.defvjp(_forward, _backward)


def _correlate(images: jax.Array, kernel: jax.Array) -> jax.Array:
    n, height, width, _ = images.shape
    scheme = _scheme(images)
    transformed = _products(scheme.kernel, _wide(kernel).reshape(9, -1))
    weights = transformed.reshape(-1, *kernel.shape[2:])
    tiles = _input_tiles(_wide(images), scheme)
    products = lax.dot_general(tiles, weights, (((2,), (1,)), ((0,), (0,))))
    outputs = _products(scheme.outputs, products.reshape(len(products), -1))
    shape = (n, height, width, kernel.shape[3])
    return _joined(outputs, shape, scheme.size).astype(images.dtype)


def _correlate_images(images: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The kernel's gradient [3, 3, c_in, c_out]: tiles of the images times tiles of the output."""
    scheme = _scheme(images)
    tiles = _input_tiles(_wide(images), scheme)
    outputs = _products(scheme.outputs.T, _cut(_wide(cotangent), scheme.size))
    cut = outputs.reshape(len(tiles), -1, cotangent.shape[3])
    products = lax.dot_general(tiles, cut, (((1,), (1,)), ((0,), (0,))))
    gradient = _products(scheme.kernel.T, products.reshape(len(products), -1))
    return gradient.reshape(3, 3, *products.shape[1:]).astype(images.dtype)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def tile_size(height: int, width: int) -> int:
    """Outputs of a tile in each direction, for maps of that size."""
    return 2 if max(height, width) <= 2 else 4


def _scheme(images: jax.Array) -> Scheme:
    return WHOLE_MAP if tile_size(*images.shape[1:3]) == 2 else F4


def _products(matrix: NDArray[np.float64], x: jax.Array) -> jax.Array:
    """The transform of both directions: [a, b] twice on [b * b, k] gives [a * a, k]."""
    return jnp.asarray(np.kron(matrix, matrix), x.dtype) @ x


def _input_tiles(images: jax.Array, scheme: Scheme) -> jax.Array:
    """Transformed tiles of the input: [products, n * tiles, c]."""
    size, side = scheme.size, scheme.inputs.shape[1]
    _, height, width, channels = images.shape
    rows, columns = -(-height // size), -(-width // size)

    def margins(length: int, tiles: int) -> tuple[int, int]:
        return scheme.padding, (tiles - 1) * size + side - length - scheme.padding

    padded = jnp.pad(images, ((0, 0), margins(height, rows), margins(width, columns), (0, 0)))

    def seen(i: int, j: int) -> jax.Array:
        """The pixel (i, j) of every tile."""
        down = slice(i, i + size * (rows - 1) + 1, size)
        across = slice(j, j + size * (columns - 1) + 1, size)
        return padded[:, down, across]

    pixels = jnp.stack([seen(i, j) for i in range(side) for j in range(side)])
    transformed = _products(scheme.inputs, pixels.reshape(side * side, -1))
    return transformed.reshape(len(transformed), -1, channels)


def _cut(outputs: jax.Array, size: int) -> jax.Array:
    """[n, h, w, c] to its tiles' pixels, [size * size, n * tiles * c]."""
    _, height, width, _ = outputs.shape
    margins = ((0, 0), (0, -height % size), (0, -width % size), (0, 0))
    padded = jnp.pad(outputs, margins)
    # Not as one transposition, which took 50 ms in place of 14 for 32x32x64 maps.
    pixels = [padded[:, i::size, j::size] for i in range(size) for j in range(size)]
    return jnp.stack(pixels).reshape(size * size, -1)


def _joined(pixels: jax.Array, shape: tuple[int, int, int, int], size: int) -> jax.Array:
    """What `_cut` makes of an array of this shape, put together again."""
    n, height, width, channels = shape
    rows, columns = -(-height // size), -(-width // size)
    tiles = pixels.reshape(size, size, n, rows, columns, channels).transpose(2, 3, 0, 4, 1, 5)
    return tiles.reshape(n, rows * size, columns * size, channels)[:, :height, :width]
