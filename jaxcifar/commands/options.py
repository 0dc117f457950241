"""Command-line options made from the fields of a dataclass."""

import argparse
import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def add_options(
    parser: argparse.ArgumentParser, defaults: Any, aliases: Mapping[str, str] | None = None
) -> None:
    """Add an option for each field of a dataclass instance.

    An option that is not given is absent from the parsed namespace: see `given_options`.

    Args:
        defaults: an instance whose fields have "group", "help" and "unset" (what None means) in
            their metadata; its values are the defaults that --help shows.
        aliases: a second option string by field name.
    """
    groups: dict[str, Any] = {}
    hints = get_type_hints(type(defaults))
    for field in dataclasses.fields(defaults):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        strings = ["--" + field.name.replace("_", "-")]
        if aliases and field.name in aliases:
            strings.append(aliases[field.name])
        value, text = getattr(defaults, field.name), field.metadata["help"]
        default = field.metadata["unset"] if value is None else value
        if default is not None:
            text = f"{text} (default: {default})"
        groups[title].add_argument(
            *strings, default=argparse.SUPPRESS, help=text, **_argparse_settings(hints[field.name])
        )


def given_options(parsed: argparse.Namespace, dataclass: type) -> dict[str, Any]:
    """The fields that were given on the command line."""
    names = [field.name for field in dataclasses.fields(dataclass)]
    return {name: getattr(parsed, name) for name in names if hasattr(parsed, name)}


def _argparse_settings(hint: Any) -> dict[str, Any]:
    """The type, choices or action for an annotation."""
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) in (Union, UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    return {"type": hint, "metavar": {int: "N", float: "X", str: "NAME"}[hint]}
