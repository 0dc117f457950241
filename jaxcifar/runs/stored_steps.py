"""The checkpoints of a run as they are on disk: their metrics, the best one, the damaged ones.

The disk is the only record. Orbax's own manager keeps another one, reads it from files that nothing
protects, and writes nothing for a step number that it has seen before.
"""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from jaxcifar.common.errors import CheckpointError
from jaxcifar.common.files import read_json
from jaxcifar.common.messages import warn
from jaxcifar.common.writing import make_folder, remove
from jaxcifar.runs import manifest
from jaxcifar.runs.disk_errors import reason, way_out

METRIC = "validation_accuracy"
# Of runs whose best checkpoint is not chosen by the validation accuracy: higher is better.
SCORE = "best_score"
PROGRESS = "progress"
# In the metrics of every step that was written with a manifest. Steps of older versions lack both.
MARK = "manifest"
TEMPORARY = ".orbax-checkpoint-tmp"


class CheckpointWarning(UserWarning):
    """A checkpoint that was skipped, or that cannot be checked."""


class StoredSteps:
    """The step directories in one checkpoint directory; each is verified and read once.

    Of several processes, only the first one verifies.
    """

    def __init__(self, directory: Path) -> None:
        """Nothing is read or made yet."""
        self.directory = directory
        self._damaged = directory.with_name("damaged")
        self._deleted = directory / ".deleted"
        self._problems: dict[int, list[str]] = {}
        self._metrics: dict[int, dict[str, Any]] = {}

    def numbers(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        return _step_directories(self.directory)

    def newest(self) -> int:
        """The last step, or -1."""
        return max(self.numbers(), default=-1)

    def prepare(self) -> None:
        """Make the directory and write to it, to find out before hours of training if that fails.

        Raises:
            CheckpointError: it cannot be written.
        """
        try:
            make_folder(self.directory)
            with tempfile.TemporaryFile(dir=self.directory) as file:
                file.write(b"0")
            for leftover in self.directory.glob(f"*{TEMPORARY}*"):
                remove(leftover)
            if self._deleted.is_symlink():  # none of ours
                remove(self._deleted)
            newest = self.newest()
            for old in _step_directories(self._deleted):
                # The process died while it replaced this one, before the new one was complete.
                if old > newest:
                    os.rename(self._deleted / str(old), self.directory / str(old))
            shutil.rmtree(self._deleted, ignore_errors=True)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.directory} ({reason(error)}): "
                f"{way_out(error)}"
            ) from error

    def problems(self, step: int) -> list[str]:
        """What is wrong with the files of a step; empty if they match the manifest."""
        if jax.process_index() != 0:
            return []
        if step not in self._problems:
            self._problems[step] = self._verify(step)
        return self._problems[step]

    def intact(self, *, other_than: int) -> list[int]:
        """All steps but one that are not damaged."""
        return [step for step in self.numbers() if step != other_than and not self.problems(step)]

    def damage_error(self, step: int, problems: Sequence[str]) -> CheckpointError:
        """The error for a damaged step, naming the good ones."""
        others = self.intact(other_than=step)
        return CheckpointError(
            f"checkpoint {step} in {self.directory} is damaged: {_first(problems)}; "
            + (f"choose a good one, {either(others)}" if others else "there is no good one")
        )

    def metrics(self, step: int) -> dict[str, Any]:
        """The small JSON file of a step; only this file is verified.

        Raises:
            CheckpointError: it is damaged.
        """
        if step in self._metrics:
            return self._metrics[step]
        if problems := self._verify(step, "metrics/"):
            raise self.damage_error(step, problems)
        try:
            metrics = _read_metrics(self.directory / str(step))
            for name, value in ((METRIC, metrics[METRIC]), (SCORE, metrics.get(SCORE))):
                if not isinstance(value, float | int | None):
                    raise TypeError(f"{name} is {value!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"metrics/metrics cannot be read ({error!r})"
            raise self.damage_error(step, [problem]) from error
        self._metrics[step] = metrics
        return metrics

    def best(self) -> int | None:
        """The step with the best score, see `_best`.

        Raises:
            CheckpointError: the metrics of a step are damaged.
        """
        return _best({step: self.metrics(step) for step in self.numbers()})

    def delete_superfluous(self) -> None:
        """Delete all but the two newest, the best, and any with damaged metrics.

        The second newest is one to fall back on.

        Raises:
            CheckpointError: one cannot be deleted.
        """
        steps = self.numbers()
        metrics = {}
        for step in steps:
            with suppress(CheckpointError):
                metrics[step] = self.metrics(step)
        best = _best(metrics)
        for step in metrics:
            if step not in steps[-2:] and step != best:
                self.delete(step)
        shutil.rmtree(self._deleted, ignore_errors=True)

    def delete(self, step: int) -> None:
        """Rename a step out of the way, so that half a checkpoint is never seen.

        `delete_superfluous` frees the space.

        Raises:
            CheckpointError: it cannot be renamed.
        """
        target = self._deleted / str(step)
        try:
            self._deleted.mkdir(exist_ok=True)
            remove(target)
            os.rename(self.directory / str(step), target)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} is no longer needed but cannot be deleted "
                f"({reason(error)}): {way_out(error)}"
            ) from error
        self.forget(step)

    def set_damaged_aside(self) -> list[int]:
        """See `Checkpoints.set_damaged_aside`."""
        bad = {step: problems for step in self.numbers() if (problems := self.problems(step))}
        good = [step for step in self.numbers() if step not in bad]
        if bad and not good:
            newest = max(bad)
            raise CheckpointError(
                f"every checkpoint in {self.directory} is damaged ({newest}: {_first(bad[newest])})"
                ": replace them with good copies, or start again with --overwrite"
            )
        for step, problems in bad.items():
            target = self._move_aside(step)
            warn(
                f"checkpoint {step} in {self.directory} is damaged ({_first(problems)}): it was "
                f"moved to {target}; the last good one is {good[-1]}",
                CheckpointWarning,
                stacklevel=3,
            )
        return list(bad)

    def forget(self, step: int) -> None:
        """Read a step again when it is next needed."""
        self._problems.pop(step, None)
        self._metrics.pop(step, None)

    def _move_aside(self, step: int) -> Path:
        target, number = self._damaged / str(step), 1
        while target.exists():
            number += 1
            target = self._damaged / f"{step}.{number}"
        try:
            self._damaged.mkdir(exist_ok=True)
            # Where `checkpoints` is on another disk, this copies.
            shutil.move(self.directory / str(step), target)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} is damaged and cannot be moved to {target} "
                f"({reason(error)}): {way_out(error)}"
            ) from error
        self.forget(step)
        return target

    def _verify(self, step: int, below: str = "") -> list[str]:
        directory = self.directory / str(step)
        if not _should_have_manifest(directory):
            if below == "":
                warn(
                    f"checkpoint {step} in {self.directory} was written by an older jaxcifar "
                    "without a manifest, so it cannot be checked for damage",
                    CheckpointWarning,
                    stacklevel=4,
                )
            return []
        return manifest.verify(directory, below)


def either(steps: Sequence[int]) -> str:
    """Steps to choose from, in words."""
    return " or ".join(map(str, steps))


def _first(problems: Sequence[str]) -> str:
    return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _step_directories(directory: Path) -> list[int]:
    """The numbers of the subdirectories that are named by one, ascending."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def _read_metrics(directory: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = read_json(directory / "metrics" / "metrics")
    return metrics


def _should_have_manifest(directory: Path) -> bool:
    """Whether a step has a manifest or has lost it; steps of older versions never had one."""
    if os.path.lexists(directory / manifest.NAME):
        return True
    try:
        return MARK in _read_metrics(directory)
    except (OSError, ValueError, TypeError):
        return True


def _best(metrics: Mapping[int, Mapping[str, Any]]) -> int | None:
    """The step with the best score; among equals, the latest.

    The score is the validation accuracy, or what the run stored as its `SCORE`. Steps without one
    come last. Unfinished epochs do not count.
    """
    whole = {
        step: row.get(SCORE, row[METRIC])
        for step, row in metrics.items()
        if row.get(PROGRESS) is None
    }
    return max(whole, key=lambda s: (-math.inf if whole[s] is None else whole[s], s), default=None)
