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
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import RunError
from jaxcifar.common.files import Unusable, parse_json, read_bytes
from jaxcifar.common.json_shape import AnyNumber, misfit
from jaxcifar.common.lock import cannot_write, hold, in_use, surely_free
from jaxcifar.common.writing import (
    append_line,
    is_empty,
    is_left_by_us,
    make_folder,
    remove,
    write_atomically,
)
from jaxcifar.runs.description import check_described
from jaxcifar.runs.disk_errors import reason, way_out
from jaxcifar.runs.history import History, Row
from jaxcifar.runs.shapes import COLUMNS, CONFIG, ROW, SUMMARY, check_shape, read_object

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

    def holds_training(self) -> bool:
        """Whether a run was started here, and there is more of it than its config.json.

        A start that failed leaves a run in which nothing was trained: it stands in nobody's way.
        Whatever else is there counts as trained: nothing of it may be lost.
        """
        return self.holds_run() and not self._is_untrained()

    def _is_untrained(self) -> bool:
        """Whether nothing but config.json and empty folders of ours is here.

        Without locks it could be the first epoch of a living process.
        """
        if not surely_free(self.path):
            return False
        made = {self.checkpoints.name, self.damaged.name, self.figures.name}
        try:
            for name in os.listdir(self.path):
                path = self.path / name
                if path == self.config or is_left_by_us(name):
                    continue
                if path == self.metrics and path.is_file() and not path.stat().st_size:
                    continue
                if name not in made or path.is_symlink() or not is_empty(path):
                    return False
        except OSError:  # it cannot be read: nothing is known about it
            return False
        return True

    def check_free(self, *, overwrite: bool) -> None:
        """Refuse a directory that cannot be written, or that is not empty.

        It may hold a run in which nothing was trained and, with `overwrite`, any run. Nothing is
        changed.

        Raises:
            RunError: naming the directory and the way out.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a directory: choose another --workdir")
        self.check_links()
        if self.holds_run():
            if not overwrite and (used := in_use(self.path)):
                raise RunError(used)
            if not overwrite and self.holds_training():
                raise RunError(
                    f"{self.path} holds a run: continue it with resume=True (--resume), replace it "
                    "with overwrite=True (--overwrite), or choose another --workdir"
                )
        elif self.path.is_dir() and not is_empty(self.path):
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

    def check_links(self) -> None:
        """Refuse to write where a link leads: the directory may come from somebody else.

        Raises:
            RunError: naming the link, or a path that `check_path` refuses.
        """
        check_path(self.path)
        refuse_links(self.checkpoints, self.damaged, self.figures)

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing the run, see `lock.hold`."""
        return hold(self.path)

    def create(self, config: dict[str, Any]) -> None:
        """Start a run: remove the files of an earlier one, and nothing else in the directory.

        The old config.json is replaced last: whenever the process is killed, the directory still
        holds a run, which --overwrite and --resume can handle.

        Raises:
            RunError: the directory cannot be written.
        """
        try:
            for old in (self.checkpoints, self.damaged, self.figures, self.metrics, self.summary):
                remove(old)
            make_folder(self.path)
            self.write_config(config)
        except OSError as error:
            raise RunError(cannot_write(self.path, error)) from error

    def read_config(self) -> dict[str, Any]:
        """The run's configuration.

        Raises:
            RunError: the directory is missing, empty or not a run's, or config.json is damaged.
        """
        if not self.path.is_dir():
            if self.path.is_file():
                raise RunError(
                    f"{self.path} is a file, not a run directory; of a file of weights, jaxcifar "
                    "predict and features take the path, and visualize takes it with --weights"
                )
            raise RunError(f"there is no run directory {self.path}")
        if not self.config.is_file():
            if is_empty(self.path):
                raise RunError(
                    f"{self.path} is empty: no run was started in it; start one without --resume"
                )
            raise RunError(
                f"{self.path} holds no run (no config.json): name a directory written by jaxcifar "
                "train"
            )
        config = read_object(self.config)
        if not self.holds_run():
            raise RunError(f"{self.config} has no recipe: was it written by jaxcifar?")
        check_shape(config, CONFIG, self.config)
        check_described(config, self.config)
        return config

    def read_history(self) -> History:
        """The epochs finished so far. A last line that a crash cut off is dropped.

        Raises:
            RunError: another line is damaged, or the lines do not describe the epochs 1 to n.
        """
        if not self.metrics.is_file():
            return History()
        try:
            lines = read_bytes(self.metrics, MAX_METRICS).split(b"\n")
        except Unusable as error:
            raise RunError(str(error)) from None
        rows: list[Row] = []
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
            if problem := _out_of_order(rows):
                raise RunError(
                    f"{name} {problem}: the file was changed after training; put a good copy back, "
                    "or start again with --overwrite"
                )
        return History(rows)

    def append_row(self, row: Row) -> None:
        """Append an epoch's line and sync it to the disk.

        Raises:
            RunError: it cannot be written.
        """
        with writing(self.metrics):
            append_line(self.metrics, json.dumps(row))

    def keep_history(self, step: int) -> History:
        """Keep the epochs up to `step`; a crash left the later ones without their checkpoint.

        If there are later ones, the summary goes, too: it is of them.

        Raises:
            RunError: as `read_history`, an epoch lacks a value that resuming needs, or the epochs
                do not reach `step`.
        """
        found = self.read_history().rows
        rows = [row for row in found if row["step"] <= step]
        reached = rows[-1]["step"] if rows else 0
        if reached != step:
            raise RunError(
                f"{self.metrics} has epochs up to step {reached}, and the checkpoint ends one at "
                f"step {step}: put a good copy back, or start again with --overwrite"
            )
        for name in COLUMNS:
            if any(name not in row for row in rows):
                raise RunError(
                    f"{self.metrics} has an epoch without {name}: it was changed after training"
                )
        with writing(self.metrics):
            if len(rows) < len(found):  # before its epochs: killed meanwhile, it is not believed
                remove(self.summary)
            write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        return History(rows)

    def note_resumed(self, step: int, machine: dict[str, Any]) -> None:
        """Add to config.json that the run goes on after `step`, and on which machine.

        Before the first step it begins anew: then this is its machine.

        Raises:
            RunError: it cannot be read or written.
        """
        config = self.read_config()
        noted = config.pop("resumed", [])
        if step == 0:
            config["machine"] = machine
        else:
            machines = [config.get("machine"), *(n["machine"] for n in noted if "machine" in n)]
            other = {} if machine == machines[-1] else {"machine": machine}
            # A job that dies again and again at one place is noted once.
            if other or not noted or noted[-1]["step"] != step:
                noted = [*noted, {"step": step} | other]
            config["resumed"] = noted
        with writing(self.config):
            self.write_config(config)

    def note_asked_to_stop(self, epoch: int, epochs: int) -> None:
        """Add to config.json that `on_epoch` ended the run of so many epochs after this one.

        Killed before its summary is written, the run is over all the same.

        Raises:
            RunError: it cannot be read or written.
        """
        config = self.read_config() | {"asked_to_stop": {"after_epoch": epoch, "of": epochs}}
        with writing(self.config):
            self.write_config(config)

    def forget_asked_to_stop(self) -> None:
        """Take the note back: the run goes on.

        Raises:
            RunError: it cannot be read or written.
        """
        config = self.read_config()
        if config.pop("asked_to_stop", None) is not None:
            with writing(self.config):
                self.write_config(config)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json, atomically; see `writing`."""
        write_atomically(self.config, json.dumps(config, indent=2) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, atomically.

        Raises:
            RunError: it cannot be written.
        """
        with writing(self.summary):
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


def _out_of_order(rows: Sequence[Row]) -> str | None:
    """What is wrong with the last of some rows, if it does not continue the others."""
    number, row = len(rows), rows[-1]
    if row["epoch"] != number:
        return f"describes epoch {row['epoch']}, and epoch {number} comes next"
    steps = rows[0]["step"]
    if steps < 1 or row["step"] != number * steps:
        return f"ends epoch {number} at step {row['step']}, and an epoch has {steps} steps"
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file of a run cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written ({reason(error)}): {way_out(error)}") from error


def check_path(path: Path, option: str = "--workdir") -> None:
    """Refuse a directory in which no checkpoint could be written, before anything is trained.

    Args:
        path: of the directory, which need not exist.
        option: that names another one, for messages.

    Raises:
        RunError: bytes of the path are not UTF-8, which TensorStore cannot open; or it starts at
            the working directory, and that was deleted.
    """
    try:
        whole = str(path.absolute())
    except FileNotFoundError:
        raise RunError(
            f"{path} cannot be found: the working directory was deleted; change to one that "
            f"exists, or give an absolute {option}"
        ) from None
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise RunError(
            f"{whole} has bytes in its name that are not UTF-8, and checkpoints cannot be written "
            f"there: rename it, or choose another {option}"
        ) from None


def refuse_links(*folders: Path) -> None:
    """Refuse folders that are links: nothing of ours is written where one leads.

    Raises:
        RunError: naming the first.
    """
    for folder in folders:
        if folder.is_symlink():
            raise RunError(
                f"{folder} is a link, and nothing is written through one: put the folder itself "
                "there (the whole directory may be reached by a link)"
            )
