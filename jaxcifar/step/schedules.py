"""Learning-rate schedules. Epochs become optimizer steps here and nowhere else."""

from typing import Literal, get_args

import jax.numpy as jnp
import optax

ScheduleName = Literal["cosine", "triangular", "constant"]
ScheduleUnit = Literal["epoch", "step"]


def steps_per_epoch(train_size: int, batch_size: int) -> int:
    """Optimizer steps in an epoch; the last, partial batch is kept (torch's `drop_last=False`)."""
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
) -> optax.Schedule:
    """Build ``step -> learning rate``.

    With e the time in epochs, floored to whole epochs when `unit` is "epoch":

    * cosine: ``eta_min + (lr - eta_min) (1 + cos(pi e / t_max)) / 2`` with
      ``eta_min = final_scale * lr``. This is the closed form of torch's `CosineAnnealingLR(T_max)`,
      which keeps going past `t_max` (the rate rises again). Unit "epoch" is
      `CosineAnnealingLR(T_max=t_max)` stepped once an epoch; unit "step" is
      `CosineAnnealingLR(T_max=t_max * steps_per_epoch)` stepped once a batch.
    * triangular: linear from lr to ``final_scale * lr`` at `t_max`, after the warm-up.
    * constant: lr.

    The first `warmup_epochs` rise linearly, from `start_scale` times the rate the schedule has
    there to all of it; a warm-up counts steps even when `unit` is "epoch", and its first step is
    already above its start.

    Args:
        learning_rate: peak rate.
        epochs: length of the run; the default of `t_max`.
        t_max: in epochs.
        warmup_epochs: in epochs; may be fractional.
        start_scale: where the warm-up starts, 0 to 1.

    Raises:
        ValueError: unknown name or unit, or a length that cannot be.
    """
    for value, choices in ((name, get_args(ScheduleName)), (unit, get_args(ScheduleUnit))):
        if value not in choices:
            raise ValueError(
                f"unknown schedule setting {value!r}; choose from {', '.join(choices)}"
            )
    period = epochs if t_max is None else t_max
    if period <= 0 or steps_per_epoch < 1 or warmup_epochs < 0:
        raise ValueError(
            f"t_max ({period}) and steps_per_epoch ({steps_per_epoch}) must be positive and "
            f"warmup_epochs ({warmup_epochs}) not negative"
        )
    final = final_scale * learning_rate
    warmup_steps = warmup_epochs * steps_per_epoch

    def schedule(step: optax.ScalarOrSchedule) -> jnp.ndarray:
        count = jnp.asarray(step)
        epoch = count // steps_per_epoch if unit == "epoch" else count / steps_per_epoch
        if name == "cosine":
            rate = final + (learning_rate - final) * (1 + jnp.cos(jnp.pi * epoch / period)) / 2
        elif name == "triangular":
            span = max(period - warmup_epochs, 1e-9)
            left = jnp.clip(1 - (epoch - warmup_epochs) / span, 0, 1)
            rate = final + (learning_rate - final) * left
        else:
            rate = jnp.full((), learning_rate)
        if warmup_epochs:
            share = jnp.minimum(1.0, (count + 1) / warmup_steps)
            rate = rate * (share if start_scale == 0 else start_scale + (1 - start_scale) * share)
        return jnp.asarray(rate, jnp.float32)

    return schedule
