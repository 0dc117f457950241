"""Names and values in messages: made printable, and the nearest known name for a typo."""

import difflib
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """A value from a file, fit for a message: short, without control characters."""
    return _SHORT.repr(value)


def printable(text: str, most: int = 200) -> str:
    """A name from a file as it is, but for control characters and what goes on for too long."""
    cut = text if len(text) <= most else text[:most] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


_LONGEST = 100


def did_you_mean(
    name: str, known: Iterable[str], *, count: int = 1, others: Iterable[str] | None = None
) -> str:
    """The end of a message about an unknown name: the nearest known ones, or a list to choose from.

    Args:
        count: of nearest names, at most.
        others: the list, where there are too many known names to print them all.
    """
    known = list(known)
    # Of a name from a file, which may be endless: what is much longer has no near ones anyway.
    near = difflib.get_close_matches(name[:_LONGEST], known, n=count, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; choose from {', '.join(known if others is None else others)}"
