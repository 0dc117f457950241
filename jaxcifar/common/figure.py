"""A figure page laid out in inches, so that text keeps its distance whatever is on the page.

Text with names from outside is drawn through `drawn` or `fitted`.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcifar.common.drawing import is_drawn_by_us, new_figure, png_of
from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import escaped
from jaxcifar.common.writing import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 0.17  # inches; the height of a title line, at 10 points


class Page:
    """A figure with a title at the top; axes are placed in inches from the top left."""

    def __init__(self, width: float, height: float, title: str) -> None:
        """Wrap the title to `width` and leave `height` inches below it."""
        lines = textwrap.wrap(escaped(title), round(width * 11.5))
        self._top = LINE * len(lines) + 0.2
        self._size = (width, height + self._top)
        self.figure = new_figure(*self._size)
        text = "\n".join(map(drawn, lines))
        self.figure.suptitle(text, fontsize=10, y=1 - 0.08 / self._size[1], va="top")

    def add(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Add axes in a box; `top` is measured from below the title."""
        page_width, page_height = self._size
        bottom = page_height - self._top - top - height
        return self.figure.add_axes(
            (left / page_width, bottom / page_height, width / page_width, height / page_height)
        )


def drawn(text: object) -> str:
    """Text for a figure, on one line: escaped, and not parsed as mathematics, whatever its "$"."""
    return escaped(text).replace("$", r"\$")


def fitted(text: str, length: int) -> str:
    """`drawn` text of at most `length` characters: the middle of a longer one becomes "…"."""
    line = escaped(text)
    if len(line) > length:
        line = f"{line[: length // 2]}…{line[-(length - length // 2 - 1) :]}"
    return drawn(line)


def shape_of(height: int, width: int) -> float:
    """Height over width of the box for an image, limited so that the page stays readable."""
    return min(max(height / width, 0.25), 3.0)


def png_path(out: str | Path) -> Path:
    """The path of a PNG to write.

    Raises:
        RecipeError: it does not end in .png, or is a directory or a file of somebody else's.
        OSError: it cannot be read.
    """
    path = Path(out)
    if path.suffix != ".png":
        raise RecipeError(f"the picture is a PNG file: --out must end in .png, not {path.name!r}")
    if path.is_dir():
        raise RecipeError(f"{path} is a directory: name a file with --out")
    if path.exists() and not (path.is_file() and is_drawn_by_us(path)):
        raise RecipeError(
            f"{path} exists and has no mark of a picture that jaxcifar drew (early versions left "
            "none): remove it, or name another file with --out"
        )
    return path


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a PNG in one step, creating its folder.

    Raises:
        FigureError: it cannot be drawn.
        OSError: it cannot be written.
    """
    png = png_of(figure)
    make_folder(path.parent)
    write_atomically(path, png)
    return path
