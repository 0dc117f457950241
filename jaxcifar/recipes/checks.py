"""What a recipe's values must satisfy."""

from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

import numpy as np

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean, shown

LONGEST_TEXT = 16_384  # characters: rules for each leaf of a ResNet-50 take 7,000
LONGEST_NAME = 100
_LARGEST = float(np.finfo(np.float32).max)


def _check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        near = did_you_mean(value if isinstance(value, str) else shown(value), choices)
        raise RecipeError(f"unknown {name} {shown(value)}{near}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Values come from JSON and from Python: refuse what is not of the annotated type."""
    if get_origin(hint) is Literal:
        _check_choice(name, value, get_args(hint))
        return
    kinds = tuple(get_args(hint)) or (hint,)
    if value is None and type(None) in kinds:
        return
    if isinstance(value, bool) and bool not in kinds:
        raise RecipeError(f"{name} must be a number, not {value}")
    if float in kinds and isinstance(value, (int, float)):
        if abs(value) <= _LARGEST:
            return
        raise RecipeError(f"{name} must be finite as a float32, not {shown(value)}")
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise RecipeError(f"{name} must be of type {wanted}, not {shown(value)}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise RecipeError(f"{name} must be under 2**63, not {shown(value)}")
    if isinstance(value, str):
        _check_text(name, value)


def _check_text(name: str, text: str) -> None:
    """No path, no name and no rule has control characters; rules may stand on several lines."""
    most = LONGEST_TEXT if name in ("freeze", "weights") else LONGEST_NAME
    if len(text) > most:
        raise RecipeError(f"{name} has {len(text):,} characters, more than {most:,}")
    if any(ord(c) < 32 and not c.isspace() for c in text):
        raise RecipeError(f"{name} must be a line of text, not {shown(text)}")
