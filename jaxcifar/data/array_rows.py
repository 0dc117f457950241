"""The rows of an array that a message names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.messages import shown

_SHOWN_ROWS = 3


def list_rows(rows: NDArray[np.int64], values: Sequence[Any] | NDArray[Any]) -> str:
    """The first rows with their values, and how many more there are.

    >>> list_rows(np.array([4, 7]), np.array([12, -1]))
    'row 4 is 12, row 7 is -1'
    """
    plain = [v.item() if isinstance(v, np.generic) else v for v in values[:_SHOWN_ROWS]]
    first = [
        f"row {row} is {shown(value)}" for row, value in zip(rows[:_SHOWN_ROWS], plain, strict=True)
    ]
    more = len(rows) - _SHOWN_ROWS
    return ", ".join(first) + (f", and {more:,} more" if more > 0 else "")
