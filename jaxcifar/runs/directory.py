"""A run directory: which files it holds, and who may write it when.

::

    config.json      the recipe, the data, the weights and the machine
    metrics.jsonl    one line per epoch
    summary.json     written once, when the run is complete
    checkpoints/     see `checkpoints.Checkpoints`
    damaged/         checkpoints that a resume found damaged
    figures/         curves.png, ...
    .lock            exists while a process writes the run
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
from jaxcifar.common.files import Unusable, parse_json, read_bytes, write_atomically
from jaxcifar.common.json_shape import AnyNumber, misfit
from jaxcifar.runs.history import History, Row
from jaxcifar.runs.shapes import COLUMNS, CONFIG, ROW, SUMMARY, check_shape, read_object

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
MAX_METRICS = 64 << 20  # bytes of metrics.jsonl; an epoch's line has 350


@dataclass(frozen=True)
class RunDirectory:
    """The files in a run directory: their paths, and how they are read and written."""

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
        """Whether a run was started here; other tools' config.json has no recipe."""
        try:
            return isinstance(read_object(self.config).get("recipe"), dict)
        except RunError:
            return False

    def check_free(self, *, overwrite: bool) -> None:
        """Refuse a directory that cannot be written, or that is not empty.

        With `overwrite` it may hold a run. Nothing is changed.

        Raises:
            RunError: naming the directory and the way out.
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
                f"{self.path} is not empty and holds no run (no config.json with a recipe); "
                "nothing was changed: choose another --workdir"
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
        """Keep other processes from writing the run; the directory is made if needed.

        The system holds the lock and releases it when the process ends, however it ends. Call
        `check_free` or `read_config` before it, so that nothing is written into a directory that
        belongs to something else, and again inside it, in case that changed. Does nothing if the
        system or the disk has no locks.

        Raises:
            RunError: another process holds the lock, or the directory cannot be written.
        """
        if fcntl is None:
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = self._acquire_lock()
        except OSError as error:
            raise RunError(_cannot_write(self.path, error)) from error
        try:
            yield
        finally:
            # Remove it before unlocking: whoever opens it from now on makes a new one.
            with suppress(OSError):
                self._lock.unlink()
            os.close(descriptor)

    def _acquire_lock(self) -> int:
        """Open the lock file and lock it; closing the descriptor unlocks it."""
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
            # The previous holder may have removed the file after we opened and before we locked it.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._lock.stat()):
                    break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return descriptor

    def create(self, config: dict[str, Any]) -> None:
        """Start a run: remove the files of an earlier one, and nothing else in the directory.

        The old config.json is replaced last: whenever the process is killed, the directory still
        holds a run, which --overwrite and --resume can handle.

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
            RunError: the directory is missing, empty or not a run's, or config.json is damaged.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no run directory {self.path}")
        if not self.config.is_file():
            kind = "is empty" if self._is_empty() else "holds no run (no config.json)"
            raise RunError(f"{self.path} {kind}: name a directory written by jaxcifar train")
        config = read_object(self.config)
        if not self.holds_run():
            raise RunError(f"{self.config} has no recipe: was it written by jaxcifar?")
        check_shape(config, CONFIG, self.config)
        return config

    def read_history(self) -> History:
        """The epochs finished so far. A last line that a crash cut off is dropped.

        Raises:
            RunError: another line is damaged, or a line does not describe an epoch.
        """
        if not self.metrics.is_file():
            return History()
        try:
            lines = read_bytes(self.metrics, MAX_METRICS).split(b"\n")
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
                raise RunError(f"{name} does not describe an epoch: {problem}")
            rows.append(row)
        return History(rows)

    def append_row(self, row: Row) -> None:
        """Append an epoch's line and sync it to the disk."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_history(self, step: int) -> History:
        """Keep the epochs up to `step`; a crash left the later ones without their checkpoint.

        Raises:
            RunError: as `read_history`, or an epoch lacks a value that resuming needs.
        """
        rows = [row for row in self.read_history().rows if row["step"] <= step]
        for name in COLUMNS:
            if any(name not in row for row in rows):
                raise RunError(
                    f"{self.metrics} has an epoch without {name}: it was changed after training"
                )
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        return History(rows)

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
