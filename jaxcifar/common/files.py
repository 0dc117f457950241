"""Read files that may come from anyone, within bounds; write files so that none is half written."""

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcifar.common.messages import printable, shown


def write_atomically(path: Path, text: str) -> None:
    """Replace a file at once: killed at any point, it holds the old text or the new."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


MOST_JSON = 4 << 20  # bytes; a config.json has 3,000, and Python takes up to 25 times a file's size
Shape = Any  # see `misfit`


class Unusable(ValueError):
    """A file that cannot be used; the message names it and says why."""


class AnyNumber:
    """The shape of a number that may be NaN or infinite, too, as a loss may."""


def read_bytes(path: Path, most: int) -> bytes:
    """What is in a file of at most so many bytes.

    Raises:
        Unusable: it is absent, larger or no plain file (a pipe would wait, a device never end).
    """
    try:
        about = path.stat()
        if stat.S_ISREG(about.st_mode) and about.st_size <= most:
            with path.open("rb") as file:
                return file.read(about.st_size)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise Unusable(f"{printable(str(path), 4_096)} cannot be read: {reason}") from None
    if stat.S_ISREG(about.st_mode):
        raise Unusable(f"{path} has {about.st_size:,} bytes, where at most {most:,} are read")
    kind = "a directory" if stat.S_ISDIR(about.st_mode) else "a pipe, a device or the like"
    raise Unusable(f"{path} is {kind}, not a file")


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """The JSON value in a file.

    Raises:
        Unusable: as `read_bytes`, or it is no JSON.
    """
    return parse_json(read_bytes(path, most), str(path))


def parse_json(data: bytes, name: str) -> Any:
    """A JSON value, whose bytes are called `name` in the message.

    Raises:
        Unusable: it is none, or is nested more deeply than Python follows.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise Unusable(f"{name} cannot be read as JSON: it is nested too deeply") from None
    except ValueError as error:  # of UTF-8, of JSON, and of numbers with thousands of digits
        raise Unusable(f"{name} cannot be read as JSON: {error}") from None


def misfit(value: Any, shape: Shape, name: str = "it") -> str | None:
    """What is wrong with a JSON value, or None if it has the shape.

    A shape is `int`, `float` (any finite number), `AnyNumber`, `str` (on one line), `dict` (of
    anything), a tuple of alternatives (None among them), a list with the shape of each item, or a
    mapping of names to shapes: a name that ends in "?" may be absent, ``"*"`` is every other name.

    >>> misfit({"best": {"step": "x"}}, {"best": {"step": int}})
    "best.step is 'x', not a whole number"
    """
    if isinstance(shape, tuple):
        found = [misfit(value, each, name) for each in shape]
        # Of the alternatives the last says most: None comes first.
        return None if None in found else found[-1]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is {shown(value)}, not a list"
        items = (misfit(item, shape[0], f"{name}[{i}]") for i, item in enumerate(value))
        return next((text for text in items if text), None)
    if isinstance(shape, Mapping):
        return _misfit_of_object(value, shape, name)
    if shape is None:
        return None if value is None else f"{name} is {shown(value)}, not null"
    fits, wanted = _KINDS[shape]
    return None if fits(value) else f"{name} is {shown(value)}, not {wanted}"


def _misfit_of_object(value: Any, shape: Mapping[str, Shape], name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name} is {shown(value)}, not an object"
    named = {key.removesuffix("?"): part for key, part in shape.items() if key != "*"}
    missing = next((key for key in named if key in shape and key not in value), None)
    if missing is not None:
        return f"{_inside(name, missing)} is missing"
    for key, item in value.items():
        part = named.get(key, shape.get("*"))
        if part is not None and (text := misfit(item, part, _inside(name, key))):
            return text
    return None


def _inside(name: str, key: str) -> str:
    return printable(key) if name == "it" else f"{name}.{printable(key)}"


def _is_number(value: Any) -> bool:
    """An integer of JSON may have thousands of digits, which no float and no array holds."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


_KINDS = {
    int: (lambda value: type(value) is int and _is_number(value), "a whole number"),
    float: (lambda value: _is_number(value) and math.isfinite(value), "a finite number"),
    AnyNumber: (_is_number, "a number"),
    str: (lambda value: type(value) is str and value.isprintable(), "a line of text"),
    dict: (lambda value: isinstance(value, dict), "an object"),
}


def cache_folder() -> Path:
    """`$JAXCIFAR_CACHE_DIR`, else `$XDG_CACHE_HOME/jaxcifar`, else `~/.cache/jaxcifar`."""
    if own := os.environ.get("JAXCIFAR_CACHE_DIR"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jaxcifar"
