"""What a save that fails prints beside its error: nothing.

Orbax gives up at the first file that cannot be written and leaves the writing of the others to
themselves. Each of these says so later: up to 70 tracebacks for a full disk, by way of the loggers
of absl and asyncio, of warnings and of `sys.unraisablehook`. The CheckpointError says all of it in
one line.
"""

import logging
import sys
import threading
import traceback
import warnings
from typing import Any

# In the names of the files, of the tasks that write them, and of the modules that do it.
_MARK = "orbax"


def silence_leftovers() -> None:
    """Drop what the abandoned parts of a save report; everything else is reported as before."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _only_others not in logger.filters:
            logger.addFilter(_only_others)
    # Orbax's: `async_serialize_from_host` and the functions within it.
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)
    if sys.unraisablehook is not _hook.report:
        _hook.before = sys.unraisablehook
        sys.unraisablehook = _hook.report


def _only_others(record: logging.LogRecord) -> bool:
    if not record.exc_info:
        return True
    _, error, trace = record.exc_info
    modules = " ".join(frame.filename for frame in traceback.extract_tb(trace))
    return _MARK not in f"{record.pathname} {record.getMessage()} {error} {modules}"


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
