"""The arithmetic of BatchNorm: the batch's statistics, the normalisation and its gradient.

BatchNorm is bound by memory, so every pass over a map counts. Its gradient is written out: its sums
and its result read the same two maps. On an accelerator one pass takes both statistics, which with
that gradient saves 1.5 of 12.7 GB of a ResNet-18's step (CIFAR stem, batch 512, bfloat16;
`benchmarks.gpu_program`). On a CPU, and in float64, the variance has a pass of its own.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcifar.common.numbers import at_least_float32
from jaxcifar.common.target import target_platform

EPSILON = 1e-5  # torch's


class Over(NamedTuple):
    """What statistics are taken over.

    Attributes:
        axis_name: mapped axis over which the batch is divided, under pmap.
        grouped: each of the first axis has statistics of its own.
    """

    axis_name: str | None
    grouped: bool

    def mean(self, values: jax.Array) -> jax.Array:
        """Per channel: [c], or [g, 1, .., c] if grouped; over all devices."""
        mean = jnp.mean(values, self._axes(values), keepdims=self.grouped)
        return mean if self.axis_name is None else lax.pmean(mean, self.axis_name)

    def count(self, x: jax.Array) -> int:
        """The values per channel, on all devices."""
        own = int(np.prod([x.shape[axis] for axis in self._axes(x)]))
        return own if self.axis_name is None else own * lax.axis_size(self.axis_name)

    def _axes(self, x: jax.Array) -> tuple[int, ...]:
        return tuple(range(1 if self.grouped else 0, x.ndim - 1))


def normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` in x's dtype.

    It is computed in float32 or wider.
    """
    slope = scale * lax.rsqrt(var + EPSILON)
    return ((at_least_float32(x) - mean) * slope + bias).astype(x.dtype)


def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, near: jax.Array, over: Over
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise a batch by its own statistics.

    The gradient is our own, which excludes forward mode (`jax.jvp`). Over a mapped axis it has to
    be taken inside of the axis, as in ``jax.vmap(jax.grad(f), axis_name=...)``; taken outside, JAX
    reports an unbound axis name.

    Args:
        x: [n, h, w, c], or [g, n / g, h, w, c] if grouped; any float dtype.
        scale: float32 [c].
        bias: float32 [c].
        near: [c], such as the running mean; it has no gradient. In one pass the sums are of the
            distances to it. Where it is within a few standard deviations of the mean, no digits
            cancel. Before the running mean has come near, they do: with 0, a mean of 30 and a
            variance of 1e-4, the variance came out as 0.
        over: what the statistics are taken over.

    Returns:
        The normalised batch in x's shape and dtype; the mean and the biased variance, float32 [c],
        or [g, 1, .., c] if grouped, without a gradient.

    Raises:
        ValueError: there is a single value per channel.
    """
    if over.count(x) < 2:
        raise ValueError(
            "BatchNorm needs more than one value per channel to train on; this batch is one "
            f"image with a {x.shape[-3]}x{x.shape[-2]} map: use more or larger images"
        )
    return _normalize_batch(x, scale, bias, near, over)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, near: jax.Array, over: Over
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`normalize_batch` without its check."""
    wide = at_least_float32(x)
    if target_platform() == "cpu" or wide.dtype == jnp.float64:
        mean = over.mean(wide)
        var = over.mean(jnp.square(wide - mean))
    else:
        distance = wide - near
        mean, square = over.mean(distance), over.mean(jnp.square(distance))
        # Rounding leaves the variance a little below zero where all values are alike.
        var = jnp.maximum(square - jnp.square(mean), 0.0)
        mean = mean + near
    return normalize(x, mean, var, scale, bias), mean, var


Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, near: jax.Array, over: Over
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Residuals]:
    y, mean, var = _normalize_batch(x, scale, bias, near, over)
    return (y, mean, var), (x, scale, mean, var)


def _backward(
    over: Over, residuals: Residuals, cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    """The textbook gradient (Ioffe and Szegedy 2015, arXiv:1502.03167, section 3).

    It does not read `near`: otherwise XLA copies every running mean in every step, because the new
    one is there before the old one is read.
    """
    x, scale, mean, var = residuals
    gradient = at_least_float32(cotangents[0])
    deviation = lax.rsqrt(var + EPSILON)
    normalized = (at_least_float32(x) - mean) * deviation
    own = over._replace(axis_name=None)
    of_bias, of_scale = own.mean(gradient), own.mean(gradient * normalized)
    batch_bias, batch_scale = of_bias, of_scale
    if over.axis_name is not None:
        batch_bias, batch_scale = lax.pmean((of_bias, of_scale), over.axis_name)
    of_x = scale * deviation * (gradient - batch_bias - normalized * batch_scale)
    groups = tuple(range(of_bias.ndim - 1))
    of_bias, of_scale = (
        (own.count(x) * jnp.sum(of, groups)).astype(scale.dtype) for of in (of_bias, of_scale)
    )
    return of_x.astype(x.dtype), of_scale, of_bias, None


_normalize_batch.defvjp(_forward, _backward)


def relu_of_sum(y: jax.Array, shortcut: jax.Array) -> jax.Array:
    """``relu(y + shortcut)``, the end of a residual block.

    The gradient passes where the result is positive. On accelerators it reads that from the result,
    which the next convolution keeps anyway; JAX's own adds both maps up again (0.25 GB a step).
    """
    return nn.relu(y + shortcut) if target_platform() == "cpu" else _relu_of_sum(y, shortcut)


@jax.custom_vjp
def _relu_of_sum(y: jax.Array, shortcut: jax.Array) -> jax.Array:
    return nn.relu(y + shortcut)


def _relu_forward(y: jax.Array, shortcut: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = lax.optimization_barrier(_relu_of_sum(y, shortcut))
    return result, result


def _relu_backward(result: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    gradient = jnp.where(result > 0, cotangent, jnp.zeros_like(cotangent))
    return gradient, gradient


_relu_of_sum.defvjp(_relu_forward, _relu_backward)
