"""The shape that a JSON value must have, and what is wrong with one that does not have it."""

import math
from collections.abc import Mapping
from typing import Any

from jaxcifar.common.messages import printable, shown

Shape = Any  # see `misfit`


class AnyNumber:
    """The shape of a number that may also be NaN or infinite, as a loss may be."""


class AnyText:
    """The shape of a text with any characters: the name of a file, or of an experiment."""


def misfit(value: Any, shape: Shape, name: str = "it") -> str | None:
    """What is wrong with a JSON value, or None if it has the shape.

    A shape is one of:

    - `int`, `float` (any finite number), `AnyNumber`, `str` (a printable line), `AnyText` or
      `dict` (any object);
    - a tuple of alternatives, which may include None;
    - a list of one shape, that of every item;
    - a mapping of names to shapes. A name that ends in "?" is optional; ``"*"`` stands for every
      other name.

    >>> misfit({"best": {"step": "x"}}, {"best": {"step": int}})
    "best.step is 'x', not a whole number"
    """
    if isinstance(shape, tuple):
        problems = [misfit(value, each, name) for each in shape]
        # The last alternative says most: None comes first.
        return None if None in problems else problems[-1]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is {shown(value)}, not a list"
        items = (misfit(item, shape[0], f"{name}[{i}]") for i, item in enumerate(value))
        return next((text for text in items if text), None)
    if isinstance(shape, Mapping):
        return _misfit_of_object(value, shape, name)
    if shape is None:
        return None if value is None else f"{name} is {shown(value)}, not null"
    fits, expected = _KINDS[shape]
    return None if fits(value) else f"{name} is {shown(value)}, not {expected}"


def _misfit_of_object(value: Any, shape: Mapping[str, Shape], name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name} is {shown(value)}, not an object"
    shapes = {key.removesuffix("?"): item_shape for key, item_shape in shape.items() if key != "*"}
    missing = next((key for key in shapes if key in shape and key not in value), None)
    if missing is not None:
        return f"{_inside(name, missing)} is missing"
    for key, item in value.items():
        item_shape = shapes.get(key, shape.get("*"))
        if item_shape is not None and (text := misfit(item, item_shape, _inside(name, key))):
            return text
    return None


def _inside(name: str, key: str) -> str:
    return printable(key) if name == "it" else f"{name}.{printable(key)}"


def _is_number(value: Any) -> bool:
    """A JSON integer may have thousands of digits, which no float or array can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


_KINDS = {
    int: (lambda value: type(value) is int and _is_number(value), "a whole number"),
    float: (lambda value: _is_number(value) and math.isfinite(value), "a finite number"),
    AnyNumber: (_is_number, "a number"),
    str: (lambda value: type(value) is str and value.isprintable(), "a line of text"),
    AnyText: (lambda value: type(value) is str, "a line of text"),
    dict: (lambda value: isinstance(value, dict), "an object"),
}
