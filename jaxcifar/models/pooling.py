"""Pooling as in PyTorch, with an own gradient of max pooling."""

import jax
import jax.numpy as jnp

from jaxcifar.common.numbers import at_least_float32


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """PyTorch's MaxPool2d(3, stride=2, padding=1): [n, h, w, c] -> [n, ceil(h/2), ceil(w/2), c].

    If values in a window are equal, the first gets the gradient, as in torch. The gradient is our
    own, which excludes forward mode. XLA's select-and-scatter gives the same numbers, but on a CPU
    it took 24 of a ResNet-18's 417 ms at 32x32, instead of 10 (all threads together), and on a GPU
    it adds with atomic operations, whose order, and so the last bits, change from run to run.
    """
    return _max_pool_forward(x)[0]


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    _, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    margins = ((0, 0), (1, 2 * rows - height), (1, 2 * columns - width), (0, 0))
    padded = jnp.pad(x, margins, constant_values=-jnp.inf)
    windows = [
        padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    # One pass over x. XLA's reduce-window has no position, and one found by comparing with its
    # result may not be there: the compiler may compute x twice with different rounding.
    largest, position = windows[0], jnp.zeros(windows[0].shape, jnp.uint8)  # 3 * row + column
    for k, window in enumerate(windows[1:], 1):
        position = jnp.where(window > largest, jnp.uint8(k), position)
        largest = jnp.maximum(largest, window)
    return largest, (position, jnp.zeros((0, height, width, channels), x.dtype))


def _max_pool_backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array]:
    position, like = residuals
    n, rows, columns, channels = cotangent.shape
    _, height, width, _ = like.shape
    margins = ((0, 0), (0, 1), (0, 1), (0, 0))
    gradient, position = jnp.pad(cotangent, margins), jnp.pad(position, margins)

    def part(i: int, j: int) -> jax.Array:
        """The gradient of each window's pixel (i, j); row or column 0 takes the next window's."""
        at = (slice(None), slice(i == 0, rows + (i == 0)), slice(j == 0, columns + (j == 0)))
        return jnp.where(position[at] == 3 * i + j, gradient[at], 0)

    # Pixels by the parity of their row and column; a pixel in two windows sums both gradients.
    upper = jnp.stack([part(1, 1), part(1, 2) + part(1, 0)], axis=3)
    lower = jnp.stack(
        [part(2, 1) + part(0, 1), part(2, 2) + part(2, 0) + part(0, 2) + part(0, 0)], axis=3
    )
    pixels = jnp.stack([upper, lower], axis=2).reshape(n, 2 * rows, 2 * columns, channels)
    return (pixels[:, :height, :width],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array) -> jax.Array:
    """The mean over the map, in float32: [n, h, w, c] -> [n, c]."""
    return jnp.mean(at_least_float32(x), axis=(1, 2))
