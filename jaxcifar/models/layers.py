"""Layers initialised and padded as torch's: convolution, BatchNorm, linear, dropout, pooling."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcifar.common.numbers import at_least_float32, is_zero
from jaxcifar.models.conv import Lowering, conv2d

Dtype = Any
# torchvision: nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch.nn.Linear.reset_parameters: kaiming_uniform_(a=sqrt(5)), that is U(-1, 1) / sqrt(fan_in)
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
BATCH_NORM_DECAY = 0.9  # torch's momentum 0.1; Flax's default of 0.99 is too slow for 39 steps
BATCH_NORM_EPSILON = 1e-5


class Conv(nn.Module):
    """Square convolution without bias; parameter `kernel` [k, k, c_in, c_out], float32."""

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    dtype: Dtype = jnp.float32
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", conv_init, shape, jnp.float32)
        y = conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            # The map is not looked at then, and this form is traced fastest.
            lowering="xla" if self.is_initializing() else self.lowering,
        )
        self.sow("intermediates", "output", y)
        return y


class BatchNorm(nn.Module):
    """torch's BatchNorm2d: statistics in float32, the running variance unbiased.

    `flax.linen.BatchNorm` keeps the biased variance in its running statistics; torch normalises
    with the biased one and keeps the unbiased one, which this module follows. Parameters `scale`
    and `bias`, statistics `mean` and `var`, each float32 [c].

    With `groups` above 1 a batch is normalised in so many equal parts, each by its own statistics
    ("ghost batches", Hoffer et al. 2017, arXiv:1705.08741); the running statistics move by the mean
    of theirs. Where each device holds whole parts of the batch they need no communication.

    With `axis_name` the batch is the one across that mapped axis. A module whose path lies at or
    below one of the names in `frozen` uses its running statistics in train mode, too, and leaves
    them as they are.
    """

    axis_name: str | None = None
    frozen: frozenset[str] = frozenset()
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train and not is_below(".".join(self.path), self.frozen):
            own, axis_name = self._groups(len(x))
            # [n, h, w, c], or [own, n / own, h, w, c] with statistics [own, 1, 1, 1, c].
            parts = x if own == 1 else x.reshape(own, -1, *x.shape[1:])
            mean, var, count = _batch_statistics(parts, axis_name, grouped=own > 1)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                running_mean.value = _blend(running_mean.value, self._over_groups(mean))
                running_var.value = _blend(running_var.value, self._over_groups(unbiased))
        else:
            parts, mean, var = x, running_mean.value, running_var.value
        slope = scale * lax.rsqrt(var + BATCH_NORM_EPSILON)
        y = (at_least_float32(parts) - mean) * slope + bias
        y = y.astype(x.dtype).reshape(x.shape)
        self.sow("intermediates", "output", y)
        return y

    def _groups(self, images: int) -> tuple[int, str | None]:
        """The groups among this device's images, and the axis if a group spans devices."""
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        if self.groups == 1:
            return 1, self.axis_name
        if self.groups % devices or images * devices % self.groups:
            raise ValueError(
                f"{self.groups} BatchNorm groups: they must divide the batch of "
                f"{images * devices} images evenly, and {devices} devices under pmap the groups"
            )
        return self.groups // devices, None

    def _over_groups(self, statistic: jax.Array) -> jax.Array:
        """The mean over all groups, [c], on this device and the others."""
        if self.groups == 1:
            return statistic
        mean = jnp.mean(statistic, tuple(range(statistic.ndim - 1)))
        return mean if self.axis_name is None else lax.pmean(mean, self.axis_name)


def _batch_statistics(
    x: jax.Array, axis_name: str | None, *, grouped: bool
) -> tuple[jax.Array, jax.Array, int]:
    """Mean, biased variance (float32 [c], of each group [g, 1, .., c]) and values per channel."""
    axes = tuple(range(1 if grouped else 0, x.ndim - 1))
    count = int(np.prod([x.shape[axis] for axis in axes]))
    wide = at_least_float32(x)
    mean = jnp.mean(wide, axes, keepdims=grouped)
    if axis_name is not None:
        mean = lax.pmean(mean, axis_name)
        count *= lax.axis_size(axis_name)
    if count < 2:
        raise ValueError(
            "BatchNorm needs more than one value per channel to train on; this batch is one "
            f"image with a map of {x.shape[-3]}x{x.shape[-2]}"
        )
    var = jnp.mean(jnp.square(wide - mean), axes, keepdims=grouped)
    if axis_name is not None:
        var = lax.pmean(var, axis_name)
    return mean, var, count


def is_below(name: str, modules: frozenset[str]) -> bool:
    """Whether the module `name` is one of `modules` or inside one."""
    words = name.split(".")
    return any(".".join(words[:i]) in modules for i in range(1, len(words) + 1))


def _blend(running: jax.Array, batch: jax.Array) -> jax.Array:
    return BATCH_NORM_DECAY * running + (1 - BATCH_NORM_DECAY) * lax.stop_gradient(batch)


class Linear(nn.Module):
    """torch's Linear: `kernel` [in, out] and `bias` [out], float32, torch's default init."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = x.shape[-1]
        bound = fan_in**-0.5
        kernel = self.param("kernel", linear_init, (fan_in, self.features), jnp.float32)
        bias = self.param("bias", _uniform_init(bound), (self.features,), jnp.float32)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)
        self.sow("intermediates", "output", y)
        return y


def _uniform_init(bound: float) -> Callable[..., jax.Array]:
    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dropout(nn.Module):
    """`flax.linen.Dropout` to the bit, but its rate may be traced: those of a sweep differ.

    With `axis_name` the draw is of the whole batch across that mapped axis, of which this device
    takes its rows: what is dropped does not depend on the number of devices.
    """

    rate: float | jax.Array
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or is_zero(self.rate):
            return x
        keep = 1.0 - self.rate
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        shape = (len(x) * devices, *x.shape[1:])
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        if self.axis_name is not None:
            first = lax.axis_index(self.axis_name) * len(x)
            kept = lax.dynamic_slice_in_dim(kept, first, len(x))
        # A traced float32 rate must not widen bfloat16.
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))


def max_pool(x: jax.Array) -> jax.Array:
    """Torch's MaxPool2d(3, stride=2, padding=1): [n, h, w, c] -> [n, ceil(h/2), ceil(w/2), c].

    Of equal values in a window the first gets the gradient, as in torch. On the CPU the gradient is
    our own (so without forward mode there): XLA's, by select and scatter, gives the same and took
    24 of a ResNet-18's 417 ms at 32x32, all threads together, in place of 10.
    """
    return _own_max_pool(x) if jax.default_backend() == "cpu" else _max_pool(x)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


_own_max_pool = jax.custom_vjp(_max_pool)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_pool(x)
    _, height, width, channels = x.shape
    _, rows, columns, _ = y.shape
    margins = ((0, 0), (1, 2 * rows - height), (1, 2 * columns - width), (0, 0))
    padded = jnp.pad(x, margins, constant_values=-jnp.inf)
    windows = [
        padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    # Not the place of what equals y: a compiler may compute x twice, with different rounding, and
    # then nothing does.
    largest, place = windows[0], jnp.zeros(y.shape, jnp.uint8)  # 3 * row + column
    for k, seen in enumerate(windows[1:], 1):
        place = jnp.where(seen > largest, jnp.uint8(k), place)
        largest = jnp.maximum(largest, seen)
    return y, (place, jnp.zeros((0, height, width, channels), x.dtype))


def _max_pool_backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array]:
    place, like = residuals
    n, rows, columns, channels = cotangent.shape
    _, height, width, _ = like.shape
    margins = ((0, 0), (0, 1), (0, 1), (0, 0))
    given, place = jnp.pad(cotangent, margins), jnp.pad(place, margins)

    def part(i: int, j: int) -> jax.Array:
        """What windows give to their pixel (i, j): for row and column 0, those one further on."""
        at = (slice(None), slice(i == 0, rows + (i == 0)), slice(j == 0, columns + (j == 0)))
        return jnp.where(place[at] == 3 * i + j, given[at], 0)

    # Pixels by the parity of their row and column; those between two windows get from both.
    upper = jnp.stack([part(1, 1), part(1, 2) + part(1, 0)], axis=3)
    lower = jnp.stack(
        [part(2, 1) + part(0, 1), part(2, 2) + part(2, 0) + part(0, 2) + part(0, 0)], axis=3
    )
    pixels = jnp.stack([upper, lower], axis=2).reshape(n, 2 * rows, 2 * columns, channels)
    return (pixels[:, :height, :width],)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean over the map in float32: [n, h, w, c] -> [n, c]."""
    return jnp.mean(at_least_float32(x), axis=(1, 2))


_PLAIN: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "maxpool": max_pool,
    "avgpool": average_pool,
}
