"""Learning-rate schedules. Only here are epochs converted to optimizer steps."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

ScheduleName = Literal["cosine", "triangular", "constant"]
ScheduleUnit = Literal["epoch", "step"]
AfterSchedule = Literal["formula", "final", "restart"]


def steps_per_epoch(train_size: int, batch_size: int) -> int:
    """Optimizer steps in an epoch, with the last, partial batch (torch's `drop_last=False`)."""
    return -(-train_size // batch_size)


def make_schedule(
    name: ScheduleName,
    *,
    learning_rate: float,
    epochs: float,
    steps_per_epoch: int,
    t_max: float | None = None,
    unit: ScheduleUnit = "step",
    warmup_epochs: float = 0.0,
    final_scale: float = 0.0,
    start_scale: float = 0.0,
    after: AfterSchedule = "formula",
    restart_epochs: float | None = None,
) -> optax.Schedule:
    """Build ``step -> learning rate``, float32.

    Let e be the time in epochs, rounded down to whole epochs if `unit` is "epoch".

    * cosine: ``eta_min + (lr - eta_min) (1 + cos(pi e / t_max)) / 2`` with
      ``eta_min = final_scale * lr``. This is the closed form of torch's `CosineAnnealingLR`, whose
      rate rises again after `t_max`. Unit "epoch" is `CosineAnnealingLR(T_max=t_max)`, stepped
      every epoch; "step" is `CosineAnnealingLR(T_max=t_max * steps_per_epoch)`, every batch.
    * triangular: after the warm-up, linear from lr to ``final_scale * lr`` at `t_max`.
    * constant: lr.

    During the warm-up, the schedule's rate is multiplied by a factor that rises linearly from
    `start_scale` to 1. It counts steps for either unit; the first step is already above its start.

    After `t_max` the formula above goes on ("formula"), the rate stays at ``final_scale * lr``
    ("final", as Keras' `CosineDecay`), or it begins again at lr, without a warm-up, and falls
    within `restart_epochs`, again and again ("restart", as torch's `CosineAnnealingWarmRestarts`).
    The rates before `t_max` do not depend on the choice.

    Args:
        learning_rate: the peak rate, lr above.
        epochs: length of the run; the default of `t_max`.
        t_max: in epochs.
        warmup_epochs: in epochs; may be fractional.
        start_scale: from 0 to 1.
        after: what follows `t_max`; nothing changes for constant.
        restart_epochs: length of each period after the first one, in epochs; default: `t_max`.

    Raises:
        ValueError: unknown name or unit, or an invalid length.

    Example:
        >>> from jaxcifar import make_schedule
        >>> schedule = make_schedule("cosine", learning_rate=0.1, epochs=2, steps_per_epoch=10)
        >>> [round(float(schedule(step)), 3) for step in (0, 10, 20)]
        [0.1, 0.05, 0.0]
    """
    period = epochs if t_max is None else t_max
    repeated = period if restart_epochs is None else restart_epochs
    _check(name, unit, after, (period, repeated), steps_per_epoch, warmup_epochs)
    final = final_scale * learning_rate
    warmup_steps = warmup_epochs * steps_per_epoch

    def schedule(step: optax.ScalarOrSchedule) -> jnp.ndarray:
        count = jnp.asarray(step)
        epoch = count // steps_per_epoch if unit == "epoch" else count / steps_per_epoch
        if after == "final":
            epoch = jnp.minimum(epoch, period)
        elif after == "restart":
            # A triangle falls only after its warm-up.
            begin = warmup_epochs if name == "triangular" else 0.0
            epoch = _in_period(epoch, period, repeated, begin, 1 / steps_per_epoch)
        rate = _rate(name, epoch, learning_rate, final, period, warmup_epochs)
        if warmup_epochs:
            share = jnp.minimum(1.0, (count + 1) / warmup_steps)
            rate = rate * (share if start_scale == 0 else start_scale + (1 - start_scale) * share)
        return jnp.asarray(rate, jnp.float32)

    return schedule


def _in_period(
    epoch: jax.Array, period: float, repeated: float, begin: float, step: float
) -> jax.Array:
    """The time in the first period, which is from `begin` on the same time of a later one.

    `step` is the length of a step in epochs.
    """
    # By rounding, a period may seem to begin a little later than the step that begins it: with
    # periods of 0.7 epochs and 10 steps an epoch, the third one began with the rate 0.
    rounding = 0.05 * step
    passed = jnp.mod(epoch - period, repeated)
    passed = jnp.where(repeated - passed < rounding, 0.0, passed)
    again = begin + passed / repeated * (period - begin)
    return jnp.where(epoch < period - rounding, epoch, again)


def _rate(
    name: ScheduleName, epoch: jax.Array, peak: float, final: float, period: float, warmup: float
) -> jax.Array:
    """The rate without a warm-up factor; `epoch`, `period` and `warmup` are in epochs."""
    if name == "cosine":
        return final + (peak - final) * (1 + jnp.cos(jnp.pi * epoch / period)) / 2
    if name == "triangular":
        span = max(period - warmup, 1e-9)
        left = jnp.clip(1 - (epoch - warmup) / span, 0, 1)
        return final + (peak - final) * left
    return jnp.full((), peak)


def _check(
    name: ScheduleName,
    unit: ScheduleUnit,
    after: AfterSchedule,
    periods: tuple[float, float],
    steps_per_epoch: int,
    warmup: float,
) -> None:
    kinds = ((name, ScheduleName), (unit, ScheduleUnit), (after, AfterSchedule))
    for value, choices in ((value, get_args(kind)) for value, kind in kinds):
        if value not in choices:
            raise ValueError(
                f"unknown schedule setting {value!r}; choose from {', '.join(choices)}"
            )
    period, repeated = periods
    if min(periods) <= 0 or steps_per_epoch < 1 or warmup < 0:
        raise ValueError(
            f"t_max ({period}), restart_epochs ({repeated}) and steps_per_epoch "
            f"({steps_per_epoch}) must be positive, and warmup_epochs ({warmup}) must not be "
            "negative"
        )
