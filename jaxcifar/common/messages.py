"""Names and values in messages: safe to print, and the nearest known name for a typo."""

import difflib
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel = 3
_MAX_TYPO = 100  # characters; a much longer name is not a typo of a known one


def shown(value: object) -> str:
    """The repr of an untrusted value for a message: short, without control characters."""
    return _SHORT.repr(value)


def printable(text: str, most: int = 200) -> str:
    """Untrusted text for a message: at most `most` characters, control characters escaped."""
    cut = text if len(text) <= most else text[:most] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


def did_you_mean(
    name: str, known: Iterable[str], *, count: int = 1, others: Iterable[str] | None = None
) -> str:
    """The end of a message about an unknown name: the nearest known names, or the possible ones.

    Args:
        name: may come from a file and have any length.
        known: every valid name.
        count: how many of the nearest names to give, at most.
        others: the names to list if none is near; by default all known ones.
    """
    known = list(known)
    near = difflib.get_close_matches(name[:_MAX_TYPO], known, n=count, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; choose from {', '.join(known if others is None else others)}"
