"""Metrics as masked sums: merged by addition, divided once at the end."""

from typing import TypedDict

import jax
import jax.numpy as jnp
import optax

from jaxcifar.traced import is_zero


class Metrics(TypedDict):
    """Sums over examples. Adding two of them merges them, whatever the batch sizes were."""

    loss_sum: jax.Array  # float32 [], sum of per-example losses in nats
    correct: jax.Array  # int32 [], examples whose arg max is the label
    count: jax.Array  # int32 [], examples counted
    gradient_norm_sum: jax.Array  # float32 [], a step's norm times its examples; 0 if not measured


def zeros(shape: tuple[int, ...] = ()) -> Metrics:
    """The sum over no examples; with a shape, of so many runs side by side."""
    zero, nothing = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
    return Metrics(loss_sum=nothing, correct=zero, count=zero, gradient_norm_sum=nothing)


def add(a: Metrics, b: Metrics) -> Metrics:
    """Merge the sums of two disjoint sets of examples."""
    return Metrics(
        loss_sum=a["loss_sum"] + b["loss_sum"],
        correct=a["correct"] + b["correct"],
        count=a["count"] + b["count"],
        gradient_norm_sum=a["gradient_norm_sum"] + b["gradient_norm_sum"],
    )


def cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Per-example cross-entropy in nats, float32 [n].

    Args:
        logits: [n, classes], float32.
        label: int32 [n].
        smoothing: label smoothing as in torch's `CrossEntropyLoss`: the target is
            (1 - smoothing) on the label plus smoothing / classes everywhere.
    """
    if is_zero(smoothing):
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, target)


def measure(
    loss: jax.Array,
    logits: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    *,
    gradient_norm: jax.Array | float = 0.0,
) -> Metrics:
    """Sums over the examples whose `mask` is true.

    Args:
        loss: per-example loss, float32 [n].
        logits: [n, classes].
        label: int32 [n].
        mask: bool [n]; false marks padding, which counts for nothing (even where it is not finite).
        gradient_norm: of the step these examples made, float32 [].
    """
    correct = mask & (jnp.argmax(logits, axis=-1) == label)
    count = jnp.sum(mask, dtype=jnp.int32)
    return Metrics(
        loss_sum=jnp.sum(jnp.where(mask, loss, 0.0)),
        correct=jnp.sum(correct, dtype=jnp.int32),
        count=count,
        gradient_norm_sum=jnp.float32(gradient_norm) * count,
    )


def compute(sums: Metrics) -> dict[str, float]:
    """Divide once: ``{"loss", "accuracy", "examples"}`` as Python numbers. Waits for the device."""
    host = jax.device_get(sums)
    count = int(host["count"])
    if count == 0:
        raise ValueError("no examples were counted, so there is no loss or accuracy to report")
    return {
        "loss": float(host["loss_sum"]) / count,
        "accuracy": int(host["correct"]) / count,
        "examples": count,
    }


def mean_gradient_norm(sums: Metrics) -> float:
    """The mean of the steps' gradient norms, each counted by its examples."""
    host = jax.device_get(sums)
    return float(host["gradient_norm_sum"]) / int(host["count"])
