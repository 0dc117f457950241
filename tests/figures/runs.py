"""Figures of whole runs, as `collect_run` wrote them, and those of the course report."""

from statistics import mean, stdev
from typing import Any

from jaxcifar.studies.reproduction.plan import REPORTED
from tests.figures.reading import result


def run(name: str) -> dict[str, Any]:
    return result(f"run_{name}_cpu")


def last(name: str) -> tuple[float, ...]:
    """Train, validation and test accuracy of a run's last epoch."""
    return of_last_epoch(run(name))


def of_last_epoch(run: dict[str, Any]) -> tuple[float, ...]:
    summary = run["summary"]
    scores = summary["last"]
    return summary["train_accuracy"], scores["validation_accuracy"], scores["test"]["accuracy"]


def seeds(name: str) -> list[dict[str, Any]]:
    """The runs of a recipe with the seeds 0, 1 and 2."""
    return [run(name), *(run(f"{name}_seed{seed}") for seed in (1, 2))]


def mean_of_seeds(name: str) -> tuple[float, ...]:
    """Mean train, validation and test accuracy of the last epochs."""
    return tuple(map(mean, zip(*map(of_last_epoch, seeds(name)), strict=True)))


def spread_of_seeds(name: str) -> tuple[float, ...]:
    """The standard deviations (over n - 1) of the same."""
    return tuple(map(stdev, zip(*map(of_last_epoch, seeds(name)), strict=True)))


def accuracies_on_test(name: str) -> list[float]:
    """The test accuracies of the last epochs."""
    return [of_last_epoch(run)[2] for run in seeds(name)]


def best_of(run: dict[str, Any]) -> tuple[float, ...]:
    """The best epoch by validation, and its validation and test accuracy."""
    scores = run["summary"]["best"]
    (epoch,) = (row["epoch"] for row in run["history"] if row["step"] == scores["step"])
    return epoch, scores["validation_accuracy"], scores["test"]["accuracy"]


def reported(name: str) -> tuple[float, ...]:
    """The course report's train, validation and test accuracy."""
    return REPORTED[name].accuracies


def dropout_run(rate: float) -> dict[str, Any]:
    return result("sweep_mini_64_dropout_rate_cpu")["members"][f"dropout_rate={rate}"]
