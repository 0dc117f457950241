"""Rows of a page's tables, and ratios of the benchmarks' times."""

from typing import Any

from tests.figures.reading import Figure

Table = dict[str, Any]


def row(label: str, *values: float) -> Figure:
    """A row with one number in each cell."""
    return Figure(f"| {label} |" + " {} |" * len(values), values)


def milliseconds(table: Table, name: str) -> float:
    """The median time of a variant."""
    return table["results"][name]["median_ms"]


def quotient(table: Table, name: str, other: str) -> float:
    """The median time of a variant divided by that of another.

    Not the table's own ratio: its three digits would be rounded a second time.
    """
    return milliseconds(table, name) / milliseconds(table, other)
