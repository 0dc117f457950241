"""Runs against each other: accuracy against time."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text as TextArtist
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

OURS_COLOR, OTHERS_COLOR = "#1f5fa8", "0.35"


class ComparisonPoint(NamedTuple):
    """A run in `plot_comparison`."""

    label: str
    minutes: float  # of training
    accuracy: float  # test, a fraction


def plot_comparison(
    ours: Sequence[ComparisonPoint],
    others: Sequence[ComparisonPoint] = (),
    *,
    title: str,
    ours_label: str = "here",
    others_label: str = "elsewhere",
) -> Figure:
    """Test accuracy against training time (logarithmic), each point with its label.

    Args:
        ours: filled markers.
        others: hollow markers, of runs on another machine; their times compare among themselves.
        title: above it.
        ours_label, others_label: what the two are, for the legend.
    """
    figure = Figure(figsize=(9.6, 5.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    groups = (
        (ours, ours_label, OURS_COLOR, OURS_COLOR),
        (others, others_label, OTHERS_COLOR, "none"),
    )
    for points, label, edge, face in groups:
        if points:
            minutes, accuracies = [p.minutes for p in points], [p.accuracy for p in points]
            axes.scatter(minutes, accuracies, s=52, edgecolors=edge, facecolors=face, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("training time (minutes, logarithmic)")
    axes.set_ylabel("test accuracy (fraction)")
    times = [p.minutes for points, *_ in groups for p in points]
    axes.set_xlim(min(times) / 2, max(times) * 2)  # room for labels, and a tick in any case
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.16)
    axes.grid(alpha=0.3)
    # Under the plot, where it can hide no point.
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    _label_points(axes, [(p, c) for points, _, c, _ in groups for p in points])
    return figure


def _label_points(axes: Axes, points: Sequence[tuple[ComparisonPoint, str]]) -> None:
    """Write each label beside its point, or at the end of a line from it, in the first place where
    neither hides anything.
    """
    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()  # the layout has to be known before sizes on it are
    renderer = canvas.get_renderer()
    centres = axes.transData.transform([(p.minutes, p.accuracy) for p, _ in points])
    inside = axes.get_window_extent(renderer)
    points_at = [_square(centre, 7) for centre in centres]
    taken: list[Bbox] = []
    for (point, color), centre, own in zip(points, centres, points_at, strict=True):
        hidden = [*taken, *(box for box in points_at if box is not own)]
        # Where so many coincide that a line must cross another's point, it may.
        for strict, (distance, angle) in itertools.product((True, False), _PLACES):
            across, up = distance * np.cos(angle), distance * np.sin(angle)
            label = axes.annotate(
                point.label,
                (point.minutes, point.accuracy),
                xytext=(across, up),
                textcoords="offset points",
                ha=_SIDE[np.sign(round(across))],
                va=_LEVEL[np.sign(round(up))],
                fontsize=9,
                color=color,
                arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkB": 4},
            )
            label.update_positions(renderer)
            box = TextArtist.get_window_extent(label, renderer)  # without the line to the point
            end = np.array([across, up]) * axes.figure.dpi / 72
            line = [_square(centre + share * end, 1) for share in np.linspace(0, 1, 25)]
            # A label that touches another point could be taken for that one's.
            free = inside.contains(*box.min) and inside.contains(*box.max)
            free = free and not box.padded(6 if strict else 0).count_overlaps(hidden)
            if free and not (strict and any(part.count_overlaps(hidden) for part in line)):
                break
            label.remove()
        else:  # no room anywhere: better on top of another than not at all
            axes.annotate(point.label, (point.minutes, point.accuracy), fontsize=9, color=color)
        taken += [box, *(part for part in line if strict and not part.overlaps(own))]


# From the point outwards, right and left first: (distance in points, angle).
_PLACES = [
    (distance, np.pi * eighths / 8)
    for distance in (10, 18, 28, 40, 54, 70, 90, 115, 145)
    for eighths in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11)
]
_SIDE = {1: "left", 0: "center", -1: "right"}
_LEVEL = {1: "bottom", 0: "center", -1: "top"}


def _square(centre: NDArray[np.floating], half: float) -> Bbox:
    x, y = centre
    return Bbox.from_extents(x - half, y - half, x + half, y + half)
