"""Layers with parameters initialised as in PyTorch: convolution, BatchNorm, linear; and dropout."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcifar.common.numbers import is_zero
from jaxcifar.models.conv import Lowering, conv2d
from jaxcifar.models.names import is_below
from jaxcifar.models.normalization import Over, normalize, normalize_batch

Dtype = Any
# torchvision: nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch.nn.Linear.reset_parameters: kaiming_uniform_(a=sqrt(5)), which is U(-1, 1) / sqrt(fan_in)
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# The default: torch's momentum of 0.1. Flax's default of 0.99 is too slow for 39 steps.
BATCH_NORM_DECAY = 0.9


class Conv(nn.Module):
    """Square convolution without bias; its parameter `kernel` is float32 [k, k, c_in, c_out]."""

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
            # The output is not used while initialising, and this form traces fastest.
            lowering="xla" if self.is_initializing() else self.lowering,
        )
        self.sow("intermediates", "output", y)
        return y


class BatchNorm(nn.Module):
    """BatchNorm as torch's BatchNorm2d: float32 statistics, an unbiased running variance.

    torch normalises with the biased variance and stores the unbiased one, and so does this module;
    `flax.linen.BatchNorm` stores the biased one. The parameters `scale` and `bias` and the
    statistics `mean` and `var` are float32 [c].

    Attributes:
        axis_name: mapped axis over which a batch is divided; statistics are of the whole batch. The
            gradient has to be taken inside of the axis, see `normalization.normalize_batch`.
        frozen: modules whose BatchNorms, at or below them, use their running statistics in train
            mode too, and never update them.
        groups: equal parts of a batch, each normalised by its own statistics ("ghost batches",
            Hoffer et al. 2017, arXiv:1705.08741); the running statistics are updated by the mean
            over the parts. If each device holds whole parts, no communication is needed.
        decay: of the running statistics in each training step, in [0, 1); torch's momentum is
            1 - decay.
    """

    axis_name: str | None = None
    frozen: frozenset[str] = frozenset()
    groups: int = 1
    decay: float = BATCH_NORM_DECAY

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
            over = Over(axis_name, grouped=own > 1)
            y, mean, var = normalize_batch(parts, scale, bias, running_mean.value, over)
            if not self.is_initializing():
                count = over.count(parts)
                unbiased = var * (count / (count - 1))
                running_mean.value = self._blend(running_mean.value, self._over_groups(mean))
                running_var.value = self._blend(running_var.value, self._over_groups(unbiased))
        else:
            y = normalize(x, running_mean.value, running_var.value, scale, bias)
        y = y.reshape(x.shape)
        self.sow("intermediates", "output", y)
        return y

    def _groups(self, images: int) -> tuple[int, str | None]:
        """The number of groups on this device, and the mapped axis if a group spans devices."""
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        if self.groups == 1:
            return 1, self.axis_name
        if self.groups % devices or images * devices % self.groups:
            raise ValueError(
                f"{self.groups} BatchNorm groups must divide the batch of {images * devices} "
                f"images evenly, and must be a multiple of the {devices} devices under pmap"
            )
        return self.groups // devices, None

    def _over_groups(self, statistic: jax.Array) -> jax.Array:
        """The mean over all groups on all devices, [c]."""
        if self.groups == 1:
            return statistic
        mean = jnp.mean(statistic, tuple(range(statistic.ndim - 1)))
        return mean if self.axis_name is None else lax.pmean(mean, self.axis_name)

    def _blend(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        return self.decay * running + (1 - self.decay) * batch


class Linear(nn.Module):
    """torch's Linear with its default init: `kernel` [in, out] and `bias` [out], float32."""

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
    """`flax.linen.Dropout`, bit for bit, but with a rate that may be traced, as in a sweep.

    With `axis_name`, the mask is drawn for the whole batch across that mapped axis, and each device
    takes its own rows. So the mask does not depend on the number of devices.
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
