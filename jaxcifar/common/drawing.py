"""matplotlib with settings of its own: the same pictures whatever the environment says.

MPLBACKEND, a matplotlibrc and what a notebook has set are the user's. They neither change our
pictures (but for characters that our font lacks) nor stop them, and drawing leaves the user's
settings, backend and open figures alone. matplotlib takes 0.4 s to import, so it is imported when
something is first drawn.
"""

import atexit
import io
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcifar.common.errors import FigureError, MessageError
from jaxcifar.common.messages import get_logger, reason_of, warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
DRAWN_BY = "jaxcifar"  # in the text of a PNG, as its software
# Of the environment, what can keep matplotlib from being imported.
_VARIABLES = ("MPLBACKEND", "MATPLOTLIBRC", "MPLCONFIGDIR")
# Fonts with the scripts of East Asia, as Linux, macOS and Windows have them, and with emoji.
_FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "Arial Unicode MS", "Noto Emoji"),
)
# Settings of a program with windows; pictures do not depend on them.
_NOT_OURS = ("backend", "backend_fallback", "interactive")


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw with matplotlib's default settings; those of the user are back at the end.

    Also a decorator, for functions that make figures: text takes its settings when it is made.
    A character that the default font does not have is taken from the user's fonts, or from another
    one that is installed; there is no warning where none has it.

    Raises:
        FigureError: matplotlib cannot be imported, or cannot draw.
    """
    try:
        matplotlib = _load_matplotlib()
        ours = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in _NOT_OURS}
        ours["font.family"] = _font_families(matplotlib)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing|.*does not support .* natively")
            with matplotlib.rc_context(ours):
                yield
    except (MessageError, MemoryError):
        raise
    except Exception as error:  # fonts, files and packages of the machine: anything can be raised
        raise FigureError(f"matplotlib cannot draw here ({describe_failure(error)})") from error


def new_figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = None
) -> "Figure":
    """An empty figure, in inches, drawn by Agg: into memory, without a display.

    pyplot does not know it: it is freed when nothing holds it. A notebook shows it once, by the
    method that is added here: it knows matplotlib's own figures only after an import of pyplot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    vars(figure)["_repr_png_"] = partial(png_of, figure)  # a subclass would import matplotlib
    return figure


def is_drawn_by_us(path: Path) -> bool:
    """Whether a PNG is from `png_of`, so that a new one may take its place.

    Earlier versions left matplotlib's name in it: that counts in a folder called figures.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(1024)  # the text comes before the pixels
    names = [DRAWN_BY, *(["Matplotlib"] if path.absolute().parent.name == "figures" else [])]
    return any(b"tEXtSoftware\0" + name.encode() in head for name in names)


def png_of(figure: "Figure") -> bytes:
    """A figure as a PNG.

    Raises:
        FigureError: it cannot be drawn.
    """
    png = io.BytesIO()
    with own_settings():
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)  # whatever the figure was made for
        figure.savefig(png, format="png", metadata={"Software": DRAWN_BY})
    return png.getvalue()


def try_to_draw(name: Path | str, draw: Callable[[], object], then: str) -> bool:
    """Draw a picture that may not cost the work it shows: a failure is one warning.

    Args:
        name: of the picture, or its path, for the warning.
        draw: draws it, and writes or shows it.
        then: the end of the warning: how things stand without the picture.

    Returns:
        Whether it was drawn.
    """
    try:
        draw()
    except Exception as error:
        reason = str(error) if isinstance(error, FigureError) else describe_failure(error)
        warn(f"{name} could not be drawn ({reason}); {then}", stacklevel=2)
        return False
    return True


def describe_failure(error: BaseException) -> str:
    """The first line of an error, with its class."""
    name, reason = type(error).__name__, reason_of(error)
    return name if reason == name else f"{name}: {reason}"


def _font_families(matplotlib: Any) -> list[str]:
    """The default font, and then those for characters that it does not have."""
    from matplotlib.font_manager import fontManager

    user: list[str] = []
    for family in matplotlib.rcParams["font.family"]:
        user += matplotlib.rcParams.get(f"font.{family}", [family])
    first, *_ = matplotlib.rcParamsDefault["font.sans-serif"]
    installed = {font.name: font.fname for font in fontManager.ttflist}
    others = dict.fromkeys(name for name in (*user, *_FALLBACKS) if name in installed)
    return [first, *(name for name in others if name != first and _opens(installed[name]))]


@cache  # the curves are drawn after every epoch
def _opens(font: str) -> bool:
    from matplotlib.ft2font import FT2Font

    try:
        FT2Font(font)
    except Exception:  # damaged, or not the user's to read: it would stop every picture
        return False
    return True


def _load_matplotlib() -> Any:
    """matplotlib, also where the environment keeps it from being imported."""
    get_logger("matplotlib")  # names a matplotlibrc and its lines, which may be somebody else's
    try:
        return import_module("matplotlib")
    except ModuleNotFoundError as error:
        if error.name == "matplotlib":
            raise
    except Exception:
        pass
    # A backend that is not installed, a matplotlibrc that is not text, ...: the program could not
    # use matplotlib either, so nothing of the user's is passed over.
    _forget("matplotlib")
    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    os.environ["MPLCONFIGDIR"] = _temporary_folder()
    try:
        return import_module("matplotlib")
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _forget(package: str) -> None:
    """Remove what a failed import has left half done."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="jaxcifar-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
