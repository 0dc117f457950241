"""Pillow without a word while it reads a picture for us, in any number of threads.

Pillow warns once per odd tag: a picture of 1 MB printed 6,000 lines. `warnings.catch_warnings`
changes the filters of the whole process: in threads, one restores them while another still reads,
and a filter of "error" from elsewhere would make a readable picture a damaged one. So Pillow's
modules get a stand-in for `warnings` that is silent in those threads that read a picture here,
and passes everything else on. Its loggers get a filter that does the same.
"""

import ctypes
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any

from PIL import Image

# Those that read the formats of `image_file.FORMATS`.
_MODULES = tuple(
    import_module(f"PIL.{name}")
    for name in (
        "Image",
        "ImageFile",
        *(
            f"{kind}ImagePlugin"
            for kind in ["Bmp", "Gif", "Jpeg", "Mpo", "Png", "Ppm", "Tiff", "WebP"]
        ),
    )
)
_reading: ContextVar[bool] = ContextVar("_reading", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow neither warns nor logs in this thread."""
    _install()
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


class _Warnings:
    """The module `warnings` for Pillow's modules."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, **options: Any) -> None:
        """As `warnings.warn`, which then sees Pillow's line as the place."""
        if not _reading.get():
            warnings.warn(message, category, stacklevel + 1, **options)


@cache  # once
def _install() -> None:
    for module in _MODULES:
        if hasattr(module, "warnings"):
            vars(module)["warnings"] = _Warnings()
        logging.getLogger(module.__name__).addFilter(lambda record: not _reading.get())
    # libtiff writes errors to file descriptor 2 itself. Pillow turns off its warnings only, and
    # these for the whole process, as there is no other way.
    try:
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):  # a Pillow without libtiff
        return
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    set_handler(None)
