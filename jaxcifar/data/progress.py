"""The progress bar of everything here that takes seconds or minutes."""

from contextlib import AbstractContextManager
from typing import Protocol, cast


class Bar(Protocol):
    """The part of tqdm's bar that is used."""

    def update(self, n: int, /) -> object:
        """Advances by `n` units."""


def progress_bar(
    description: str, total: int, *, unit: str, shown: bool, initial: int = 0
) -> AbstractContextManager[Bar]:
    """A bar on stderr, shown on a terminal only: a log file gets none.

    Args:
      total, initial: in `unit`; bytes (unit "B") are scaled to kB and MB.
      shown: False for no bar even on a terminal.
    """
    from tqdm import tqdm

    bar = tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit == "B",
        disable=None if shown else True,  # None: disabled unless stderr is a terminal
    )
    return cast("AbstractContextManager[Bar]", bar)
