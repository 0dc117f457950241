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

# In the names of the files, and of Orbax's modules in a traceback.
_MARKS = (".orbax-checkpoint-tmp", "orbax/checkpoint/_src")


class _Silence:
    """Drops what the parts of our saves report: while one runs, and for good after one failed."""

    def __init__(self) -> None:
        self.saving: set[int] = set()  # the `Checkpoints` with a save, by id
        self.failed = False
        self._before: Any = None

    @property
    def active(self) -> bool:
        return self.failed or bool(self.saving)

    def install(self) -> None:
        """Once in a process: a hook of somebody else's may call this one by now."""
        if self._before is not None:
            return
        self._before = sys.unraisablehook
        sys.unraisablehook = self._report
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(self._keep)
        # Orbax's `async_serialize_from_host` and the functions within it.
        warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)

    def _keep(self, record: logging.LogRecord) -> bool:
        if not (self.active and record.exc_info):
            return True
        _, error, trace = record.exc_info
        modules = " ".join(frame.filename for frame in traceback.extract_tb(trace))
        text = f"{record.pathname} {record.getMessage()} {error} {modules}"
        return not any(mark in text for mark in _MARKS)

    def _report(self, failed: Any) -> None:
        """TensorStore calls into the event loop of a save that has ended, from its own threads."""
        elsewhere = threading.current_thread() is not threading.main_thread()
        if not (self.active and elsewhere and str(failed.exc_value) == "Event loop is closed"):
            self._before(failed)


_silence = _Silence()


def save_begins(owner: object) -> None:
    """Silence a save's parts from here on; everything else is reported as before."""
    _silence.install()
    _silence.saving.add(id(owner))


def save_ended(owner: object, *, failed: bool) -> None:
    """Reporting is as before again, unless the save failed: its parts report at any later time."""
    _silence.saving.discard(id(owner))
    _silence.failed = _silence.failed or failed
