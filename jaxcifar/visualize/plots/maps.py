"""The feature maps of a network's layers next to their input image."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.drawing import own_settings
from jaxcifar.common.errors import RecipeError
from jaxcifar.common.figure import Page, drawn, shape_of
from jaxcifar.common.messages import did_you_mean, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ChannelOrder = Literal["active", "first"]
MapScale = Literal["channel", "layer"]
COLUMNS = 8
CELL = 1.05  # inches, a map's width
INPUT = 2.4
MARGIN = 0.2
TITLE = 0.3  # above a layer's maps
LABEL = 0.17  # above each map: a line of 7 points
LEGEND = 1.25  # below the input image
COLORS = "viridis"  # perceptually uniform
_ORDERS = {"active": ", the most active first", "first": ", in order"}
_LEGENDS = {
    "channel": "colours: from each map's own minimum\nto its own maximum",
    "layer": "colours: from the layer's minimum\nto its maximum, over all its channels",
}
_LABELS = "\n\nabove each map: its channel, from 0, and\nthe standard deviation of the map's pixels"
_BY_ACTIVITY = ",\nby which the most active are chosen"


@own_settings()
def plot_activations(
    image: NDArray[np.uint8],
    activations: Mapping[str, NDArray[np.floating]],
    *,
    title: str,
    channels: int = COLUMNS,
    order: ChannelOrder = "active",
    scale: MapScale = "channel",
) -> "Figure":
    """The input image and feature maps of each layer, eight per row, below their channels.

    Args:
        image: uint8 [h, w, 3].
        activations: layer name -> [h, w, channels] of that image.
        title: above the figure.
        channels: how many channels of each layer to draw.
        order: which ones, as in `chosen_channels`.
        scale: what the colours mean. "channel": each map has all of them, from its minimum to its
            maximum. "layer": those of a layer share them, from its minimum to its maximum over all
            channels, printed above it; what is weak looks flat, and maps can be compared.

    Raises:
        RecipeError: an unknown order or scale.
    """
    check_choices(order, scale)
    chosen = {name: chosen_channels(maps, channels, order) for name, maps in activations.items()}
    heights = [
        _rows(len(chosen[name])) * (CELL * shape_of(*maps.shape[:2]) + LABEL)
        for name, maps in activations.items()
    ]
    input_height = INPUT * shape_of(*image.shape[:2])
    height = max(sum(heights) + TITLE * len(heights), input_height + TITLE + LEGEND) + MARGIN
    page = Page(INPUT + COLUMNS * CELL + 3 * MARGIN, height, title)

    input_axes = page.add(MARGIN, TITLE, INPUT, input_height)
    input_axes.imshow(image)
    input_axes.set_title(f"input, {image.shape[0]}x{image.shape[1]} pixels", fontsize=9)
    input_axes.axis("off")
    top = 0.0
    for (name, maps), layer_height in zip(activations.items(), heights, strict=True):
        axes = page.add(INPUT + 2 * MARGIN, top + TITLE, COLUMNS * CELL, layer_height)
        low, high = _draw_maps(axes, maps, chosen[name], scale)
        rows, columns, total = maps.shape
        shared = f"; colours from {low:.3g} (dark) to {high:.3g} (bright)"
        heading = (
            f"{name}: {rows}x{columns}, {len(chosen[name])} of {total} channels{_ORDERS[order]}"
            f"{shared if scale == 'layer' else ''}"
        )
        axes.set_title(drawn(heading), fontsize=9, loc="left")
        top += TITLE + layer_height
    bar = page.add(MARGIN + 0.1, TITLE + input_height + 0.2, INPUT - 0.2, 0.14)
    _draw_legend(bar, order, scale)
    return page.figure


def check_choices(order: str, scale: str) -> None:
    """Refuse an unknown order or scale of `plot_activations`.

    Raises:
        RecipeError: it is unknown.
    """
    for name, value, known in (("order", order, _ORDERS), ("scale", scale, _LEGENDS)):
        if value not in tuple(known):
            raise RecipeError(f"unknown {name} {shown(value)}{did_you_mean(str(value), known)}")


def chosen_channels(
    maps: NDArray[np.floating], count: int, order: ChannelOrder
) -> NDArray[np.intp]:
    """The channels to draw, in the order in which they are drawn.

    A channel is active by the standard deviation of its map over the pixels: a map shows where the
    channel responds, and one with the same value everywhere shows nothing, however large that is.

    Args:
        maps: [h, w, channels].
        count: how many, at most.
        order: "active": the most active channels, the most active first; of equally active ones
            the first. "first": the first channels.

    Returns:
        int [min(count, channels)].
    """
    if order == "first":
        return np.arange(maps.shape[-1])[:count]
    return np.argsort(-_deviations(maps), kind="stable")[:count]


def _deviations(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each channel over its pixels; float64, since a sum of squares overflows float16."""
    return maps.std(axis=(0, 1), dtype=np.float64)


def _draw_maps(
    axes: "Axes", maps: NDArray[np.floating], chosen: NDArray[np.intp], scale: MapScale
) -> tuple[float, float]:
    """Draw the chosen channels in their order, each labelled; the least and largest colour."""
    picked = maps[..., chosen]
    low, high = float(maps.min()), float(maps.max())
    if scale == "channel":
        picked, low, high = _stretched(picked), 0.0, 1.0
    canvas, corners = _mosaic(picked)
    axes.imshow(canvas, cmap=COLORS, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.axis("off")
    deviations = _deviations(maps)
    for channel, (x, y) in zip(chosen, corners, strict=True):
        axes.annotate(
            f"{channel}, std {deviations[channel]:.2g}",
            (x - 0.5, y - 0.5),
            (0, 2),
            textcoords="offset points",
            fontsize=7,
        )
    return low, high


def _stretched(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each channel of [h, w, channels] from 0 to 1; one with a single value is 0."""
    wide = maps.astype(np.float64)  # in which the range of float32 numbers cannot overflow
    low = wide.min(axis=(0, 1))
    span = wide.max(axis=(0, 1)) - low
    return (wide - low) / np.where(span > 0, span, 1)


def _draw_legend(bar: "Axes", order: ChannelOrder, scale: MapScale) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar.figure.colorbar(ScalarMappable(Normalize(0, 1), COLORS), cax=bar, orientation="horizontal")
    minimum, maximum = bar.set_xticks([0, 1], ["minimum", "maximum"], fontsize=8)
    # Within the bar, so that they keep away from the maps.
    minimum.label1.set_horizontalalignment("left")
    maximum.label1.set_horizontalalignment("right")
    chosen = _BY_ACTIVITY if order == "active" else ""
    bar.set_xlabel(f"{_LEGENDS[scale]}{_LABELS}{chosen}", fontsize=7)


def _rows(channels: int) -> int:
    return -(-channels // COLUMNS)


def _mosaic(
    maps: NDArray[np.floating],
) -> tuple[NDArray[np.floating], list[tuple[int, int]]]:
    """The channels of [h, w, channels] in one picture, eight per row, with NaN between them.

    Hundreds of axes would take matplotlib many seconds. Above each map is space for its label.

    Returns:
        The picture, and the column and the row of each map's first pixel.
    """
    box = shape_of(*maps.shape[:2])
    # So that the gaps are narrow even for maps of 2x2.
    for axis in (0, 1):
        maps = maps.repeat(max(1, 48 // maps.shape[axis]), axis=axis)
    height, width, count = maps.shape
    gap, space = max(2, width // 24), math.ceil(height * LABEL / (CELL * box))
    canvas = np.full((_rows(count) * (space + height), COLUMNS * (width + gap) - gap), np.nan)
    corners = []
    for channel in range(count):
        row, column = divmod(channel, COLUMNS)
        x, y = column * (width + gap), row * (space + height) + space
        canvas[y : y + height, x : x + width] = maps[..., channel]
        corners.append((x, y))
    return canvas, corners
