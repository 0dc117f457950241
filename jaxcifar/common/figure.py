"""A page laid out in inches, so that text keeps its distance however much is on it."""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 120
LINE = 0.17  # inches, of the titles' 10 points


class Page:
    """A figure with a title at its top, on which boxes are placed in inches from the top left."""

    def __init__(self, width: float, height: float, title: str) -> None:
        """The title, wrapped to the width, is put above the `height` inches that remain."""
        lines = textwrap.wrap(title, round(width * 11.5))
        self._top = LINE * len(lines) + 0.2
        self._size = (width, height + self._top)
        self.figure = Figure(figsize=self._size, dpi=DPI)
        self.figure.suptitle("\n".join(lines), fontsize=10, y=1 - 0.08 / self._size[1], va="top")

    def add(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes in a box; `top` counts from below the title."""
        across, down = self._size
        bottom = down - self._top - top - height
        return self.figure.add_axes((left / across, bottom / down, width / across, height / down))


def fitted(text: str, length: int) -> str:
    """Text of at most `length` characters, its middle left out."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[-(length - length // 2 - 1) :]}"


def shape_of(height: int, width: int) -> float:
    """Height over width of the box for an image, within bounds that keep a page a page."""
    return min(max(height / width, 0.25), 3.0)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
