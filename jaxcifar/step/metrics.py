"""Metrics as masked sums, which are merged by addition and divided once at the end."""

from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.numbers import is_zero
from jaxcifar.common.target import target_platform

# A metric of the user's: (logits float32 [n, classes], labels int32 [n]) -> [n]
ExampleMetric = Callable[[jax.Array, jax.Array], jax.Array]


class Metrics(TypedDict):
    """Sums over examples; the sums of two batches of any sizes are merged by `add`."""

    loss_sum: jax.Array  # float32 [], sum of per-example losses in nats
    correct: jax.Array  # int32 [], examples whose largest logit is the label's
    top5: jax.Array  # int32 [], examples whose label is among the five largest; 0 in training
    count: jax.Array  # int32 [], examples counted
    gradient_norm_sum: jax.Array  # float32 [], a step's norm times its examples; 0 if not measured
    nonfinite: jax.Array  # int32 [], training steps with numbers that were not finite
    nonfinite_kinds: jax.Array  # int32 [], bit i is set if NONFINITE_KINDS[i] was not finite
    own: dict[str, jax.Array]  # float32 [], sums of the user's per-example metrics, by name


# The parts of a training step that are checked.
NONFINITE_KINDS = ("logits", "gradients", "BatchNorm statistics")


def zeros(shape: tuple[int, ...] = (), own: Iterable[str] = ()) -> Metrics:
    """The sums over no examples; `shape` is for several runs side by side, `own` are names."""
    # The floats are float32, or float64 if JAX has it enabled.
    zero, zero_float = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
    return Metrics(
        loss_sum=zero_float,
        correct=zero,
        top5=zero,
        count=zero,
        gradient_norm_sum=zero_float,
        nonfinite=zero,
        nonfinite_kinds=zero,
        own=dict.fromkeys(own, zero_float),
    )


def add(a: Metrics, b: Metrics) -> Metrics:
    """Merge the sums of two disjoint sets of examples."""
    return Metrics(
        loss_sum=a["loss_sum"] + b["loss_sum"],
        correct=a["correct"] + b["correct"],
        top5=a["top5"] + b["top5"],
        count=a["count"] + b["count"],
        gradient_norm_sum=a["gradient_norm_sum"] + b["gradient_norm_sum"],
        nonfinite=a["nonfinite"] + b["nonfinite"],
        nonfinite_kinds=a["nonfinite_kinds"] | b["nonfinite_kinds"],
        own={name: value + b["own"][name] for name, value in a["own"].items()},
    )


def cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Per-example cross-entropy in nats, float32 [n].

    Args:
        logits: [n, classes], float32.
        label: int32 [n], or distributions [n, classes].
        smoothing: label smoothing as in torch's `CrossEntropyLoss`: the target is
            (1 - smoothing) on the label plus smoothing / classes everywhere.
    """
    if is_zero(smoothing) and label.ndim == 1:
        if target_platform() == "cpu":
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)
        # Not by a gather: its gradient is a scatter, which a GPU does with atomic operations.
        of_label = jnp.arange(logits.shape[-1]) == label[:, None]
        return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(of_label, logits, 0), axis=-1)
    target = label if label.ndim == 2 else jax.nn.one_hot(label, logits.shape[-1])
    if not is_zero(smoothing):
        target = optax.smooth_labels(target, smoothing)
    return optax.softmax_cross_entropy(logits, target)


def measure(
    loss: jax.Array,
    logits: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    *,
    top5: bool = False,
    gradient_norm: jax.Array | float = 0.0,
    nonfinite_kinds: jax.Array | int = 0,
    own: Iterable[tuple[str, ExampleMetric]] = (),
) -> Metrics:
    """The sums over the examples whose `mask` is true.

    Args:
        loss: per-example loss, float32 [n].
        logits: [n, classes].
        label: int32 [n].
        mask: bool [n]; false marks padding, which is not counted, even if it is not finite.
        top5: measure that, too. An example with a logit that is not a number then counts as wrong,
            whatever its label; a train step with one fails, or is skipped.
        gradient_norm: of the step on these examples, float32 [].
        nonfinite_kinds: of the same step, see `find_nonfinite`.
        own: the user's metrics, by name.

    Raises:
        RecipeError: one of them does not return [n].
    """
    # Not argmax for both: of logits that are not numbers it takes the first, as if it were class 0.
    rank = _rank(logits, label) if top5 else None
    first = jnp.argmax(logits, axis=-1) == label if rank is None else rank == 0
    count, zero = jnp.sum(mask, dtype=jnp.int32), jnp.zeros((), jnp.int32)
    return Metrics(
        loss_sum=jnp.sum(jnp.where(mask, loss, 0.0)),
        correct=jnp.sum(mask & first, dtype=jnp.int32),
        top5=zero if rank is None else jnp.sum(mask & (rank < 5), dtype=jnp.int32),
        count=count,
        gradient_norm_sum=jnp.asarray(gradient_norm, loss.dtype) * count,
        nonfinite=jnp.asarray(nonfinite_kinds != 0, jnp.int32),
        nonfinite_kinds=jnp.asarray(nonfinite_kinds, jnp.int32),
        own={
            name: jnp.sum(jnp.where(mask, per_example(metric, name, logits, label), 0.0))
            for name, metric in own
        },
    )


def per_example(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    name: str,
    logits: jax.Array,
    label: jax.Array,
) -> jax.Array:
    """A loss or metric of the user's on a batch, as floats [n] of the logits' dtype.

    Raises:
        RecipeError: it returns something else.
    """
    values = function(logits, label)
    shape = getattr(values, "shape", None)
    if shape != label.shape[:1]:
        what = f"returned {type(values).__name__}" if shape is None else f"has shape {list(shape)}"
        raise RecipeError(
            f"{name} must be one number for each example, [{len(label)}] for {len(label)} of "
            f"them, but {what}: return the values of the examples, not their mean or sum"
        )
    return jnp.asarray(values, logits.dtype)


def _rank(logits: jax.Array, label: jax.Array) -> jax.Array:
    """How many logits come before the label's: int32 [n]; of equal ones, the first come first.

    All of them do where one is not a number, which is neither larger nor smaller, and for a label
    that is no class.
    """
    own = jnp.take_along_axis(logits, label[:, None], axis=1)
    first = jnp.arange(logits.shape[1]) < label[:, None]
    rank = jnp.sum((logits > own) | ((logits == own) & first), axis=1, dtype=jnp.int32)
    classes = logits.shape[1]
    unknown = jnp.isnan(logits).any(axis=1) | (label < 0) | (label >= classes)
    return jnp.where(unknown, classes, rank)


def find_nonfinite(*trees: Any, axis_name: str | None = None) -> jax.Array:
    """The trees with numbers that are not finite, as bits: bit i for the i-th tree, int32 [].

    Every number is checked, because a loss or a sum does not show them: XLA:CPU drops NaN in fused
    reductions (JAX 0.10: a step of NaN reported a loss of ln 10).

    Args:
        trees: in the order of `NONFINITE_KINDS`.
        axis_name: a mapped axis whose devices are checked together.
    """
    flags = jnp.stack([_has_nonfinite(jax.tree.leaves(tree)) for tree in trees]).astype(jnp.int32)
    if axis_name is not None:
        flags = jax.lax.pmax(flags, axis_name)
    return jnp.sum(flags << jnp.arange(len(trees)), dtype=jnp.int32)


def _has_nonfinite(leaves: list[jax.Array]) -> jax.Array:
    """Whether any number is not finite, bool [].

    Kernels are reduced along their rows only, and all that is left at once. On an accelerator, a
    reduction of each leaf to a single flag would be two small kernels, of which a ResNet-18 has
    102; the rows are reduced by the program that reads them anyway (the optimizer's). On a CPU one
    core would do it: 4.6 ms instead of 2.2 for a ResNet-18 on two cores.
    """
    if not leaves:
        return jnp.zeros((), bool)
    rows = [~jnp.isfinite(leaf) for leaf in leaves]
    # The channels that a convolution takes are next to each other in the layout of cuDNN.
    rows = [row.any(axis=-2) if row.ndim > 1 else row for row in rows]
    joined = jnp.concatenate([row.reshape(-1) for row in rows])
    return jax.lax.optimization_barrier(joined).any()


def nonfinite_names(sums: Metrics) -> list[str]:
    """The `NONFINITE_KINDS` that were not finite in some step. Waits for the device."""
    kinds = int(jax.device_get(sums["nonfinite_kinds"]))
    return [name for i, name in enumerate(NONFINITE_KINDS) if kinds >> i & 1]


def total(sums: Metrics, axis_name: str) -> Metrics:
    """The sums of a whole step from the sums of each device along a mapped axis."""
    summed = ("loss_sum", "correct", "top5", "count", "own")
    whole = dict(jax.lax.psum({name: sums[name] for name in summed}, axis_name))  # type: ignore[literal-required]
    count = jnp.maximum(sums["count"], 1)
    # The norm and the nonfinite kinds are of the whole step: every device has the same values.
    norm = sums["gradient_norm_sum"] / count * whole["count"]
    return Metrics(**{**sums, **whole, "gradient_norm_sum": norm})


def compute(sums: Metrics) -> dict[str, float]:
    """The means ``{"loss", "accuracy", "examples"}`` and those of the user's metrics.

    As Python numbers: it waits for the device.
    """
    host = jax.device_get(sums)
    count = int(host["count"])
    if count == 0:
        raise ValueError("no examples were counted, so there is no loss or accuracy")
    return {
        "loss": float(host["loss_sum"]) / count,
        "accuracy": int(host["correct"]) / count,
        "examples": count,
        **{name: float(value) / count for name, value in host["own"].items()},
    }


def top5_accuracy(sums: Metrics) -> float:
    """The share of examples whose label is among the five largest logits, of an evaluation."""
    host = jax.device_get(sums)
    return int(host["top5"]) / int(host["count"])


def mean_gradient_norm(sums: Metrics) -> float:
    """The mean of the steps' gradient norms, weighted by their examples."""
    host = jax.device_get(sums)
    return float(host["gradient_norm_sum"]) / int(host["count"])
