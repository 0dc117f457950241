"""A plot of accuracy against training time, in which every point has its label."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.drawing import new_figure, own_settings
from jaxcifar.common.figure import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

OURS_COLOR, OTHERS_COLOR = "#1f5fa8", "0.35"


class ComparisonPoint(NamedTuple):
    """A run in `plot_comparison`."""

    label: str
    minutes: float  # of training
    accuracy: float  # test, a fraction


@own_settings()
def plot_comparison(
    ours: Sequence[ComparisonPoint],
    others: Sequence[ComparisonPoint] = (),
    *,
    title: str,
    ours_label: str = "here",
    others_label: str = "elsewhere",
) -> "Figure":
    """Test accuracy against training time (logarithmic), each point with its label.

    Args:
        ours: filled markers.
        others: hollow markers, for runs on another machine; their times are comparable only with
            each other.
        title: above the plot.
        ours_label, others_label: for the legend.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = new_figure(9.6, 5.4, layout="constrained")
    axes = figure.subplots()
    axes.set_title(drawn(title), fontsize=11)
    groups = (
        (ours, ours_label, OURS_COLOR, OURS_COLOR),
        (others, others_label, OTHERS_COLOR, "none"),
    )
    for points, label, edge, face in groups:
        if points:
            minutes, accuracies = [p.minutes for p in points], [p.accuracy for p in points]
            axes.scatter(
                minutes, accuracies, s=52, edgecolors=edge, facecolors=face, label=drawn(label)
            )
    axes.set_xscale("log")
    axes.set_xlabel("training time (minutes, logarithmic)")
    axes.set_ylabel("test accuracy (fraction)")
    times = [p.minutes for points, *_ in groups for p in points]
    axes.set_xlim(min(times) / 2, max(times) * 2)  # room for labels, and for at least one tick
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.16)
    axes.grid(alpha=0.3)
    # Below the plot, where it cannot hide a point.
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    _label_points(axes, [(p, c) for points, _, c, _ in groups for p in points])
    return figure


def _label_points(axes: "Axes", points: Sequence[tuple[ComparisonPoint, str]]) -> None:
    """Write each label next to its point, or at the end of a line from it: at the first position
    where neither label nor line hides anything.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()  # sizes are known only after the layout
    renderer = canvas.get_renderer()
    centres = axes.transData.transform([(p.minutes, p.accuracy) for p, _ in points])
    inside = axes.get_window_extent(renderer)
    markers = [_square(centre, 7) for centre in centres]
    taken: "list[Bbox]" = []
    for (point, color), centre, marker in zip(points, centres, markers, strict=True):
        hidden = [*taken, *(box for box in markers if box is not marker)]
        # If so many points coincide that a line must cross another marker, it may.
        for strict, position in itertools.product((True, False), _POSITIONS):
            label, box, line = _annotate(axes, point, color, centre, position, renderer)
            # A label that touches another point could be taken for that point's.
            free = inside.contains(*box.min) and inside.contains(*box.max)
            free = free and not box.padded(6 if strict else 0).count_overlaps(hidden)
            if free and not (strict and any(part.count_overlaps(hidden) for part in line)):
                break
            label.remove()
        else:  # no free position: better on top of another label than missing
            axes.annotate(
                drawn(point.label), (point.minutes, point.accuracy), fontsize=9, color=color
            )
        taken += [box, *(part for part in line if strict and not part.overlaps(marker))]


def _annotate(
    axes: "Axes",
    point: ComparisonPoint,
    color: str,
    centre: NDArray[np.floating],
    position: tuple[int, float],
    renderer: "RendererAgg",
) -> "tuple[Annotation, Bbox, list[Bbox]]":
    """Add a label with its line; returns it, its box and the boxes along the line."""
    from matplotlib.text import Text as TextArtist

    distance, angle = position
    across, up = distance * np.cos(angle), distance * np.sin(angle)
    label = axes.annotate(
        drawn(point.label),
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
    return label, box, [_square(centre + share * end, 1) for share in np.linspace(0, 1, 25)]


# Outwards from the point, right and left first: (distance in points, angle).
_POSITIONS = [
    (distance, np.pi * eighths / 8)
    for distance in (10, 18, 28, 40, 54, 70, 90, 115, 145)
    for eighths in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11)
]
_SIDE = {1: "left", 0: "center", -1: "right"}
_LEVEL = {1: "bottom", 0: "center", -1: "top"}


def _square(centre: NDArray[np.floating], half: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    x, y = centre
    return Bbox.from_extents(x - half, y - half, x + half, y + half)
