"""The progress bar of downloads, decoding and preparation."""

from contextlib import AbstractContextManager
from typing import Protocol, cast

from jaxcifar.common.messages import escaped


class Bar(Protocol):
    """The part of tqdm's bar that is used."""

    def update(self, n: int, /) -> object:
        """Advance by `n` units."""


def progress_bar(
    label: str, total: int, *, unit: str, enabled: bool, initial: int = 0
) -> AbstractContextManager[Bar]:
    """A bar on standard error, drawn on a terminal only: a log file gets none.

    Args:
        label: the text before the bar.
        total, initial: in `unit`; bytes (unit "B") are scaled to kB and MB.
        unit: what is counted.
        enabled: False for no bar even on a terminal.
    """
    from tqdm import tqdm

    bar = tqdm(
        desc=escaped(label),
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit == "B",
        disable=None if enabled else True,  # None: disabled unless stderr is a terminal
    )
    return cast("AbstractContextManager[Bar]", bar)
