"""The same networks as a Flax user writes them: Conv, BatchNorm and Dense of flax.linen, and optax.

The modules have torchvision's names, as ours do, so our parameters fit without renaming.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state


class TrainState(train_state.TrainState):
    """Flax's training state with BatchNorm's statistics."""

    batch_stats: Any = None


class Block(nn.Module):
    """torchvision's BasicBlock."""

    width: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to [n, h', w', width]."""
        stride = (self.stride, self.stride)
        y = self.conv(self.width, (3, 3), stride, padding=1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, (3, 3), padding=1, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        if x.shape != y.shape:
            x = Downsample(self.width, stride, self.conv, self.norm, name="downsample")(x)
        return nn.relu(x + y)


class Downsample(nn.Module):
    """The shortcut's projection."""

    width: int
    stride: tuple[int, int]
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to [n, h', w', width]."""
        return self.norm(name="1")(self.conv(self.width, (1, 1), self.stride, name="0")(x))


class Stage(nn.Module):
    """Blocks; the first one has the stride."""

    depth: int
    width: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to [n, h', w', width]."""
        for i in range(self.depth):
            stride = self.stride if i == 0 else 1
            x = Block(self.width, stride, self.conv, self.norm, name=str(i))(x)
        return x


class ResNet(nn.Module):
    """A residual network of basic blocks: images [n, h, w, 3] to logits [n, classes]."""

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    num_classes: int = 10
    width: int = 64
    stem: str = "imagenet"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The logits are float32 for every dtype."""
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, (size, size), (stride, stride), padding=size // 2, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, depth in enumerate(self.stage_sizes):
            stride = 1 if i == 0 else 2
            x = Stage(depth, self.width * 2**i, stride, conv, norm, name=f"layer{i + 1}")(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)


def create_train_state(model: ResNet, images: jax.Array, learning_rate: float) -> TrainState:
    """A new state with Flax's own initialisation."""
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.adam(learning_rate),
    )


def train_step(
    state: TrainState, batch: Mapping[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by the cross-entropy; also returns loss and accuracy."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), (logits, updates["batch_stats"])

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = grad_fn(state.params)
    state = state.apply_gradients(grads=grads, batch_stats=batch_stats)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
    return state, {"loss": loss, "accuracy": accuracy}
