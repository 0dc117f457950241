"""The feature maps of a network's layers next to their input image."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.drawing import own_settings
from jaxcifar.common.figure import Page, drawn, shape_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
CELL = 1.05  # inches, a map's width
INPUT = 2.4
MARGIN = 0.2
TITLE = 0.3  # above a layer's maps


@own_settings()
def plot_activations(
    image: NDArray[np.uint8],
    activations: Mapping[str, NDArray[np.floating]],
    *,
    title: str,
    channels: int = COLUMNS,
) -> "Figure":
    """The input image and the first feature maps of each layer, eight per row.

    Args:
        image: uint8 [h, w, 3].
        activations: layer name -> [h, w, channels] of that image. Each layer has its own grey
            scale, from its minimum to its maximum over all channels, printed above it.
        title: above the figure.
        channels: how many channels of each layer to draw.
    """
    heights = [
        _rows(maps, channels) * CELL * shape_of(*maps.shape[:2]) for maps in activations.values()
    ]
    input_height = INPUT * shape_of(*image.shape[:2])
    height = max(sum(heights) + TITLE * len(heights), input_height + TITLE) + MARGIN
    page = Page(INPUT + COLUMNS * CELL + 3 * MARGIN, height, title)

    input_axes = page.add(MARGIN, TITLE, INPUT, input_height)
    input_axes.imshow(image)
    input_axes.set_title(f"input, {image.shape[0]}x{image.shape[1]} pixels", fontsize=9)
    input_axes.axis("off")
    top = 0.0
    for (name, maps), layer_height in zip(activations.items(), heights, strict=True):
        rows, columns, total = maps.shape
        count = min(channels, total)
        low, high = float(maps.min()), float(maps.max())
        axes = page.add(INPUT + 2 * MARGIN, top + TITLE, COLUMNS * CELL, layer_height)
        axes.imshow(_mosaic(maps[..., :count]), cmap="gray", vmin=low, vmax=high, aspect="auto")
        axes.set_title(
            f"{drawn(name)}: {rows}x{columns}, {count} of {total} channels, "
            f"black {low:.3g} to white {high:.3g}",
            fontsize=9,
            loc="left",
        )
        axes.axis("off")
        top += TITLE + layer_height
    return page.figure


def _rows(maps: NDArray[np.floating], channels: int) -> int:
    return -(-min(channels, maps.shape[-1]) // COLUMNS)


def _mosaic(maps: NDArray[np.floating]) -> NDArray[np.floating]:
    """The channels of [h, w, channels] in one picture, eight per row, with NaN between them.

    Hundreds of axes would take matplotlib many seconds.
    """
    height, width, count = maps.shape
    times = max(1, 48 // max(height, width))  # so that the gaps are narrow even for maps of 2x2
    maps = maps.repeat(times, axis=0).repeat(times, axis=1)
    height, width, gap = height * times, width * times, max(2, width * times // 24)
    canvas = np.full(
        (-(-count // COLUMNS) * (height + gap) - gap, COLUMNS * (width + gap) - gap), np.nan
    )
    for channel in range(count):
        row, column = divmod(channel, COLUMNS)
        y, x = row * (height + gap), column * (width + gap)
        canvas[y : y + height, x : x + width] = maps[..., channel]
    return canvas
