"""A run directory: which files it holds and when it may be written.

::

    config.json      the recipe and what it ran on
    metrics.jsonl    one line an epoch
    summary.json     written once, when the run is complete
    checkpoints/     Orbax, see `checkpoint`
    damaged/         checkpoints that a resume found damaged
    figures/         curves.png, ...
    .lock            while a process writes the run
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EAGAIN
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import RunError
from jaxcifar.common.files import (
    AnyNumber,
    Shape,
    Unusable,
    misfit,
    parse_json,
    read_bytes,
    read_json,
    write_atomically,
)
from jaxcifar.runs.history import History, Row

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
MOST_METRICS = 64 << 20  # bytes of metrics.jsonl; an epoch's line has 350
# What is read may come from anyone, see `untrusted`. A row has numbers alone, and of the rest:
ROW: Shape = {
    "epoch": int,
    "step": int,
    "seconds?": float,
    "validation_seconds?": float,
    "images_per_second?": float,
}
COLUMNS = (
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "seconds",
    "validation_seconds",
    "images_per_second",
)
CONFIG: Shape = {
    "recipe": dict,
    "experiment?": str,
    "data_fingerprint?": str,
    "weights?": (None, {"source": str, "sha256": str}),
}
SCORE: Shape = {
    "step?": int,
    "validation_accuracy": AnyNumber,
    "test": {"accuracy": AnyNumber, "loss?": AnyNumber, "examples?": int},
}
SUMMARY: Shape = {
    "epochs?": int,
    "parameters?": int,
    "trainable_parameters?": int,
    "train_accuracy": AnyNumber,
    "train_seconds": float,
    "validation_seconds?": float,
    "images_per_second?": float,
    "best": SCORE,
    "last": SCORE,
}


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def damaged(self) -> Path:
        return self.path / "damaged"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def holds_run(self) -> bool:
        """Whether a run was begun here; other tools, too, keep a config.json."""
        try:
            return isinstance(read_object(self.config).get("recipe"), dict)
        except RunError:
            return False

    def check_free(self, *, overwrite: bool) -> None:
        """Refuse a directory that holds a run (unless `overwrite`) or anything else, or that
        cannot be written.

        Raises:
            RunError: naming the directory and the way out. Nothing is changed.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a directory: choose another --workdir")
        if self.holds_run():
            if not overwrite:
                raise RunError(
                    f"{self.path} holds a run: continue it with --resume, replace it with "
                    "--overwrite, or choose another --workdir"
                )
        elif self.path.is_dir() and not self._is_empty():
            raise RunError(
                f"{self.path} is not empty and holds no run (no config.json with a recipe): it is "
                "left as it is; choose another --workdir"
            )
        existing = next(
            path for path in (self.path, *self.path.absolute().parents) if path.exists()
        )
        if not existing.is_dir():
            raise RunError(f"{existing} is a file, not a directory: choose another --workdir")
        effective = os.access in os.supports_effective_ids
        if not os.access(existing, os.W_OK | os.X_OK, effective_ids=effective):
            raise RunError(f"{existing} cannot be written: choose another --workdir")

    def _is_empty(self) -> bool:
        return all(path == self._lock for path in self.path.iterdir())

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing the run meanwhile; the directory is made if need be.

        The lock is the system's and ends with the process, however that ends. Call `check_free` or
        `read_config` first, so that nothing is put into a directory of somebody else's, and again
        inside, for what happened before. Does nothing where the system or the disk has no locks.

        Raises:
            RunError: another process holds it, or the directory cannot be written.
        """
        if fcntl is None:
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = self._locked()
        except OSError as error:
            raise RunError(_cannot_write(self.path, error)) from error
        try:
            yield
        finally:
            # Before it is unlocked: whoever opens it from now on makes a new one.
            with suppress(OSError):
                self._lock.unlink()
            os.close(descriptor)

    def _locked(self) -> int:
        """A descriptor of the lock file, locked; closing it unlocks."""
        while True:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
                if error.errno not in (EAGAIN, EACCES):
                    return descriptor  # a disk without locks
                os.close(descriptor)
                who = f" (pid {holder})" if holder else ""
                raise RunError(
                    f"{self.path} is in use by another process{who}: wait for it, or choose "
                    "another --workdir"
                ) from None
            # Its holder may have removed it between our opening and our locking it.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._lock.stat()):
                    break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return descriptor

    def create(self, config: dict[str, Any]) -> None:
        """Begin a run, removing the files of an earlier one but nothing else in the directory.

        The old config.json is replaced last: killed at any point, the directory still counts as a
        run, which --overwrite and --resume can deal with.

        Raises:
            RunError: the directory cannot be written.
        """
        try:
            for folder in (self.checkpoints, self.damaged, self.figures):
                if folder.exists():
                    shutil.rmtree(folder)
            for old in (self.metrics, self.summary):
                old.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_config(config)
        except OSError as error:
            raise RunError(_cannot_write(self.path, error)) from error

    def read_config(self) -> dict[str, Any]:
        """The run's configuration.

        Raises:
            RunError: the directory is missing, empty or foreign, or its config.json is damaged.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no run directory {self.path}")
        if not self.config.is_file():
            kind = "is empty" if self._is_empty() else "holds no run (no config.json)"
            raise RunError(
                f"{self.path} {kind}: name a directory that scripts/train.py has written"
            )
        config = read_object(self.config)
        if not self.holds_run():
            raise RunError(f"{self.config} has no recipe: was it written by jaxcifar?")
        check_shape(config, CONFIG, self.config)
        return config

    def read_history(self) -> History:
        """The epochs finished so far. A last line cut off by a crash is dropped.

        Raises:
            RunError: a damaged line before the last, or one that is no epoch's.
        """
        if not self.metrics.is_file():
            return History()
        try:
            lines = read_bytes(self.metrics, MOST_METRICS).split(b"\n")
        except Unusable as error:
            raise RunError(str(error)) from None
        rows = []
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            name = f"{self.metrics}, line {number},"
            try:
                row = parse_json(line, name)
            except Unusable as error:
                if number == len(lines):
                    break
                raise RunError(str(error)) from None
            if problem := misfit(row, {"*": (None, AnyNumber)}) or misfit(row, ROW):
                raise RunError(f"{name} is no epoch's: {problem}")
            rows.append(row)
        return History(rows)

    def append_row(self, row: Row) -> None:
        """Add an epoch's line and put it on the disk."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_history(self, step: int) -> History:
        """Drop the epochs after `step`, which a crash left without their checkpoint.

        Raises:
            RunError: as `read_history`, or an epoch lacks what going on from it needs.
        """
        rows = self.read_history().rows
        kept = [row for row in rows if row["step"] <= step]
        for name in COLUMNS:
            if any(name not in row for row in kept):
                raise RunError(f"{self.metrics} has an epoch without {name}: it was changed")
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return History(kept)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json, atomically."""
        write_atomically(self.config, json.dumps(config, indent=2) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, atomically."""
        write_atomically(self.summary, json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any] | None:
        """The summary of a complete run, or None.

        Raises:
            RunError: it is damaged.
        """
        if not self.summary.is_file():
            return None
        summary = read_object(self.summary)
        check_shape(summary, SUMMARY, self.summary)
        return summary


def _cannot_write(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error.strerror}): choose another --workdir"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RunError: it cannot be read, or holds something else.
    """
    try:
        value = read_json(path)
    except Unusable as error:
        raise RunError(str(error)) from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def check_shape(value: dict[str, Any], shape: Shape, path: Path) -> None:
    """Refuse an object of a file that has not what it should, see `untrusted.misfit`.

    Raises:
        RunError: naming the file and what is wrong.
    """
    if problem := misfit(value, shape):
        raise RunError(f"{path} is damaged: {problem}")
