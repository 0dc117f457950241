"""ResNet-18, 34 and 50 in linen, with the names, initial values and padding of torchvision.

Source: He et al. 2015 (arXiv:1512.03385) and torchvision/models/resnet.py (ResNet-50 is its "v1.5",
with the stride in the 3x3 convolution). Modules have torchvision's names: its parameter
`layer1.0.conv1.weight` is `params["layer1"]["0"]["conv1"]["kernel"]` here.

Every module sows its output into the collection "intermediates": as "output", and a block's inner
ReLUs as "relu1" and "relu2". This costs nothing unless that collection is mutable.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcifar.common.numbers import at_least_float32
from jaxcifar.models.conv import Lowering
from jaxcifar.models.layers import (
    BATCH_NORM_DECAY,
    BatchNorm,
    Conv,
    Dropout,
    Dtype,
    Linear,
)
from jaxcifar.models.names import is_below
from jaxcifar.models.normalization import relu_of_sum
from jaxcifar.models.pooling import average_pool, max_pool

Stem = Literal["imagenet", "cifar"]
Head = Literal["linear", "sequential"]
ModuleDef = Any  # a module class with some of its attributes set
SEQUENTIAL_HIDDEN = 256  # width between the two linear layers of the sequential head
# The children of a ResNet that have no variables.
_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "maxpool": max_pool,
    "avgpool": average_pool,
}


class SequentialHead(nn.Module):
    """`Sequential(Linear, ReLU, Dropout, Linear)`, with children named "0" and "3" as in torch."""

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
    """The projection of a shortcut: 1x1 convolution "0" and BatchNorm "1"."""

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
        y = relu_of_sum(y, shortcut)
        self.sow("intermediates", "output", y)
        return y


class ResidualStage(nn.Module):
    """Blocks "0", "1", ... in sequence; the first one has the stride."""

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

    Images are normalised floats. Logits are float32 for every compute dtype. In train mode the
    collection "batch_stats" must be mutable, and dropout above 0 needs the rng "dropout".

    The network can be cut after any of its `children`: ``stop="layer1"`` returns the output of
    layer1; ``start="layer1"`` takes that output instead of images and runs the rest.

    Attributes:
        stage_sizes: blocks in layer1, layer2, ...; each stage after the first halves the map.
        bottleneck: three-layer blocks (ResNet-50) instead of two-layer ones.
        num_classes: length of the logits.
        width: channels of the first stage; each further stage doubles them.
        stem: "imagenet" is a 7x7 stride-2 convolution and a 3x3 stride-2 max-pool; "cifar" is a 3x3
            stride-1 convolution without pooling, which keeps a 32x32 image at 32x32.
        head: "linear" is dropout then `fc`; "sequential" is Linear, ReLU, dropout, Linear.
        dropout_rate: in [0, 1).
        dtype: of the computation (float32 or bfloat16); parameters and statistics stay float32.
        axis_name: mapped axis over which a batch is divided, under pmap.
        batch_norm_groups: equal parts of a batch, each normalised by its own statistics.
        batch_norm_decay: of the running statistics in each step, in [0, 1); torch's momentum is
            1 - decay.
        lowering: of the convolutions, see `conv.conv2d`.
        frozen: modules ("bn1", "layer1") whose BatchNorms use their running statistics in train
            mode too, and never update them; see `frozen_batch_norms`.

    Example:
        >>> import jax
        >>> from jaxcifar import ResNet
        >>> model = ResNet(stage_sizes=(1, 1), width=4, stem="cifar")
        >>> model.children
        ('conv1', 'bn1', 'relu', 'layer1', 'layer2', 'avgpool', 'fc')
        >>> def layer1(images):
        ...     variables = model.init(jax.random.key(0), images, train=False)
        ...     return model.apply(variables, images, train=False, stop="layer1")
        >>> jax.eval_shape(layer1, jax.numpy.zeros((1, 8, 8, 3))).shape
        (1, 8, 8, 4)
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
    batch_norm_decay: float = BATCH_NORM_DECAY

    @property
    def children(self) -> tuple[str, ...]:
        """The names of the network's children in torchvision, in the order they run."""
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
        norm = partial(
            BatchNorm, self.axis_name, frozen, self.batch_norm_groups, self.batch_norm_decay
        )
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
                stage = ResidualStage(
                    self.stage_sizes[i], width, stride, self.bottleneck, conv, norm, name=child
                )
                x = stage(x, train=train)
            else:
                x = _FUNCTIONS[child](x)
                self.sow("intermediates", child, x)
        return x

    def _head(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.head == "sequential":
            head = SequentialHead(
                self.num_classes, self.dropout_rate, self.dtype, self.axis_name, name="fc"
            )
            return at_least_float32(head(x, train=train))
        x = Dropout(self.dropout_rate, self.axis_name)(x, train=train)
        return at_least_float32(Linear(self.num_classes, self.dtype, name="fc")(x))

    def _between(self, start: str | None, stop: str | None) -> tuple[str, ...]:
        """The children after `start` up to and including `stop`."""
        children = self.children
        for name in (start, stop):
            if name is not None and name not in children:
                raise ValueError(
                    f"the network has no child {name!r}; choose from {', '.join(children)}"
                )
        first = 0 if start is None else children.index(start) + 1
        last = len(children) if stop is None else children.index(stop) + 1
        return children[first:last]


def batch_norm_names(model: ResNet) -> Iterator[str]:
    """The names of the network's BatchNorms: "bn1", "layer1.0.bn1", ..."""
    yield "bn1"
    for i, depth in enumerate(model.stage_sizes):
        for j in range(depth):
            block = f"layer{i + 1}.{j}"
            for k in range(3 if model.bottleneck else 2):
                yield f"{block}.bn{k + 1}"
            if j == 0 and (i > 0 or model.bottleneck):
                yield f"{block}.downsample.1"


DTYPES = ("float32", "bfloat16", "float64")  # of the computation, by name
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": {"stage_sizes": (2, 2, 2, 2), "bottleneck": False},
    "resnet34": {"stage_sizes": (3, 4, 6, 3), "bottleneck": False},
    "resnet50": {"stage_sizes": (3, 4, 6, 3), "bottleneck": True},
}


class ResNetOptions(TypedDict, total=False):
    """The attributes of a `ResNet` that do not follow from its architecture."""

    width: int
    stem: Stem
    head: Head
    dropout_rate: float
    dtype: Dtype
    axis_name: str | None
    lowering: Lowering
    frozen: frozenset[str]
    batch_norm_groups: int
    batch_norm_decay: float


def make_resnet(
    architecture: str, num_classes: int = 10, **options: Unpack[ResNetOptions]
) -> ResNet:
    """Build one of `ARCHITECTURES`; `options` are attributes of `ResNet`.

    Raises:
        ValueError: the architecture, stem, head or lowering is unknown; the dtype is neither
            float32, bfloat16 nor (for tests) float64; the dropout rate or BatchNorm's decay is
            outside [0, 1); a frozen module has no BatchNorm; or there is no class.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}"
        )
    model = ResNet(num_classes=num_classes, **ARCHITECTURES[architecture], **options)
    _check_settings(model)
    return model


def resnet18(num_classes: int = 10, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18; 11,181,642 parameters with 10 classes and the ImageNet stem.

    `options` are attributes of `ResNet`; for the errors, see `make_resnet`.

    Example:
        >>> from jaxcifar import resnet18
        >>> model = resnet18(10, stem="cifar", dropout_rate=0.3)
        >>> model.stage_sizes, model.width
        ((2, 2, 2, 2), 64)
    """
    return make_resnet("resnet18", num_classes, **options)


def resnet34(num_classes: int = 10, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34; `options` are attributes of `ResNet`.

    Example:
        >>> from jaxcifar import resnet34
        >>> resnet34(100).stage_sizes
        (3, 4, 6, 3)
    """
    return make_resnet("resnet34", num_classes, **options)


def resnet50(num_classes: int = 10, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50 (torchvision's v1.5); `options` are attributes of `ResNet`.

    Example:
        >>> from jaxcifar import resnet50
        >>> model = resnet50(100)
        >>> model.stage_sizes, model.bottleneck
        ((3, 4, 6, 3), True)
    """
    return make_resnet("resnet50", num_classes, **options)


def _check_settings(model: ResNet) -> None:
    for name, value, choices in (
        ("stem", model.stem, get_args(Stem)),
        ("head", model.head, get_args(Head)),
        ("lowering", model.lowering, get_args(Lowering)),
        ("dtype", jnp.dtype(model.dtype).name, DTYPES),
    ):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
    if isinstance(model.dropout_rate, (int, float)) and not 0.0 <= model.dropout_rate < 1.0:
        raise ValueError(f"dropout_rate must lie in [0, 1), not {model.dropout_rate}")
    if not 0.0 <= model.batch_norm_decay < 1.0:
        raise ValueError(f"batch_norm_decay must lie in [0, 1), not {model.batch_norm_decay}")
    names = list(batch_norm_names(model))
    for module in model.frozen:
        if not any(is_below(name, frozenset({module})) for name in names):
            raise ValueError(f"frozen: the network has no BatchNorm at or below {module!r}")
    if model.num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {model.num_classes}")
