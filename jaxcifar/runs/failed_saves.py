"""What a save that fails prints beside its error: nothing.

Orbax gives up at the first file that cannot be written and leaves the writing of the others to
themselves. Each of these says so later: up to 70 tracebacks for a full disk, by way of asyncio's
logger and of `sys.unraisablehook`. The CheckpointError says all of it in one line.
"""

import logging
import sys
import threading
from typing import Any

_MARK = "orbax"  # in the names of the files, and of the tasks that write them


def silence_leftovers() -> None:
    """Drop what the abandoned parts of a save report; everything else is reported as before."""
    logger = logging.getLogger("asyncio")
    if _only_others not in logger.filters:
        logger.addFilter(_only_others)
    if sys.unraisablehook is not _hook.report:
        _hook.before = sys.unraisablehook
        sys.unraisablehook = _hook.report


def _only_others(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not ("never retrieved" in record.getMessage() and _MARK in f"{record.msg} {error}")


class _Hook:
    """`sys.unraisablehook` without the calls into the event loop of a save that has ended."""

    before: Any = staticmethod(sys.unraisablehook)

    def __init__(self) -> None:
        self.report = self._report  # one object, which can be recognised

    def _report(self, failed: Any) -> None:
        elsewhere = threading.current_thread() is not threading.main_thread()
        if not (elsewhere and str(failed.exc_value) == "Event loop is closed"):
            self.before(failed)


_hook = _Hook()
