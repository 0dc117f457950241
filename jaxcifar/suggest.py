"""Nearest names for error messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(
    name: str, known: Iterable[str], *, count: int = 1, others: Iterable[str] | None = None
) -> str:
    """The end of a message about an unknown name: the nearest known ones, or a list to choose from.

    Args:
        count: of nearest names, at most.
        others: the list, where there are too many known names to print them all.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; choose from {', '.join(known if others is None else others)}"
