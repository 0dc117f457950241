"""Figures of whole runs, as `collect_run` wrote them, and those of the course report."""

from statistics import median
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


def best(name: str) -> tuple[float, ...]:
    """The best epoch by validation, with its validation and test accuracy."""
    scores = run(name)["summary"]["best"]
    (epoch,) = (row["epoch"] for row in run(name)["history"] if row["step"] == scores["step"])
    return epoch, scores["validation_accuracy"], scores["test"]["accuracy"]


def seconds(name: str) -> list[float]:
    """Of training, by epoch."""
    return [row["seconds"] for row in run(name)["history"]]


def cached(name: str) -> tuple[float, ...]:
    """The first epoch, which computes the features, and the median of the others, s."""
    first, *others = seconds(name)
    return first, median(others)


def reported(name: str) -> tuple[float, ...]:
    """The course report's train, validation and test accuracy."""
    return REPORTED[name].accuracies


def dropout_run(rate: float) -> dict[str, Any]:
    return result("sweep_mini_64_dropout_rate_cpu")["members"][f"dropout_rate={rate}"]
