"""Settings of a recipe from the words of a command line, and in a JSON file."""

import ast
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jaxcifar.recipes.recipe import Recipe


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """A recipe's fields from "field=value" words.

    A value is a Python literal, or else a string; for a field that holds text always a string, as
    in train_resize=16.

    Raises:
        ValueError: a word is not of that form.
    """
    settings: dict[str, Any] = {}
    hints = get_type_hints(Recipe)
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not field=value")
        name = name.replace("-", "_")
        settings[name] = value
        with suppress(ValueError, SyntaxError):
            literal = ast.literal_eval(value)
            if literal is None or not _holds_text(hints.get(name)):
                settings[name] = literal
    return settings


def _holds_text(hint: Any) -> bool:
    """Whether a field of this type is a string."""
    return str in (hint, *get_args(hint))


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with only the last part of each path: the rest means nothing elsewhere."""

    def shorten(value: Any) -> Any:
        if not isinstance(value, str) or "/" not in value:
            return value
        kind, colon, path = value.rpartition(":")
        local = Path(path).is_absolute() or Path(path).exists()  # not a name on the hub
        return f"{kind}{colon}{Path(path).name}" if local else value

    return {name: shorten(value) for name, value in settings.items()}
