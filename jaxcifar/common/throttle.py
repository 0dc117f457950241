"""How often something may be repeated that should cost little of the time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throttle:
    """Lets a work wait until it takes at most a share of the time since it was last done."""

    def __init__(
        self, share: float, expected: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the time.

        Args:
            share: of the time, in (0, 1].
            expected: seconds that the first work will take; with 0 it is due at once.
            clock: returns seconds.
        """
        self._share, self._took, self._clock = share, expected, clock
        self._last = clock()

    def is_due(self) -> bool:
        """Whether enough time has passed for a work as long as the last one."""
        return (self._clock() - self._last) * self._share >= self._took

    @contextmanager
    def measured(self) -> Iterator[None]:
        """The work, whose time is the measure of the next one's."""
        started = self._clock()
        try:
            yield
        finally:
            self._last = self._clock()
            self._took = self._last - started
