"""Class names, compared in order: a label is a position in the list of names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError

_MOST_NAMES = 50  # of a list in a message


def match_classes(
    known: Sequence[str], found: Sequence[str], *, of_known: str, of_found: str
) -> NDArray[np.int32] | None:
    """The known label of each label found, by name; None if the lists are the same.

    Args:
        known: the names in the order of a network's outputs.
        found: the names in the order of the data's labels; some of the known ones, in any order.
        of_known, of_found: what has these classes, for the message.

    Raises:
        DataError: the data have a class that is not known, or a name stands for two classes; the
            message has both lists.

    Example:
        >>> match_classes(("cat", "dog"), ("dog", "cat"), of_known="a", of_found="b").tolist()
        [1, 0]
    """
    if tuple(known) == tuple(found):
        return None
    unambiguous = len(set(known)) == len(known) and len(set(found)) == len(found)
    if not unambiguous or not set(found) <= set(known):
        raise DataError(
            f"{of_found} does not have the classes of {of_known}:",
            *difference_lines(known, found, of_known=of_known, of_found=of_found),
        )
    position = {name: label for label, name in enumerate(known)}
    return np.array([position[name] for name in found], np.int32)


def difference_lines(
    known: Sequence[str], found: Sequence[str], *, of_known: str, of_found: str
) -> tuple[str, str]:
    """Both lists of names, in order, each on a line of an error."""
    return f"  {of_known}: {listed(known)}", f"  {of_found}: {listed(found)}"


def listed(names: Sequence[str]) -> str:
    """The names in order, not too many of them."""
    more = f", ... ({len(names):,} classes)" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
