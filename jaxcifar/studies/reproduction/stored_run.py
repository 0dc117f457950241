"""A run of the plan as its directory holds it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import RunError
from jaxcifar.common.json_shape import Shape
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History
from jaxcifar.runs.shapes import check_shape

# What the page shows of config.json and summary.json, in addition to `runs.shapes`.
_MACHINE: Shape = {
    "device": str,
    "devices": int,
    "processor": str,
    "cores": (None, int),
    "python": str,
    "versions": {"jax": str, "*": str},
}
_CONFIG: Shape = {
    "recipe": {"epochs": int, "seed": int},
    "machine": _MACHINE,
    "resumed?": [{"step": int, "machine?": _MACHINE}],
}
_SCORE: Shape = {"step": int, "test": {"accuracy": float, "examples": int}}
_SUMMARY: Shape = {
    "epochs": int,
    "parameters": int,
    "trainable_parameters": int,
    "train_accuracy": float,
    "validation_seconds": float,
    "images_per_second": float,
    "best": _SCORE,
    "last": _SCORE,
}


@dataclass(frozen=True)
class StoredRun:
    """The contents of a run directory; `summary` is None until the run is complete."""

    path: Path
    config: Mapping[str, Any]
    history: History
    summary: Mapping[str, Any] | None

    @property
    def accuracies(self) -> tuple[float, float, float]:
        """Train (the mean while training), validation and test accuracy of the last epoch."""
        assert self.summary is not None
        last = self.summary["last"]
        return (
            self.summary["train_accuracy"],
            last["validation_accuracy"],
            last["test"]["accuracy"],
        )

    @property
    def train_seconds(self) -> float:
        """The training time of a complete run."""
        assert self.summary is not None
        return float(self.summary["train_seconds"])

    @property
    def resumed(self) -> list[int]:
        """After which steps it was resumed."""
        return [resumed["step"] for resumed in self.config.get("resumed", [])]

    @property
    def machines(self) -> list[Mapping[str, Any]]:
        """Those it ran on, the first one first."""
        resumed = self.config.get("resumed", [])
        return [self.config["machine"], *(each["machine"] for each in resumed if "machine" in each)]

    @property
    def epochs(self) -> int:
        """How many epochs its recipe has."""
        return int(self.config["recipe"]["epochs"])


def read_run(path: Path) -> StoredRun | None:
    """The run in a directory, or None if none was started.

    Raises:
        RunError: one of its files is damaged.
    """
    run_dir = RunDirectory(path)
    if not run_dir.config.is_file():
        return None
    config, summary = run_dir.read_config(), run_dir.read_summary()
    check_shape(config, _CONFIG, run_dir.config)
    if summary is not None:
        check_shape(summary, _SUMMARY, run_dir.summary)
    run = StoredRun(path, config, run_dir.read_history(), summary)
    # A run that was given more epochs keeps its summary until it continues.
    complete = summary is not None and summary.get("epochs") == run.epochs
    return run if complete else dataclasses.replace(run, summary=None)


def read_run_or_none(path: Path) -> StoredRun | None:
    """The run in a directory, or None if none was started or it is damaged."""
    try:
        return read_run(path)
    except RunError:
        return None


def complete_run(path: Path) -> StoredRun | None:
    """The run in a directory if it is complete and not damaged."""
    run = read_run_or_none(path)
    return None if run is None or run.summary is None else run
