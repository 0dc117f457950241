"""Figures of the benchmarks: bars with whiskers, panels, colors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BAR_COLOR, IDEAL_COLOR = "#1f5fa8", "#999999"


def draw_tables(tables: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Medians as bars, quartiles as whiskers, ratios to the first row as labels."""
    rows = [len(results) for results in tables.values()]
    figure, panels = new_figure(len(tables), sum(0.32 * n + 1.0 for n in rows), rows=rows)
    for axes, (title, results) in zip(panels, tables.items(), strict=True):
        names = list(results)
        medians = np.array([results[name]["median_ms"] for name in names])
        spread = np.abs([error_bars(results[name]) for name in names]).T
        axes.barh(names, medians, xerr=spread, color=BAR_COLOR, ecolor="black", capsize=3)
        for i, median in enumerate(medians):
            number = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
            label = f"{number} ms (x{median / medians[0]:.3g})"
            axes.text(median + spread[1][i], i, f"  {label}", va="center", fontsize=8)
        axes.set_xlim(0, 1.35 * (medians + spread[1]).max())
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
        axes.set_xlabel("median, ms; whiskers: quartiles; (x: ratio to first row)", fontsize=8)
        axes.set_title(title, fontsize=9)
    return figure


def error_bars(row: Mapping[str, Any]) -> tuple[float, float]:
    """The distances from the median down to the first quartile and up to the third."""
    return row["median_ms"] - row["quartile_1_ms"], row["quartile_3_ms"] - row["median_ms"]


def new_figure(
    panels: int, height: float, *, rows: Sequence[int] | None = None
) -> tuple[Figure, list[Axes]]:
    """Panels side by side, or below each other if the number of rows of each is given."""
    figure = Figure(figsize=(9, height + 0.3), layout="constrained")
    if rows is None:
        return figure, list(figure.subplots(1, panels, squeeze=False).flat)
    ratios = [n + 2 for n in rows]
    grid = figure.subplots(panels, 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
    return figure, list(grid.flat)


def tables_of(
    result: Mapping[str, Any], title: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables of `compare` in a nested result, with the names of the keys that lead to them."""
    for name, value in result.items():
        if not isinstance(value, Mapping):
            continue
        if name == "results":
            yield title, value
        else:
            yield from tables_of(value, f"{title}, {name}" if title else name)
