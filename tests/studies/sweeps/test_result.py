import statistics
from pathlib import Path

import numpy as np
import pytest

from jaxcifar.runs.history import History
from jaxcifar.studies.sweeps.plot import plot_sweep
from jaxcifar.studies.sweeps.result import (
    MemberResult,
    SweepResult,
    markdown_table,
    scores,
    spread,
    text_table,
)


def member(value, accuracy, failure=None):
    best = {"validation_accuracy": accuracy + 0.1, "test": {"accuracy": accuracy + 0.2}}
    last = {"validation_accuracy": accuracy, "test": {"accuracy": accuracy + 0.05}}
    summary = {"train_accuracy": 0.9, "train_seconds": 12.34, "best": best, "last": last}
    finished = None if failure else summary
    return MemberResult(value, Path("x"), History(), finished, failure)


def result(field, *members):
    values = tuple(m.value for m in members)
    return SweepResult(field, values, "sequential", "as asked", members)


def test_the_table_has_a_row_per_member():
    table = markdown_table(result("dropout_rate", member(0.1, 0.5), member(0.2, 0.0, "not finite")))
    lines = table.splitlines()
    assert lines[0].startswith("| dropout_rate | train | validation, best | validation, last |")
    assert lines[2] == "| 0.1 | 0.9000 | 0.6000 | 0.5000 | 0.7000 | 0.5500 | 12.3 |"
    assert lines[3] == "| 0.2 | - | - | - | - | - | - |"
    assert len(lines) == 4


def test_seeds_have_a_mean_and_a_spread():
    accuracies = [0.1, 0.2, 0.6]
    of_seeds = result("seed", *(member(i, a) for i, a in enumerate(accuracies)))
    assert scores(of_seeds, "validation, last") == accuracies
    statistic = spread(accuracies)
    assert statistic["mean"] == pytest.approx(np.mean(accuracies))
    assert statistic["standard deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    rows = {line.split("  ")[0]: line.split() for line in text_table(of_seeds).splitlines()}
    assert rows["mean of 3"][5] == "0.3000"
    assert rows["standard deviation of 3"][6] == f"{statistics.stdev(accuracies):.4f}"
    assert rows["min of 3"][5] == "0.1000"
    assert rows["max of 3"][5] == "0.6000"


def test_one_seed_has_no_standard_deviation():
    assert "| standard deviation of 1 | - | - |" in markdown_table(result("seed", member(0, 0.5)))


def test_columns_of_the_text_line_up():
    lines = text_table(result("seed", member(0, 0.5), member(10, 0.25))).splitlines()
    ends = {line.rindex(" ") for line in lines[1:3]}
    assert len({len(line) for line in lines}) == 1
    assert len(ends) == 1


ACCURACIES = {"train": [0.9, 0.8, 0.7], "validation": [0.5, 0.6, 0.4], "test": [0.5, 0.5, 0.3]}


def test_lines_are_sorted_by_value():
    figure = plot_sweep("dropout_rate", [0.3, 0.1, 0.2], ACCURACIES, title="t")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "dropout_rate (share of units dropped)"
    assert axes.get_ylabel() == "accuracy (fraction)"
    assert axes.get_xscale() == "linear"
    train = axes.get_lines()[0]
    assert list(train.get_xdata()) == [0.1, 0.2, 0.3]
    assert list(train.get_ydata()) == [0.8, 0.7, 0.9]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(ACCURACIES)


def test_more_than_a_decade_has_a_logarithmic_axis():
    (axes,) = plot_sweep("learning_rate", [1e-4, 1e-2, 1e-3], ACCURACIES, title="t").axes
    assert axes.get_xscale() == "log"
    (axes,) = plot_sweep("weight_decay", [0.0, 1e-2, 1e-3], ACCURACIES, title="t").axes
    assert axes.get_xscale() == "linear"


def test_seeds_are_points_with_their_mean_and_standard_deviation():
    (axes,) = plot_sweep("seed", [0, 1, 2], ACCURACIES, title="t").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(ACCURACIES)
    assert sorted(axes.get_lines()[0].get_ydata()) == [0.7, 0.8, 0.9]
    assert axes.texts[0].get_text() == "0.8000 ± 0.1000"
    plot_sweep("seed", [0], {"train": [0.5]}, title="t")
