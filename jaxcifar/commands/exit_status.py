"""How a command ends: expected errors as one line, signals, and the exit status.

Importing this module does not import JAX, and a command that needs none runs without it.
"""

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TextIO

from jaxcifar.common.errors import EXPECTED, message_lines
from jaxcifar.common.messages import say
from jaxcifar.training.interruption import Interrupted


def exit_with_status(
    command: Callable[[], None], *, interrupted: str = "nothing was written"
) -> NoReturn:
    """Run a command and exit.

    Success exits with 0, an expected error with one line and 2. Ctrl-C exits with 130 and SIGTERM,
    which batch systems send before they kill, with 143. Both let a file that is being written be
    finished, and a training run is saved at its current step, see `interruption`.

    Args:
        interrupted: what is left after Ctrl-C or SIGTERM, for the message.
    """
    signal.signal(signal.SIGTERM, _terminate)
    # Orbax reports every save through absl at WARNING, and a failed one with a traceback at ERROR;
    # the exception that follows says all of it.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold bytes that are not text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command()
    except EXPECTED as error:
        first, *others = message_lines(error)
        say(f"error: {first}", *others, file=sys.stderr, flush=True)
        if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
            # An orderly exit would wait for the other processes, which wait for this one.
            os._exit(2)
        sys.exit(2)
    except Interrupted as stopped:
        say(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt:
        say(f"interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)
    except _Terminated:
        say(f"terminated; {interrupted}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        if not _out_of_memory(error):
            raise  # a defect
        say(
            "error: out of memory: lower --batch-size, --eval-batch-size, --resize or --width "
            f"({str(error).splitlines()[0] if str(error) else 'MemoryError'})",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(0)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    jax = sys.modules.get("jax")
    of_a_program = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    return of_a_program and "RESOURCE_EXHAUSTED" in str(error)


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


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
