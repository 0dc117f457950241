"""A figure page laid out in inches, so that text keeps its distance whatever is on the page."""

import io
import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxcifar.common.writing import make_folder, write_atomically

DPI = 120
LINE = 0.17  # inches; the height of a title line, at 10 points


class Page:
    """A figure with a title at the top; axes are placed in inches from the top left."""

    def __init__(self, width: float, height: float, title: str) -> None:
        """Wrap the title to `width` and leave `height` inches below it."""
        lines = textwrap.wrap(title, round(width * 11.5))
        self._top = LINE * len(lines) + 0.2
        self._size = (width, height + self._top)
        self.figure = Figure(figsize=self._size, dpi=DPI)
        self.figure.suptitle("\n".join(lines), fontsize=10, y=1 - 0.08 / self._size[1], va="top")

    def add(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes in a box; `top` is measured from below the title."""
        page_width, page_height = self._size
        bottom = page_height - self._top - top - height
        return self.figure.add_axes(
            (left / page_width, bottom / page_height, width / page_width, height / page_height)
        )


def fitted(text: str, length: int) -> str:
    """Text of at most `length` characters: the middle of a longer one is replaced by "…"."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[-(length - length // 2 - 1) :]}"


def shape_of(height: int, width: int) -> float:
    """Height over width of the box for an image, limited so that the page stays readable."""
    return min(max(height / width, 0.25), 3.0)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG in one step, creating its folder."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    make_folder(path.parent)
    write_atomically(path, drawn.getvalue())
    return path
