"""Grids of images with captions, with or without a heat map over each image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.drawing import own_settings
from jaxcifar.common.figure import Page, fitted, shape_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 1.9  # inches, an image's width
GAP = 0.15
CAPTION = 0.16  # a line of 8 points
LETTERS = 33  # of 8 points, in the width of a cell
# Perceptually uniform. Its dark end dims what does not count and leaves it its own colours, where
# viridis and plasma tint the whole photo; magma's bright end looks like skin.
HEAT = "inferno"
HEAT_ALPHA = 0.5


class Overlay(NamedTuple):
    """An image, the heat map over it, and the caption's lines."""

    image: NDArray[np.uint8]  # [h, w, 3]
    heat: NDArray[np.floating]  # [h, w] in [0, 1]
    caption: tuple[str, ...]


@own_settings()
def plot_grad_cam(overlays: Sequence[Overlay], *, title: str, columns: int = 5) -> "Figure":
    """Each image, and below it the same image under its heat map; one colour scale for all."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    captions = [overlay.caption for overlay in overlays]
    shape = max(shape_of(*overlay.image.shape[:2]) for overlay in overlays)
    grid = _Grid(captions, shape, title, columns, images=2, extra=0.75)
    for i, overlay in enumerate(overlays):
        grid.show(i, 0, overlay.image)
        axes = grid.show(i, 1, overlay.image)
        axes.imshow(overlay.heat, cmap=HEAT, vmin=0, vmax=1, alpha=HEAT_ALPHA)
    scale = ScalarMappable(Normalize(0, 1), HEAT)
    bar = grid.page.add(grid.width / 2 - 2, grid.height + 0.05, 4, 0.14)
    grid.page.figure.colorbar(scale, cax=bar, orientation="horizontal", alpha=HEAT_ALPHA)
    bar.set_xlabel("Grad-CAM (fraction of the map's maximum)", fontsize=8)
    bar.tick_params(labelsize=8)
    return grid.page.figure


@own_settings()
def plot_images(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[tuple[str, ...]],
    *,
    title: str,
    columns: int = 4,
) -> "Figure":
    """Images [h, w, 3] in rows, each below its caption."""
    shape = max(shape_of(*image.shape[:2]) for image in images)
    grid = _Grid(captions, shape, title, columns, images=1)
    for i, image in enumerate(images):
        grid.show(i, 0, image)
    return grid.page.figure


class _Grid:
    """Cells, each with a caption and below it one or more images."""

    def __init__(
        self,
        captions: Sequence[tuple[str, ...]],
        shape: float,
        title: str,
        columns: int,
        *,
        images: int,
        extra: float = 0.0,
    ) -> None:
        self._captions = captions
        used = min(columns, len(captions))
        self._columns = max(used, 3)  # wide enough for the title
        self._left = GAP + (self._columns - used) * (CELL + GAP) / 2
        self._image_height = CELL * shape
        self._caption_height = CAPTION * max(map(len, captions)) + 0.06
        self._cell_height = self._caption_height + images * (self._image_height + 0.05) + GAP
        self.width = self._columns * (CELL + GAP) + GAP
        self.height = -(-len(captions) // self._columns) * self._cell_height
        self.page = Page(self.width, self.height + extra, title)

    def show(self, cell: int, row_in_cell: int, image: NDArray[np.uint8]) -> "Axes":
        """Draw an image in a cell; the first image of a cell carries the caption."""
        row, column = divmod(cell, self._columns)
        left = self._left + column * (CELL + GAP)
        top = row * self._cell_height + self._caption_height
        top += row_in_cell * (self._image_height + 0.05)
        axes = self.page.add(left, top, CELL, self._image_height)
        axes.imshow(image)
        axes.axis("off")
        if row_in_cell == 0:
            lines = (fitted(line, LETTERS) for line in self._captions[cell])
            axes.text(
                0.5,
                1 + 0.05 / self._image_height,
                "\n".join(lines),
                transform=axes.transAxes,
                ha="center",
                va="bottom",
                fontsize=8,
            )
        return axes
