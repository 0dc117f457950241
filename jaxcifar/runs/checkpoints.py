"""The checkpoints of a run, written by Orbax: the two newest and the best by validation accuracy.

A save runs in the background. It becomes visible at once, by a rename, when it is complete with a
manifest of its files. Nothing that differs from its manifest is restored.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp

from jaxcifar.common.errors import CheckpointError
from jaxcifar.common.writing import sync_folder
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoint_items import PyTree, restore_items, train_item
from jaxcifar.runs.disk_errors import reason, way_out
from jaxcifar.runs.failed_saves import save_begins, save_ended
from jaxcifar.runs.stored_steps import (
    MARK,
    METRIC,
    PROGRESS,
    SCORE,
    TEMPORARY,
    StoredSteps,
    either,
)
from jaxcifar.runs.stored_steps import CheckpointWarning as CheckpointWarning
from jaxcifar.step.state import TrainState

Which = Literal["best", "last"] | int


class Checkpoints:
    """The checkpoints in one directory.

    Use it as a context manager: closing waits for the last save (Orbax loses an unfinished
    background save, with exit code 0). With several processes, all of them save and restore
    together; only the first one verifies, moves and deletes.

    A checkpoint is a directory named by its step::

        DIRECTORY/STEP/model/           {"params", "batch_stats"}: all that evaluation needs
        DIRECTORY/STEP/train/           {"step", "opt_state", "key"}: needed to resume, too
        DIRECTORY/STEP/metrics/metrics  JSON: "validation_accuracy", "progress", "manifest",
                                        perhaps "best_score"
        DIRECTORY/STEP/manifest.json    size and SHA-256 of every file, see `manifest`

    `model` and `train` are items of an Orbax `CompositeCheckpointHandler`, each written by a
    `StandardCheckpointHandler`. Orbax reads them without jaxcifar:
    ``orbax.checkpoint.StandardCheckpointer().restore(path / "STEP" / "model")``, with an absolute
    `path`.

    Example:
        >>> import jax.numpy as jnp, optax, tempfile
        >>> from jaxcifar import Checkpoints, start_state
        >>> variables = {
        ...     "params": {"fc": {"kernel": jnp.ones((4, 2))}},
        ...     "batch_stats": {"bn1": {"mean": jnp.zeros(4)}},
        ... }
        >>> state = start_state(variables, optax.sgd(0.1), seed=0)
        >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        ...     checkpoints.save(state, validation_accuracy=0.75)
        ...     checkpoints.wait()
        ...     weights = checkpoints.restore_weights(state.variables, "best")
        ...     checkpoints.steps(), checkpoints.validation_accuracy(0)
        ([0], 0.75)
        >>> weights["params"]["fc"]["kernel"].shape
        (4, 2)
    """

    def __init__(self, directory: str | Path, *, read_only: bool = False) -> None:
        """Open `directory`; it is made if needed, unless `read_only`.

        Raises:
            CheckpointError: it does not exist (`read_only`) or cannot be written.
        """
        self.directory = Path(directory).absolute()  # Orbax refuses relative paths
        self._stored = StoredSteps(self.directory)
        self._saving: int | None = None
        self._saver: Any = None
        if read_only:
            if not self.directory.is_dir():
                raise CheckpointError(f"there are no checkpoints in {directory}")
            return
        if jax.process_index() == 0:
            self._stored.prepare()
        # Made in the background, a directory that fails leaves other threads waiting for it, which
        # the interpreter then waits for at its exit: without end (Orbax 0.12).
        at_once = {"create_directories_asynchronously": False}
        self._saver = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                model=ocp.StandardCheckpointHandler(),
                train=ocp.StandardCheckpointHandler(),
                metrics=ocp.JsonCheckpointHandler("metrics"),
                composite_options=ocp.CompositeOptions(async_options=ocp.AsyncOptions(**at_once)),
            ),
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_manifest, **at_once
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(f"In addition: {failed}")  # it must not replace the first error

    def close(self) -> None:
        """Wait for the last save.

        Raises:
            CheckpointError: it could not be written.
        """
        try:
            self.wait()
        finally:
            if self._saver is not None:
                # `wait` has already reported whatever a failed save left behind in Orbax.
                with suppress(Exception):
                    self._saver.close()

    def save(
        self,
        state: TrainState,
        *,
        validation_accuracy: float | None,
        progress: Mapping[str, Any] | None = None,
        best_score: float | None = None,
    ) -> None:
        """Start to save `state` under its step number; return when it has been copied.

        Args:
            state: may be donated afterwards.
            validation_accuracy: a checkpoint without one can be the last, but not the best unless
                there is no other.
            progress: the position in an unfinished epoch, as plain JSON (floats are restored
                bit-identically). Such a checkpoint is never the best, and a later save of the same
                step replaces it. A complete checkpoint of the same step is kept unchanged.
            best_score: chooses the best checkpoint instead of the validation accuracy, higher is
                better; one that is not finite loses against all others.

        Raises:
            CheckpointError: this checkpoint, or the one before (saved in the background), cannot be
                written; or the directory holds a later step.
        """
        step = int(state.step)
        metrics = json.loads(  # a copy; raises if it is not JSON
            json.dumps(
                {METRIC: validation_accuracy, PROGRESS: progress, MARK: True}
                | ({} if best_score is None else {SCORE: _finite_or_none(best_score)})
            )
        )
        self.wait()
        if self._is_saved(step):
            return
        self._stored.forget(step)
        with self._writing(step):
            self._saving = step  # `_write_manifest` needs it, in the background
            save_begins(self)
            self._saver.save(
                self.directory / str(step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(state.variables),
                    train=ocp.args.StandardSave(train_item(state)),
                    # Always written: a checkpoint without this file is damaged.
                    metrics=ocp.args.JsonSave(metrics),
                ),
            )

    def wait(self) -> None:
        """Wait until the last save is on disk, then delete the checkpoints it made superfluous.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._saving is None:
            return
        with self._writing(self._saving):
            self._saver.wait_until_finished()
            self._saving = None
            save_ended(self, failed=False)
            if jax.process_index() == 0:
                sync_folder(self.directory)
        if jax.process_index() == 0:
            self._stored.delete_superfluous()

    def set_damaged_aside(self) -> list[int]:
        """Before resuming, move damaged checkpoints to ``damaged/`` next to this directory.

        Warns (`CheckpointWarning`) once for each, naming the one used instead.

        Returns:
            The steps moved.

        Raises:
            CheckpointError: all checkpoints are damaged; none has been moved.
        """
        self.wait()
        return self._stored.set_damaged_aside() if jax.process_index() == 0 else []

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        return self._stored.numbers()

    def find(self, which: Which) -> int:
        """The step of the best, the last or a given checkpoint, verified against its manifest.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.directory} holds no complete checkpoint")
        if which == "last":
            step = steps[-1]
        elif which == "best":
            best = self._stored.best()
            if best is None:
                raise CheckpointError(
                    f"{self.directory} holds no checkpoint of a finished epoch, so none is the "
                    f"best: choose last, {either(steps)}"
                )
            step = best
        elif which in steps:
            step = which
        else:
            raise CheckpointError(
                f"{self.directory} holds no checkpoint of step {which}: choose best, last, "
                f"{either(steps)}"
            )
        if problems := self._stored.problems(step):
            raise self._stored.damage_error(step, problems)
        return step

    def validation_accuracy(self, step: int) -> float | None:
        """The validation accuracy stored with a step, if it was validated."""
        return self._stored.metrics(step)[METRIC]

    def progress(self, step: int) -> dict[str, Any] | None:
        """The position in an unfinished epoch, saved with a step; None at an epoch's end."""
        return self._stored.metrics(step).get(PROGRESS)

    def restore_weights(
        self,
        target: Mapping[str, PyTree],
        which: Which = "best",
        *,
        sharding: jax.sharding.Sharding | None = None,
    ) -> PyTree:
        """Restore ``{"params", "batch_stats"}`` of one checkpoint.

        Args:
            target: variables of the model, arrays or shapes (`jax.eval_shape`).
            which: "best", "last" or a step.
            sharding: of every leaf, whatever devices it was saved from; default: the first device.

        Raises:
            CheckpointError: no such checkpoint, a damaged one, or one of another model.
        """
        return self._restore(self.find(which), {"model": target}, sharding)["model"]

    def restore_state(
        self,
        target: TrainState,
        which: Which = "last",
        *,
        sharding: jax.sharding.Sharding | None = None,
    ) -> TrainState:
        """Restore the complete state of one checkpoint, to continue training from it.

        Args:
            target: a state of the same model and optimizer, arrays or shapes.
            which: "best", "last" or a step.
            sharding: of every leaf, whatever devices it was saved from; default: the first device.

        Raises:
            CheckpointError: no such checkpoint, a damaged one, or of another model or optimizer.
        """
        targets = {"model": target.variables, "train": train_item(target)}
        restored = self._restore(self.find(which), targets, sharding)
        return TrainState(**restored["model"], **restored["train"])

    def _restore(
        self, step: int, targets: Mapping[str, PyTree], sharding: jax.sharding.Sharding | None
    ) -> dict[str, PyTree]:
        try:
            return restore_items(self.directory / str(step), targets, sharding)
        except CheckpointError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} cannot be read ({reason(error)}); the "
                f"steps there are {self.steps()}"
            ) from error

    def _is_saved(self, step: int) -> bool:
        """Whether there is a complete checkpoint of this step; one in mid-epoch is deleted."""
        newest = self._stored.newest()
        if newest > step:
            raise CheckpointError(
                f"{self.directory} holds a checkpoint of step {newest}, so one of step {step} "
                "would not be the last; resume from a copy that ends before it"
            )
        if newest < step:
            return False
        with suppress(CheckpointError):
            if self.progress(step) is None:
                return True
        if jax.process_index() == 0:
            self._stored.delete(step)
        return False

    def _write_manifest(self) -> None:
        """Orbax calls this in the background, in the first process, when all items of the step are
        written, and before the rename that makes it visible.
        """
        (temporary,) = self.directory.glob(f"{self._saving}{TEMPORARY}*")
        manifest.write(temporary)

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Make a CheckpointError of the many kinds that Orbax and TensorStore raise."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            self._saving = None
            save_ended(self, failed=True)
            good = self._stored.intact(other_than=step)
            others = f"the earlier ones, {good}, are intact" if good else "there is no earlier one"
            raise CheckpointError(
                f"checkpoint {step} could not be written to {self.directory} ({reason(error)}); "
                f"{others}: {way_out(error)}"
            ) from error


def _finite_or_none(score: float) -> float | None:
    """What JSON can hold of a score."""
    return score if math.isfinite(score) else None
