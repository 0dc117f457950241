"""What a run does around its loop: stopping, checking, recording."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
import optax

from jaxcifar.devices.layout import Layout
from jaxcifar.devices.machine import describe_machine
from jaxcifar.models.names import count_params
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History, Row
from jaxcifar.step import metrics
from jaxcifar.step.freeze import split_params
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.state import TrainState, all_finite
from jaxcifar.training.interruption import Interrupted, Interruption
from jaxcifar.training.pieces import Allow


@dataclass(frozen=True)
class PartialEpoch:
    """What has been done of an epoch: what a checkpoint in its middle holds besides the state."""

    epoch: int
    sums: Metrics | None = None
    seconds: float = 0.0

    def later(self, seconds: float, sums: Metrics | None = None) -> "PartialEpoch":
        """So much time later, with the sums up to there."""
        return PartialEpoch(self.epoch, self.sums if sums is None else sums, self.seconds + seconds)

    @property
    def known_sums(self) -> Metrics:
        """The sums of an epoch that has begun."""
        assert self.sums is not None
        return self.sums

    def complete_steps(self, recipe: Recipe) -> int:
        """The steps of the epochs before this one, which alone have their rows."""
        return (self.epoch - 1) * recipe.steps_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain values; float32 and int32 survive JSON exactly."""
        sums = {name: value.item() for name, value in jax.device_get(self.known_sums).items()}
        return {"epoch": self.epoch, "sums": sums, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PartialEpoch":
        """What `to_dict` made."""
        zeros, stored = metrics.zeros(), values["sums"]
        sums = jax.tree.map(lambda zero, value: np.asarray(value, zero.dtype), zeros, stored)
        return cls(int(values["epoch"]), sums, float(values["seconds"]))


def make_allow(layout: Layout, interruption: Interruption) -> Allow:
    """Build the allow of the first process, until any of them hears a signal."""

    def allow(count: int) -> int:
        said = layout.agree(count, interruption.signal_number)
        # Kept apart from what this process has heard, which may have come meanwhile.
        interruption.agreed = max(number for _, number in said)
        return 0 if interruption.agreed else said[0][0]

    return allow


def or_stop(allow: Allow) -> Allow:
    """The allow that raises where the other one stops."""

    def pace_or_stop(count: int) -> int:
        allowed = allow(count)
        if allowed == 0:
            raise StopEarly
        return allowed

    return pace_or_stop


class StopEarly(Exception):
    """Validation was interrupted."""


def stop(
    interruption: Interruption,
    recipe: Recipe,
    state: TrainState,
    part: PartialEpoch,
    checkpoints: Checkpoints | None,
) -> NoReturn:
    """Save what is done of the epoch and end the run.

    Raises:
        Interrupted: always.
    """
    step, number = int(state.step), interruption.agreed
    doing = f"in epoch {part.epoch}" if part.epoch <= recipe.epochs else "scoring the test images"
    where = f"{signal.Signals(number).name} {doing}, after step {step}"
    if checkpoints is None:
        raise Interrupted(f"{where}; nothing was saved, for want of a run directory", number)
    if step == 0:
        raise Interrupted(f"{where}: nothing was trained yet; --resume begins", number)
    if step > part.complete_steps(recipe):
        checkpoints.save(state, validation_accuracy=None, progress=part.to_dict())
    checkpoints.wait()
    raise Interrupted(f"{where}, which is saved; --resume goes on from there", number)


def make_row(
    recipe: Recipe,
    step: int,
    sums: Metrics,
    validated: Mapping[str, float | None],
    *,
    seconds: float,
    validation_seconds: float,
) -> Row:
    """An epoch's row of the history, see `fit`.

    Args:
        step: at the epoch's end.
        sums: of the epoch, as it trained.
        validated: "loss" and "accuracy".
        seconds: of training, and of caching features.
        validation_seconds: of validation.
    """
    trained = metrics.compute(sums)
    row = {
        "epoch": step // recipe.steps_per_epoch,
        "step": step,
        "learning_rate": float(recipe.make_schedule()(step - 1)),
        "train_loss": trained["loss"],
        "train_accuracy": trained["accuracy"],
        "validation_loss": validated["loss"],
        "validation_accuracy": validated["accuracy"],
        "seconds": seconds,
        "validation_seconds": validation_seconds,
        "images_per_second": recipe.split_sizes[0] / seconds,
    }
    if recipe.log_gradient_norm:
        row["gradient_norm"] = metrics.mean_gradient_norm(sums)
    if recipe.on_nonfinite == "skip":
        row["skipped_steps"] = int(sums["nonfinite"])
    return row


def check_finite(
    part: PartialEpoch,
    state: TrainState,
    schedule: optax.Schedule,
    recipe: Recipe,
    checkpoints: Checkpoints | None,
) -> None:
    """Refuse to go on from numbers that are no longer finite.

    Raises:
        FloatingPointError: saying what it was, where, and what may help.
    """
    step, sums = int(state.step), jax.device_get(part.known_sums)
    skipped = recipe.on_nonfinite == "skip"
    found = [] if skipped else metrics.nonfinite_names(sums)
    ended = step == part.epoch * recipe.steps_per_epoch
    if skipped and ended and int(sums["count"]) == 0:
        found = ["numbers of every step of the epoch"]
    elif not found and not all_finite(state.variables):
        found = ["weights"]
    if not found:
        return
    saved = []
    if checkpoints is not None:
        checkpoints.wait()
        saved = checkpoints.steps()
    kept = f"; the last good checkpoint is that of step {saved[-1]}" if saved else ""
    advice = "try a lower learning rate, a warm-up or --clip-norm"
    if not skipped and found != ["weights"]:
        advice += ", or skip such steps by --on-nonfinite skip"
    raise FloatingPointError(
        f"the {', '.join(found)} are not finite after step {step} (epoch {part.epoch}, learning "
        f"rate {float(schedule(step - 1)):.3g}){kept}: {advice}"
    )


def _is_complete(files: RunDirectory, recipe: Recipe) -> bool:
    summary = files.read_summary()
    return summary is not None and summary.get("epochs") == recipe.epochs


def _summarize(
    recipe: Recipe, name: str, state: TrainState, history: History, files: RunDirectory
) -> dict[str, Any]:
    """The summary, but for the scores of its checkpoints."""
    trained, _ = split_params(state.params, recipe.make_labels(recipe.epochs))
    return {
        "experiment": name,
        "epochs": recipe.epochs,
        "parameters": count_params(state.params),
        "trainable_parameters": count_params(trained),
        "weights": files.read_config().get("weights"),
        "train_accuracy": history.rows[-1]["train_accuracy"],
        "train_seconds": sum(history.column("seconds")),
        "validation_seconds": sum(history.column("validation_seconds")),
        "images_per_second": float(np.median(history.column("images_per_second"))),
        "machine": describe_machine(),
    }
