"""What the page of a report shows: runs, sweeps and galleries, whether they have run or not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxcifar.common.errors import RunError
from jaxcifar.common.messages import escaped
from jaxcifar.studies.reproduction.page import Picture
from jaxcifar.studies.reproduction.stored_run import StoredRun, read_run, read_run_or_none

Scale = Literal["smoke", "full"]
NOT_RUN = "not run"


@dataclass(frozen=True)
class Reported:
    """Figures of the course report: one run, on a Colab GPU."""

    train: float
    validation: float
    test: float
    seconds: int

    @property
    def accuracies(self) -> tuple[float, float, float]:
        """Train, validation, test."""
        return self.train, self.validation, self.test


@dataclass(frozen=True)
class Entry:
    """A training run of the plan, once for each seed.

    Attributes:
        name: its id.
        title: one line on what it trains.
        preset: the name of its recipe in `presets.EXPERIMENTS`.
        faithful: the preset that follows the course report, which this run is compared with.
        reported: the report's figures for it.
        paths: run directories, one per seed.
        reason: why it did not run, if known.
        compared: whether it is in the comparison of accuracy and time.
        pictures: curves of every seed, and the confusion matrix of the first.
    """

    name: str
    title: str
    preset: str
    faithful: str
    reported: Reported | None
    paths: tuple[Path, ...]
    reason: str | None = None
    compared: bool = True
    pictures: tuple[Picture, ...] = ()

    def runs(self) -> list[StoredRun]:
        """The started runs; damaged ones are left out (`state` names them)."""
        return [run for run in map(read_run_or_none, self.paths) if run is not None]

    def complete(self) -> list[StoredRun]:
        """The complete runs."""
        return [run for run in self.runs() if run.summary is not None]

    def state(self) -> str:
        """How far it is, in words."""
        complete, started = self.complete(), self.runs()
        because = f": {self.reason}" if self.reason else ""
        if len(complete) == len(self.paths):
            return "complete"
        if complete:
            return f"complete for {len(complete)} of {len(self.paths)} seeds{because}"
        if started:
            epochs = len(started[0].history.rows)
            return f"stopped after epoch {epochs} of {started[0].epochs}{because}"
        for path in self.paths:
            try:
                read_run(path)
            except RunError as error:
                return f"{NOT_RUN}: {without_folder(str(error), path)}"
        return NOT_RUN + because

    def run_name(self, run: StoredRun) -> str:
        """The name of one run, which includes its seed unless it is the first.

        If the entry's run is a member of a sweep, this is the entry's name.
        """
        return run.path.name if run.path.name.startswith(self.name) else self.name


@dataclass(frozen=True)
class SweepEntry:
    """A sweep: a run for each value of one field of a preset's recipe."""

    name: str
    title: str
    preset: str
    field: str
    members: tuple[tuple[float, Path], ...]  # (value, run directory)
    reason: str | None = None
    pictures: tuple[Picture, ...] = ()

    def runs(self) -> list[StoredRun]:
        """The started members; damaged ones are left out."""
        runs = (read_run_or_none(path) for _, path in self.members)
        return [run for run in runs if run is not None]


@dataclass(frozen=True)
class Gallery:
    """A section of pictures."""

    title: str
    text: str
    pictures: tuple[Picture, ...]
    missing: str | None = None  # why pictures are missing, if some are


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    scale: Scale
    entries: tuple[Entry, ...]
    sweeps: tuple[SweepEntry, ...] = ()
    comparison: Picture | None = None
    galleries: tuple[Gallery, ...] = ()
    command: str = "jaxcifar reproduce"

    def named_runs(self) -> list[tuple[str, StoredRun]]:
        """The started runs and members of sweeps with their names."""
        named = [(entry.run_name(run), run) for entry in self.entries for run in entry.runs()]
        return named + [
            (f"{sweep.name}/{run.path.name}", run) for sweep in self.sweeps for run in sweep.runs()
        ]


def without_folder(text: str, path: Path) -> str:
    """A message in which only the name of `path` is left, without its folder on this machine."""
    for form in (path.resolve(), path.absolute()):  # with links followed, and without
        if form.name:  # the root has none
            text = text.replace(escaped(form), escaped(form.name))
    return text
