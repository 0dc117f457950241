"""The result of a sweep, and its table."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcifar.common.messages import counted
from jaxcifar.common.summaries import shortened, summary
from jaxcifar.runs.history import History
from jaxcifar.studies.sweeps.members import Number


@dataclass(frozen=True)
class MemberResult:
    """One run of a sweep."""

    value: Number
    path: Path  # its run directory
    history: History
    summary: dict[str, Any] | None  # None if it did not finish
    failure: str | None  # why it did not

    def __repr__(self) -> str:
        return summary("MemberResult", self.in_words(), name=self.path)

    def in_words(self) -> list[str]:
        """Its value, its scores or why it failed, and its epochs."""
        score = "not finished" if self.failure is None else shortened(self.failure, 60)
        if self.summary is not None:
            best, test = self.summary["best"], self.summary["best"]["test"]
            score = f"validation {best['validation_accuracy']:.4f}, test {test['accuracy']:.4f}"
        return [f"{self.value}: {score}", counted(len(self.history.rows), "epoch")]


@dataclass(frozen=True)
class SweepResult:
    """All members of a sweep."""

    field: str
    values: tuple[Number, ...]
    mode: str  # "vmap" (one program) or "sequential" (one after another)
    why: str
    members: tuple[MemberResult, ...]

    def __repr__(self) -> str:
        members = ["; ".join(member.in_words()[:1]) for member in self.members]
        return summary("SweepResult", [self.mode, *members], name=self.field)

    @property
    def finished(self) -> list[MemberResult]:
        """The members that finished."""
        return [member for member in self.members if member.summary is not None]


# Column of the table -> its value, from the summary of a finished member.
COLUMNS: Mapping[str, Callable[[dict[str, Any]], float]] = {
    "train": lambda summary: summary["train_accuracy"],
    "validation, best": lambda summary: summary["best"]["validation_accuracy"],
    "validation, last": lambda summary: summary["last"]["validation_accuracy"],
    "test, best": lambda summary: summary["best"]["test"]["accuracy"],
    "test, last": lambda summary: summary["last"]["test"]["accuracy"],
    "seconds": lambda summary: summary["train_seconds"],
}


def scores(result: SweepResult, column: str) -> list[float]:
    """A column of `COLUMNS` over the finished members."""
    return [COLUMNS[column](m.summary) for m in result.finished if m.summary is not None]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (n - 1; nan for one value), least and largest."""
    return {
        "mean": statistics.fmean(values),
        "standard deviation": statistics.stdev(values) if len(values) > 1 else float("nan"),
        "min": min(values),
        "max": max(values),
    }


def markdown_table(result: SweepResult) -> str:
    """The table as Markdown: a row a member and, over seeds, its mean and spread."""
    head, *rows = _cells(result)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def text_table(result: SweepResult) -> str:
    """The table in columns, for a terminal."""
    rows = _cells(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )


def _cells(result: SweepResult) -> list[list[str]]:
    """Accuracies are fractions; "train" is of the last epoch as it trained."""
    rows = [[result.field, *COLUMNS]]
    for member in result.members:
        texts = ["-"] * len(COLUMNS)
        if member.summary is not None:
            texts = [_text(name, of(member.summary)) for name, of in COLUMNS.items()]
        rows.append([str(member.value), *texts])
    if result.field == "seed" and result.finished:
        columns = {name: spread(scores(result, name)) for name in COLUMNS}
        count = len(result.finished)
        for statistic in ("mean", "standard deviation", "min", "max"):
            label = f"{statistic} of {count}"
            rows.append([label, *(_text(name, columns[name][statistic]) for name in COLUMNS)])
    return rows


def _text(column: str, value: float) -> str:
    if value != value:
        return "-"
    return f"{value:.1f}" if column == "seconds" else f"{value:.4f}"
