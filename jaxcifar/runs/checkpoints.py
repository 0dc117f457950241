"""Checkpoints of a run, by Orbax: the two newest and the best one by validation accuracy.

A step is a directory of three items: "model" (params, batch_stats) is enough to evaluate, with any
optimizer or none; "train" (step, opt_state, key) is what resuming needs besides; "metrics" is a
small JSON file. Saves run in the background and become visible all at once, by a rename, when
they are complete with a manifest of their files; nothing is restored that differs from it.

What is on the disk is the only record there is: Orbax's own manager, which keeps another, reads
it from files that nothing protects, and writes nothing for a step number it has seen.
"""

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxcifar.common.errors import CheckpointError
from jaxcifar.common.files import read_json
from jaxcifar.models.names import named_leaves
from jaxcifar.runs import manifest
from jaxcifar.step.state import TrainState

PyTree = Any
Which = Literal["best", "last"] | int
METRIC = "validation_accuracy"
PROGRESS = "progress"
# In the metrics of every step that was written with a manifest: older ones have none to miss.
MARK = "manifest"
_TEMPORARY = ".orbax-checkpoint-tmp"


class CheckpointWarning(UserWarning):
    """A checkpoint that was passed over, or that cannot be checked."""


class Checkpoints:
    """The checkpoints in one directory. Use as a context manager: closing waits for the last save
    (Orbax loses an unfinished background save, with exit code 0).

    Of several processes all save and restore together; the first one alone verifies, moves and
    deletes.
    """

    def __init__(self, directory: str | Path, *, read_only: bool = False) -> None:
        """Open `directory`, which is made if need be (unless `read_only`).

        Raises:
            CheckpointError: it is not there, or cannot be written.
        """
        self.directory = Path(directory).absolute()  # Orbax refuses relative paths
        self._damaged = self.directory.with_name("damaged")
        self._deleted = self.directory / ".deleted"
        # Of the steps looked at so far: each is read once.
        self._problems: dict[int, list[str]] = {}
        self._rows: dict[int, dict[str, Any]] = {}
        self._saving: int | None = None
        self._saver: Any = None
        if read_only:
            if not self.directory.is_dir():
                raise CheckpointError(f"there are no checkpoints in {directory}")
            return
        if jax.process_index() == 0:
            self._prepare()
        self._saver = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                model=ocp.StandardCheckpointHandler(),
                train=ocp.StandardCheckpointHandler(),
                metrics=ocp.JsonCheckpointHandler("metrics"),
            ),
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                # Where making them in the background fails, other threads wait for them in vain.
                create_directories_asynchronously=False,
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
            error.add_note(f"Besides: {failed}")  # and not in its place

    def close(self) -> None:
        """Wait for the last save.

        Raises:
            CheckpointError: it could not be written.
        """
        try:
            self.wait()
        finally:
            if self._saver is not None:
                # What a failed save left behind in Orbax has been told by now.
                with suppress(Exception):
                    self._saver.close()

    # Writing.

    def save(
        self,
        state: TrainState,
        *,
        validation_accuracy: float | None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to save `state` under its step number; returns when it has been copied.

        Args:
            state: it may be donated afterwards.
            validation_accuracy: without one it can be the last checkpoint, never the best.
            progress: where in an unfinished epoch it stands, as plain JSON (floats come back to
                the bit). Such a checkpoint is never the best, and a later save of the same step
                replaces it; a whole one of the same step stays as it is.

        Raises:
            CheckpointError: this one, or the one before (saved in the background), cannot be
                written; or the directory holds a later step.
        """
        step = int(state.step)
        kept = json.loads(  # a copy, and a refusal of what is not JSON
            json.dumps({METRIC: validation_accuracy, PROGRESS: progress, MARK: True})
        )
        self.wait()
        if self._stands(step):
            return
        self._forget(step)
        with self._writing(step):
            self._saving = step  # before the background thread asks for it
            self._saver.save(
                self.directory / str(step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(state.variables),
                    train=ocp.args.StandardSave(_training_part(state)),
                    # Written in any case: a checkpoint without the file is damaged.
                    metrics=ocp.args.JsonSave(kept),
                ),
            )

    def wait(self) -> None:
        """Wait until the last save is on the disk, then delete what it made superfluous.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._saving is None:
            return
        with self._writing(self._saving):
            self._saver.wait_until_finished()
            self._saving = None
            if jax.process_index() == 0:
                manifest.sync_directory(self.directory)
        if jax.process_index() == 0:
            for step in self._superfluous():
                self._delete(step)
            shutil.rmtree(self._deleted, ignore_errors=True)

    def set_damaged_aside(self) -> list[int]:
        """Before resuming: move damaged checkpoints to ``damaged/`` beside this directory.

        Warns (`CheckpointWarning`) of each, once, naming the one used in its place.

        Returns:
            The steps moved.

        Raises:
            CheckpointError: all there are are damaged; none has been moved.
        """
        self.wait()
        if jax.process_index() != 0:
            return []
        bad = {step: found for step in self.steps() if (found := self._verify(step))}
        good = [step for step in self.steps() if step not in bad]
        if bad and not good:
            newest = max(bad)
            raise CheckpointError(
                f"every checkpoint in {self.directory} is damaged ({newest}: {_first(bad[newest])})"
                ": put good copies in their place, or begin anew with --overwrite"
            )
        for step, problems in bad.items():
            target = self._move_aside(step)
            warnings.warn(
                f"checkpoint {step} in {self.directory} is damaged ({_first(problems)}): it was "
                f"moved to {target}; the last good one is {good[-1]}",
                CheckpointWarning,
                stacklevel=2,
            )
        return list(bad)

    def _prepare(self) -> None:
        """Make the directory ready to be written, and show that it is, before hours of training."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory) as file:
                file.write(b"0")
            for leftover in self.directory.glob(f"*{_TEMPORARY}*"):
                shutil.rmtree(leftover)
            newest = max(self.steps(), default=-1)
            for old in _step_directories(self._deleted):
                # One that was being replaced when the process died, before its successor was there.
                if old > newest:
                    os.rename(self._deleted / str(old), self.directory / str(old))
            shutil.rmtree(self._deleted, ignore_errors=True)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.directory} ({_reason(error)}): "
                f"{_way_out(error)}"
            ) from error

    def _write_manifest(self) -> None:
        """Called by Orbax, in the background, in the first process: when all items of the step are
        written, and before the rename that makes it visible.
        """
        (temporary,) = self.directory.glob(f"{self._saving}{_TEMPORARY}*")
        manifest.write(temporary)

    def _stands(self, step: int) -> bool:
        """Whether there is a whole checkpoint of this step; one that is not goes out of the way."""
        newest = max(self.steps(), default=-1)
        if newest > step:
            raise CheckpointError(
                f"{self.directory} holds a checkpoint of step {newest}: one of step {step} would "
                "not be the last; resume from a copy that ends before it"
            )
        if newest < step:
            return False
        with suppress(CheckpointError):
            if self.progress(step) is None:
                return True
        if jax.process_index() == 0:
            self._delete(step)
        return False

    def _superfluous(self) -> list[int]:
        """All but the two newest (one to fall back on), the best, and what cannot be judged."""
        steps = self.steps()
        judged = {}
        for step in steps:
            with suppress(CheckpointError):
                judged[step] = self._metrics(step)
        return [s for s in judged if s not in steps[-2:] and s != _best(judged)]

    def _delete(self, step: int) -> None:
        """Out of the way by a rename: half a checkpoint is never seen. `wait` deletes it."""
        target = self._deleted / str(step)
        try:
            self._deleted.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            os.rename(self.directory / str(step), target)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} is not needed any more and cannot be "
                f"deleted ({_reason(error)}): {_way_out(error)}"
            ) from error
        self._forget(step)

    def _move_aside(self, step: int) -> Path:
        target, number = self._damaged / str(step), 1
        while target.exists():
            number += 1
            target = self._damaged / f"{step}.{number}"
        try:
            self._damaged.mkdir(exist_ok=True)
            # Where `checkpoints` is a link to another disk, this copies.
            shutil.move(self.directory / str(step), target)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} is damaged and cannot be moved to {target} "
                f"({_reason(error)}): {_way_out(error)}"
            ) from error
        self._forget(step)
        return target

    def _forget(self, step: int) -> None:
        self._problems.pop(step, None)
        self._rows.pop(step, None)

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Whatever kind of error Orbax and TensorStore raise where a save fails: make it one."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            self._saving = None
            good = [s for s in self.steps() if s != step and not self._verify(s)]
            others = f"the earlier ones, {good}, are intact" if good else "there is no earlier one"
            raise CheckpointError(
                f"checkpoint {step} could not be written to {self.directory} ({_reason(error)}); "
                f"{others}: {_way_out(error)}"
            ) from error

    # Reading.

    def steps(self) -> list[int]:
        """The complete checkpoints' steps, ascending."""
        return _step_directories(self.directory)

    def find(self, which: Which) -> int:
        """The step of the best, the last or a given checkpoint, verified against its manifest.

        Raises:
            CheckpointError: there is none, or not that one, or it is damaged.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.directory} holds no complete checkpoint")
        if which == "last":
            step = steps[-1]
        elif which == "best":
            best = _best({step: self._metrics(step) for step in steps})
            if best is None:
                raise CheckpointError(
                    f"{self.directory} holds no checkpoint of a finished epoch, hence no best one: "
                    f"name last, {_either(steps)}"
                )
            step = best
        elif which in steps:
            step = which
        else:
            raise CheckpointError(
                f"{self.directory} holds no checkpoint of step {which}: choose best, last, "
                f"{_either(steps)}"
            )
        if problems := self._verify(step):
            raise self._damage(step, problems)
        return step

    def validation_accuracy(self, step: int) -> float | None:
        """The validation accuracy stored with a step, if it was validated."""
        return self._metrics(step)[METRIC]

    def progress(self, step: int) -> dict[str, Any] | None:
        """Where in an unfinished epoch a step stands, as it was saved; None at an epoch's end."""
        return self._metrics(step).get(PROGRESS)

    def restore_weights(
        self,
        target: Mapping[str, PyTree],
        which: Which = "best",
        *,
        sharding: jax.sharding.Sharding | None = None,
    ) -> PyTree:
        """``{"params", "batch_stats"}`` of one checkpoint.

        Args:
            target: variables of the model, arrays or shapes (`jax.eval_shape`).
            which: "best", "last" or a step.
            sharding: of every leaf, whatever devices it was saved from; by default the first one.

        Raises:
            CheckpointError: no such checkpoint, a damaged one, or one of another model.
        """
        return self._restore(self.find(which), sharding, model=target)["model"]

    def restore_state(
        self,
        target: TrainState,
        which: Which = "last",
        *,
        sharding: jax.sharding.Sharding | None = None,
    ) -> TrainState:
        """The whole state of one checkpoint, to go on training from.

        Args:
            target: a state of the same model and optimizer, arrays or shapes.
            which: "best", "last" or a step.
            sharding: of every leaf, whatever devices it was saved from; by default the first one.

        Raises:
            CheckpointError: no such checkpoint, a damaged one, or of another model or optimizer.
        """
        restored = self._restore(
            self.find(which), sharding, model=target.variables, train=_training_part(target)
        )
        return TrainState(**restored["model"], **restored["train"])

    def _verify(self, step: int) -> list[str]:
        """What is wrong with a step's files. Each step is read once."""
        if jax.process_index() != 0:
            return []
        if step not in self._problems:
            self._problems[step] = self._verify_files(step)
        return self._problems[step]

    def _verify_files(self, step: int, below: str = "") -> list[str]:
        directory = self.directory / str(step)
        if not _has_manifest(directory):
            if below == "":
                warnings.warn(
                    f"checkpoint {step} in {self.directory} was written by an older jaxcifar, "
                    "without a manifest: whether it is damaged cannot be told",
                    CheckpointWarning,
                    stacklevel=4,
                )
            return []
        return manifest.verify(directory, below)

    def _damage(self, step: int, problems: Sequence[str]) -> CheckpointError:
        others = [s for s in self.steps() if s != step and not self._verify(s)]
        return CheckpointError(
            f"checkpoint {step} in {self.directory} is damaged: {_first(problems)}; "
            + (f"name a good one, {_either(others)}" if others else "there is no good one")
        )

    def _metrics(self, step: int) -> dict[str, Any]:
        """The small JSON file of a step; it alone is verified."""
        if step in self._rows:
            return self._rows[step]
        if problems := self._verify_files(step, "metrics/"):
            raise self._damage(step, problems)
        try:
            row = _read_metrics(self.directory / str(step))
            if not isinstance(row[METRIC], float | int | None):
                raise TypeError(f"{METRIC} is {row[METRIC]!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damage(step, [f"metrics/metrics cannot be read ({error!r})"]) from error
        self._rows[step] = row
        return row

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Orbax and TensorStore raise many kinds of error: make them one."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} cannot be read ({_reason(error)}); its "
                f"steps are {self.steps()}"
            ) from error

    def _restore(
        self, step: int, sharding: jax.sharding.Sharding | None, **targets: PyTree
    ) -> dict[str, Any]:
        """Named items of a step, checked to fit the targets' shapes."""
        handler = ocp.StandardCheckpointHandler()
        restored = {}
        # Item by item: what lies above them, Orbax rewrites after the manifest.
        with self._reading(step), ocp.Checkpointer(handler) as reader:
            for item, target in targets.items():
                path = self.directory / str(step) / item
                self._check_fits(step, item, target, handler.metadata(path))
                found = reader.restore(
                    path, args=ocp.args.StandardRestore(_placed(target, sharding))
                )
                restored[item] = found if sharding else jax.tree.map(_uncommitted, found)
        return restored

    def _check_fits(self, step: int, item: str, target: PyTree, metadata: Any) -> None:
        stored = {name: tuple(leaf.shape) for name, leaf in named_leaves(metadata.tree).items()}
        wanted = {name: _stored_shape(leaf) for name, leaf in named_leaves(target).items()}
        differing = [n for n in {**wanted, **stored} if stored.get(n) != wanted.get(n)]
        if differing:
            name = differing[0]
            rest = f" (and {len(differing) - 1} more leaves differ)" if len(differing) > 1 else ""
            what = "model" if item == "model" else "optimizer"
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} does not fit the {what}: {name} is "
                f"{_said(stored.get(name))} in the checkpoint and {_said(wanted.get(name))} in the "
                f"{what}{rest}; build it from the recipe in the run's config.json"
            )


def _step_directories(directory: Path) -> list[int]:
    """The step numbers that name directories, ascending."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def _read_metrics(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(directory / "metrics" / "metrics")
    return found


def _has_manifest(directory: Path) -> bool:
    """Whether a step has one or lacks one that it had: all but those of older versions."""
    if os.path.lexists(directory / manifest.NAME):
        return True
    try:
        return MARK in _read_metrics(directory)
    except (OSError, ValueError, TypeError):
        return True


def _best(metrics: Mapping[int, Mapping[str, Any]]) -> int | None:
    """The step of the best validation accuracy, of equals the later one; those that were not
    validated come last, and unfinished epochs do not count.
    """
    whole = {step: row[METRIC] for step, row in metrics.items() if row.get(PROGRESS) is None}
    return max(whole, key=lambda s: (-1.0 if whole[s] is None else whole[s], s), default=None)


def _training_part(state: TrainState) -> dict[str, PyTree]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def _is_key(leaf: Any) -> bool:
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _stored_shape(leaf: Any) -> tuple[int, ...]:
    """A PRNG key is stored as its words."""
    if not _is_key(leaf):
        return tuple(leaf.shape)
    return tuple(leaf.shape) + jax.eval_shape(jax.random.key_data, leaf).shape[leaf.ndim :]


def _uncommitted(leaf: jax.Array) -> jax.Array:
    """A copy on the default device that is not bound to it, as a new state's leaves are not.

    Programs are compiled for the one or the other: from bound leaves a resumed run compiled its
    steps anew in spite of the cache, and once more within the first epoch.
    """
    if _is_key(leaf):
        words = _uncommitted(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    # A copy by JAX, in memory of its own, since programs are given their state for good.
    return jnp.copy(jnp.asarray(np.asarray(leaf)))


def _placed(target: PyTree, sharding: jax.sharding.Sharding | None) -> PyTree:
    """Shapes on devices of ours, whatever devices the checkpoint was saved from."""
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), target
    )


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(shape)


def _either(steps: Sequence[int]) -> str:
    return " or ".join(map(str, steps))


def _first(problems: Sequence[str]) -> str:
    return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _errno(error: BaseException) -> int | None:
    """The system's error number; TensorStore hides it in the text of a ValueError."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


def _reason(error: BaseException) -> str:
    number = _errno(error)
    if number is not None:
        return os.strerror(number)
    return (str(error).strip().split("\n")[0] or repr(error))[:200]


def _way_out(error: BaseException) -> str:
    number = _errno(error)
    if number in (ENOSPC, EDQUOT):
        return "free some space there, then go on with --resume"
    if number == EFBIG:
        return "raise the limit on file sizes (ulimit -f), then go on with --resume"
    if number in (EACCES, EPERM, EROFS):
        return "make it writable, or choose another --workdir"
    return "when that is mended, go on with --resume"
