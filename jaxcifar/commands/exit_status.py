"""How a command ends: expected errors as one line, signals, and the exit status.

Importing this module does not import JAX, and a command that needs none runs without it.
"""

import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TextIO

from jaxcifar.commands.first_seconds import heed, leave_at_once
from jaxcifar.common.errors import EXPECTED, DeviceError, message_lines
from jaxcifar.common.messages import reason_of, say
from jaxcifar.devices.backend import find_devices
from jaxcifar.training.interruption import Interrupted

_DELETED = "the working directory was deleted: change to one that exists"
_SECONDS_TO_FLUSH = 5.0  # of standard output
# After a second signal, which cuts the cleaning up after the first one short.
_AGAIN = "a second signal; temporary files may be left"


def exit_with_status(
    command: Callable[[], None],
    *,
    interrupted: str = "nothing was written",
    smaller: str = "close other programs",
) -> NoReturn:
    """Run a command and exit.

    Success exits with 0, an expected error with one line and 2. Ctrl-C exits with 130 and SIGTERM,
    which batch systems send before they kill, with 143. Both let a file that is being written be
    finished, and a training run is saved at its current step, see `interruption`.

    Args:
        interrupted: what is left after Ctrl-C or SIGTERM, for the message.
        smaller: how the command needs less memory, for the message.
    """
    try:
        heed_signals()
        # Orbax reports every save through absl at WARNING, and a failed one with a traceback at
        # ERROR; the exception that follows says all of it.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        # A matplotlibrc that it complains about does not matter, see `common.drawing`.
        logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
        warnings.showwarning = _show_warning
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold bytes that are not text
            sys.stdout.reconfigure(errors="backslashreplace")
        status = _status_of(command, smaller)
    except SystemExit as refused:  # by a parser, which has said why
        if isinstance(refused.code, int) and refused.code != 0:
            _leave_the_others(refused.code)
        raise
    except Interrupted as stopped:
        say(stopped, file=sys.stderr)
        status = 128 + stopped.signal_number
    except KeyboardInterrupt:
        say(f"interrupted; {interrupted}", file=sys.stderr, flush=True)
        _leave_the_others(130)
        status = 130
    except _Terminated:
        say(f"terminated; {interrupted}", file=sys.stderr, flush=True)
        status = 128 + signal.SIGTERM
        _leave_the_others(status)
    sys.exit(status)


def heed_signals() -> None:
    """Make SIGINT and SIGTERM raise an exception, and a further one end the process."""
    heed({signal.SIGINT: _interrupt, signal.SIGTERM: _terminate})


def _status_of(command: Callable[[], None], smaller: str) -> int:
    """Run a command; the exit status, after printing an expected error."""
    try:
        try:
            command()
        finally:
            leave_at_once("")  # all that is left is a message, and Python's own end
    except EXPECTED as error:
        first, *others = [_DELETED] if _of_deleted_folder(error) else message_lines(error)
        say(f"error: {first}", *others, file=sys.stderr, flush=True)
        _leave_the_others(2)
        return 2
    except Exception as error:
        if (missing := _missing_device(error)) is not None:
            say(f"error: {missing}", file=sys.stderr, flush=True)
            _leave_the_others(2)
            return 2
        if not _out_of_memory(error):
            if _is_one_of_several():
                traceback.print_exc()  # Python would print it after the wait for the others
                _leave_the_others(1)
            raise  # a defect
        say(
            f"error: out of memory: {smaller} ({reason_of(error)})",
            file=sys.stderr,
            flush=True,
        )
        _leave_the_others(2)
        return 2
    return 0


def _leave_the_others(status: int) -> None:
    """Exit now where there are several processes.

    An orderly exit would wait for the other processes, which wait for this one.
    """
    if _is_one_of_several():
        # By a thread: a pipe whose reader is busy would hold it up.
        flushing = threading.Thread(target=_flush, daemon=True)
        flushing.start()
        flushing.join(_SECONDS_TO_FLUSH)
        os._exit(status)


def _flush() -> None:
    with suppress(OSError, ValueError):  # its reader is gone, or it is closed
        if sys.stdout is not None:
            sys.stdout.flush()


def _is_one_of_several() -> bool:
    processes = sys.modules.get("jaxcifar.devices.processes")  # imported if it was used
    return processes is not None and processes.is_one_of_several()


def _of_deleted_folder(error: BaseException) -> bool:
    """Whether a file was not found because the working directory is gone."""
    if not isinstance(error, FileNotFoundError) or os.path.isabs(error.filename or ""):
        return False
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _missing_device(error: Exception) -> DeviceError | None:
    """What to say if JAX has no devices, which it notices wherever it first needs one."""
    if "jax" in sys.modules and isinstance(error, RuntimeError | AssertionError):
        try:
            find_devices()
        except DeviceError as missing:
            return missing
    return None


def _out_of_memory(error: Exception) -> bool:
    if "jax" not in sys.modules:  # then it cannot be an error of JAX's
        return isinstance(error, MemoryError)
    from jaxcifar.devices.memory import is_exhausted

    return is_exhausted(error)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line, like an error."""
    say(f"warning: {message}", file=file or sys.stderr, flush=True)


class _Terminated(BaseException):
    """Like KeyboardInterrupt: no `except Exception` catches it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    leave_at_once(_AGAIN)
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    leave_at_once(_AGAIN)
    raise _Terminated
