"""ResNet-18, 34 and 50 in linen, named, initialised and padded as torchvision's `resnet.py`.

Source: He et al. 2015 (arXiv:1512.03385) and torchvision/models/resnet.py (ResNet-50 is its "v1.5":
the stride sits in the 3x3 convolution). Modules carry torchvision's names, so that the parameter
`layer1.0.conv1.weight` there is `params["layer1"]["0"]["conv1"]["kernel"]` here.

Every module sows its output into the collection "intermediates" (as "output", and block ReLUs as
"relu1", "relu2", "relu"); it costs nothing unless that collection is mutable.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcifar.conv import Lowering, conv2d

Stem = Literal["imagenet", "cifar"]
Head = Literal["linear", "sequential"]
Dtype = Any

# torchvision: nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch.nn.Linear.reset_parameters: kaiming_uniform_(a=sqrt(5)), that is U(-1, 1) / sqrt(fan_in)
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

BATCH_NORM_DECAY = 0.9  # torch's momentum 0.1; Flax's default of 0.99 is too slow for 39 steps
BATCH_NORM_EPSILON = 1e-5
SEQUENTIAL_HIDDEN = 256  # width between the two linear layers of the sequential head


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
            lowering=self.lowering,
        )
        self.sow("intermediates", "output", y)
        return y


class BatchNorm(nn.Module):
    """torch's BatchNorm2d: statistics in float32, the running variance unbiased.

    `flax.linen.BatchNorm` keeps the biased variance in its running statistics; torch normalises
    with the biased one and keeps the unbiased one, which this module follows. Parameters `scale`
    and `bias`, statistics `mean` and `var`, each float32 [c].

    With `axis_name` the statistics are those of the batch across that mapped axis.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train:
            mean, var, count = self._batch_statistics(x)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                running_mean.value = _blend(running_mean.value, mean)
                running_var.value = _blend(running_var.value, unbiased)
        else:
            mean, var = running_mean.value, running_var.value
        slope = scale * lax.rsqrt(var + BATCH_NORM_EPSILON)
        y = (x.astype(jnp.float32) - mean) * slope + bias
        y = y.astype(x.dtype)
        self.sow("intermediates", "output", y)
        return y

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean, biased variance (each float32 [c]) and values per channel."""
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        wide = x.astype(jnp.float32)
        mean = jnp.mean(wide, axes)
        if self.axis_name is not None:
            mean = lax.pmean(mean, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        if count < 2:
            raise ValueError(
                "BatchNorm needs more than one value per channel to train on; this batch is one "
                f"image with a map of {x.shape[1]}x{x.shape[2]}"
            )
        var = jnp.mean(jnp.square(wide - mean), axes)
        if self.axis_name is not None:
            var = lax.pmean(var, self.axis_name)
        return mean, var, count


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


class SequentialHead(nn.Module):
    """`Sequential(Linear, ReLU, Dropout, Linear)`, children named "0" and "3" as torch would."""

    num_classes: int
    dropout_rate: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(Linear(SEQUENTIAL_HIDDEN, self.dtype, name="0")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = Linear(self.num_classes, self.dtype, name="3")(x)
        self.sow("intermediates", "output", x)
        return x


class Downsample(nn.Module):
    """The shortcut's projection: 1x1 convolution "0" and BatchNorm "1"."""

    features: int
    stride: int
    dtype: Dtype
    axis_name: str | None
    lowering: Lowering

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, 1, self.stride, dtype=self.dtype, lowering=self.lowering, name="0")(
            x
        )
        x = BatchNorm(self.axis_name, name="1")(x, train=train)
        self.sow("intermediates", "output", x)
        return x


class Block(nn.Module):
    """torchvision's BasicBlock (two 3x3) or Bottleneck (1x1, 3x3, 1x1 to four times the width)."""

    width: int
    stride: int
    bottleneck: bool
    dtype: Dtype
    axis_name: str | None
    lowering: Lowering

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        features = self.width * (4 if self.bottleneck else 1)
        # (features, kernel size, stride) of conv1, conv2, ...
        layers = [(self.width, 3, self.stride), (features, 3, 1)]
        if self.bottleneck:
            layers = [(self.width, 1, 1), (self.width, 3, self.stride), (features, 1, 1)]

        shortcut = x
        y = x
        for i, (out, size, stride) in enumerate(layers, start=1):
            y = Conv(out, size, stride, size // 2, self.dtype, self.lowering, name=f"conv{i}")(y)
            y = BatchNorm(self.axis_name, name=f"bn{i}")(y, train=train)
            if i < len(layers):
                y = nn.relu(y)
                self.sow("intermediates", f"relu{i}", y)
        if self.stride != 1 or x.shape[-1] != features:
            shortcut = Downsample(
                features,
                self.stride,
                self.dtype,
                self.axis_name,
                self.lowering,
                name="downsample",
            )(x, train=train)
        y = nn.relu(y + shortcut)
        self.sow("intermediates", "output", y)
        return y


class Stage(nn.Module):
    """A run of blocks, "0", "1", ...; the first one has the stride."""

    depth: int
    width: int
    stride: int
    bottleneck: bool
    dtype: Dtype
    axis_name: str | None
    lowering: Lowering

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.depth):
            x = Block(
                self.width,
                self.stride if i == 0 else 1,
                self.bottleneck,
                self.dtype,
                self.axis_name,
                self.lowering,
                name=str(i),
            )(x, train=train)
        self.sow("intermediates", "output", x)
        return x


class ResNet(nn.Module):
    """A residual network: ``(images [n, h, w, 3], *, train) -> logits [n, classes]``.

    Images are floats, already normalised; logits are float32 whatever the compute dtype. In train
    mode the collection "batch_stats" must be mutable, and dropout above 0 needs the rng "dropout".

    Attributes:
        stage_sizes: blocks in layer1, layer2, ...; each stage after the first halves the map.
        bottleneck: three-layer blocks (ResNet-50) instead of two-layer ones.
        num_classes: length of the logits.
        width: channels of the first stage; doubles every stage.
        stem: "imagenet" is a 7x7 stride-2 convolution and a 3x3 stride-2 max-pool; "cifar" is a 3x3
            stride-1 convolution without pooling, which keeps a 32x32 image at 32x32.
        head: "linear" is dropout then `fc`; "sequential" is Linear, ReLU, dropout, Linear.
        dropout_rate: in [0, 1).
        dtype: of the computation (float32 or bfloat16); parameters and statistics stay float32.
        axis_name: mapped axis over which BatchNorm takes its statistics, under pmap.
        lowering: of the convolutions, see `conv.conv2d`.
    """

    stage_sizes: tuple[int, ...]
    bottleneck: bool = False
    num_classes: int = 10
    width: int = 64
    stem: Stem = "imagenet"
    head: Head = "linear"
    dropout_rate: float = 0.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.astype(self.dtype)
        size, stride, padding = (7, 2, 3) if self.stem == "imagenet" else (3, 1, 1)
        x = Conv(self.width, size, stride, padding, self.dtype, self.lowering, name="conv1")(x)
        x = BatchNorm(self.axis_name, name="bn1")(x, train=train)
        x = nn.relu(x)
        self.sow("intermediates", "relu", x)
        if self.stem == "imagenet":
            x = max_pool(x)
            self.sow("intermediates", "maxpool", x)
        for i, depth in enumerate(self.stage_sizes):
            x = Stage(
                depth,
                self.width * 2**i,
                1 if i == 0 else 2,
                self.bottleneck,
                self.dtype,
                self.axis_name,
                self.lowering,
                name=f"layer{i + 1}",
            )(x, train=train)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        self.sow("intermediates", "avgpool", x)
        if self.head == "sequential":
            logits = SequentialHead(self.num_classes, self.dropout_rate, self.dtype, name="fc")(
                x, train=train
            )
        else:
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            logits = Linear(self.num_classes, self.dtype, name="fc")(x)
        return logits.astype(jnp.float32)


def max_pool(x: jax.Array) -> jax.Array:
    """Torch's MaxPool2d(3, stride=2, padding=1): [n, h, w, c] -> [n, ceil(h/2), ceil(w/2), c]."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": {"stage_sizes": (2, 2, 2, 2), "bottleneck": False},
    "resnet34": {"stage_sizes": (3, 4, 6, 3), "bottleneck": False},
    "resnet50": {"stage_sizes": (3, 4, 6, 3), "bottleneck": True},
}


class ResNetOptions(TypedDict, total=False):
    """What of a `ResNet` is chosen besides its architecture; see there."""

    width: int
    stem: Stem
    head: Head
    dropout_rate: float
    dtype: Dtype
    axis_name: str | None
    lowering: Lowering


def make_resnet(
    architecture: str, num_classes: int = 10, **options: Unpack[ResNetOptions]
) -> ResNet:
    """Build one of `ARCHITECTURES`; `options` are `ResNet`'s attributes.

    Raises:
        ValueError: unknown architecture, stem or head, a dropout rate outside [0, 1), or a dtype
            that is neither float32, bfloat16 nor (for tests) float64.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}"
        )
    return _checked(ResNet(num_classes=num_classes, **ARCHITECTURES[architecture], **options))


def resnet18(num_classes: int = 10, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18; 11,181,642 parameters with 10 classes and the ImageNet stem."""
    return make_resnet("resnet18", num_classes, **options)


def resnet34(num_classes: int = 10, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34."""
    return make_resnet("resnet34", num_classes, **options)


def resnet50(num_classes: int = 10, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50 (torchvision's v1.5)."""
    return make_resnet("resnet50", num_classes, **options)


def _checked(model: ResNet) -> ResNet:
    for name, value, choices in (
        ("stem", model.stem, get_args(Stem)),
        ("head", model.head, get_args(Head)),
        ("lowering", model.lowering, get_args(Lowering)),
        ("dtype", jnp.dtype(model.dtype).name, ("float32", "bfloat16", "float64")),
    ):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
    if not 0.0 <= model.dropout_rate < 1.0:
        raise ValueError(f"dropout_rate must lie in [0, 1), not {model.dropout_rate}")
    if model.num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {model.num_classes}")
    return model
