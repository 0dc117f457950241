"""Nearest names for error messages."""

import difflib
from collections.abc import Iterable

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
