"""ResNet-18, 34 and 50 in linen, named, initialised and padded as torchvision's `resnet.py`.

Source: He et al. 2015 (arXiv:1512.03385) and torchvision/models/resnet.py (ResNet-50 is its "v1.5":
the stride sits in the 3x3 convolution). Modules carry torchvision's names, so that the parameter
`layer1.0.conv1.weight` there is `params["layer1"]["0"]["conv1"]["kernel"]` here.

Every module sows its output into the collection "intermediates" (as "output", and block ReLUs as
"relu1", "relu2", "relu"); it costs nothing unless that collection is mutable.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcifar.conv import Lowering, conv2d
from jaxcifar.precision import widened
from jaxcifar.traced import is_zero

Stem = Literal["imagenet", "cifar"]
Head = Literal["linear", "sequential"]
Dtype = Any
ModuleDef = Any  # a module class with some of its attributes set

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
        y = (widened(parts) - mean) * slope + bias
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
    wide = widened(x)
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


class SequentialHead(nn.Module):
    """`Sequential(Linear, ReLU, Dropout, Linear)`, children named "0" and "3" as torch would."""

    num_classes: int
    dropout_rate: float
    dtype: Dtype
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(Linear(SEQUENTIAL_HIDDEN, self.dtype, name="0")(x))
        x = Dropout(self.dropout_rate, self.axis_name)(x, train=train)
        x = Linear(self.num_classes, self.dtype, name="3")(x)
        self.sow("intermediates", "output", x)
        return x


class Downsample(nn.Module):
    """The shortcut's projection: 1x1 convolution "0" and BatchNorm "1"."""

    features: int
    stride: int
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(self.features, 1, self.stride, name="0")(x)
        x = self.norm(name="1")(x, train=train)
        self.sow("intermediates", "output", x)
        return x


class Block(nn.Module):
    """torchvision's BasicBlock (two 3x3) or Bottleneck (1x1, 3x3, 1x1 to four times the width)."""

    width: int
    stride: int
    bottleneck: bool
    conv: ModuleDef
    norm: ModuleDef

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
            y = self.conv(out, size, stride, size // 2, name=f"conv{i}")(y)
            y = self.norm(name=f"bn{i}")(y, train=train)
            if i < len(layers):
                y = nn.relu(y)
                self.sow("intermediates", f"relu{i}", y)
        if self.stride != 1 or x.shape[-1] != features:
            shortcut = Downsample(features, self.stride, self.conv, self.norm, name="downsample")(
                x, train=train
            )
        y = nn.relu(y + shortcut)
        self.sow("intermediates", "output", y)
        return y


class Stage(nn.Module):
    """A run of blocks, "0", "1", ...; the first one has the stride."""

    depth: int
    width: int
    stride: int
    bottleneck: bool
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.depth):
            x = Block(
                self.width,
                self.stride if i == 0 else 1,
                self.bottleneck,
                self.conv,
                self.norm,
                name=str(i),
            )(x, train=train)
        self.sow("intermediates", "output", x)
        return x


class ResNet(nn.Module):
    """A residual network: ``(images [n, h, w, 3], *, train) -> logits [n, classes]``.

    Images are floats, already normalised; logits are float32 whatever the compute dtype. In train
    mode the collection "batch_stats" must be mutable, and dropout above 0 needs the rng "dropout".

    The network can be cut between its `children`: ``stop="layer1"`` returns what layer1 puts out,
    and ``start="layer1"`` takes that in place of images and runs what comes after.

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
        axis_name: mapped axis over which a batch is divided, under pmap.
        batch_norm_groups: equal parts of a batch, each normalised by its own statistics.
        lowering: of the convolutions, see `conv.conv2d`.
        frozen: modules ("bn1", "layer1") whose BatchNorms run on their stored statistics in train
            mode, too, and never move them; see `partition.frozen_batch_norms`.
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
    frozen: frozenset[str] = frozenset()
    batch_norm_groups: int = 1

    @property
    def children(self) -> tuple[str, ...]:
        """Torchvision's names of the network's children, in the order they run."""
        pool = ("maxpool",) if self.stem == "imagenet" else ()
        stages = (f"layer{i + 1}" for i in range(len(self.stage_sizes)))
        return ("conv1", "bn1", "relu", *pool, *stages, "avgpool", "fc")

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        start: str | None = None,
        stop: str | None = None,
    ) -> jax.Array:
        conv = partial(Conv, dtype=self.dtype, lowering=self.lowering)
        frozen = frozenset(".".join((*self.path, name)) for name in self.frozen)
        norm = partial(BatchNorm, self.axis_name, frozen, self.batch_norm_groups)
        x = images
        for child in self._between(start, stop):
            if child == "conv1":
                size, stride, padding = (7, 2, 3) if self.stem == "imagenet" else (3, 1, 1)
                x = conv(self.width, size, stride, padding, name="conv1")(x)
            elif child == "bn1":
                x = norm(name="bn1")(x, train=train)
            elif child == "fc":
                x = self._head(x, train=train)
            elif child.startswith("layer"):
                i = int(child.removeprefix("layer")) - 1
                width, stride = self.width * 2**i, 1 if i == 0 else 2
                stage = Stage(
                    self.stage_sizes[i], width, stride, self.bottleneck, conv, norm, name=child
                )
                x = stage(x, train=train)
            else:
                x = _PLAIN[child](x)
                self.sow("intermediates", child, x)
        return x

    def _head(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.head == "sequential":
            head = SequentialHead(
                self.num_classes, self.dropout_rate, self.dtype, self.axis_name, name="fc"
            )
            return widened(head(x, train=train))
        x = Dropout(self.dropout_rate, self.axis_name)(x, train=train)
        return widened(Linear(self.num_classes, self.dtype, name="fc")(x))

    def _between(self, start: str | None, stop: str | None) -> tuple[str, ...]:
        """The children after `start` up to and including `stop`."""
        children = self.children
        for name in (start, stop):
            if name is not None and name not in children:
                raise ValueError(f"the network has no child {name!r}: {', '.join(children)}")
        first = 0 if start is None else children.index(start) + 1
        last = len(children) if stop is None else children.index(stop) + 1
        return children[first:last]


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


_own_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean over the map in float32: [n, h, w, c] -> [n, c]."""
    return jnp.mean(widened(x), axis=(1, 2))


_PLAIN: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "maxpool": max_pool,
    "avgpool": average_pool,
}


def batch_norm_names(model: ResNet) -> Iterator[str]:
    """The paths of the network's BatchNorms: "bn1", "layer1.0.bn1", ..."""
    yield "bn1"
    for i, depth in enumerate(model.stage_sizes):
        for j in range(depth):
            block = f"layer{i + 1}.{j}"
            for k in range(3 if model.bottleneck else 2):
                yield f"{block}.bn{k + 1}"
            if j == 0 and (i > 0 or model.bottleneck):
                yield f"{block}.downsample.1"


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
    frozen: frozenset[str]
    batch_norm_groups: int


def make_resnet(
    architecture: str, num_classes: int = 10, **options: Unpack[ResNetOptions]
) -> ResNet:
    """Build one of `ARCHITECTURES`; `options` are `ResNet`'s attributes.

    Raises:
        ValueError: unknown architecture, stem or head, a dropout rate outside [0, 1), a dtype that
            is neither float32, bfloat16 nor (for tests) float64, or a frozen module without any
            BatchNorm.
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
    if isinstance(model.dropout_rate, (int, float)) and not 0.0 <= model.dropout_rate < 1.0:
        raise ValueError(f"dropout_rate must lie in [0, 1), not {model.dropout_rate}")
    names = list(batch_norm_names(model))
    for module in model.frozen:
        if not any(is_below(name, frozenset({module})) for name in names):
            raise ValueError(f"frozen: the network has no BatchNorm at or below {module!r}")
    if model.num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {model.num_classes}")
    return model
