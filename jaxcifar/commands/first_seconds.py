"""Ctrl-C and SIGTERM where there is nothing to finish: one line at most, and no traceback.

While a command's modules are imported, an exception of a signal could leave anything half made, or
turn into another one. Importing this module must be quick: nothing stops a signal before.
"""

import os
import signal
from collections.abc import Callable

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def leave_at_once(text: str = "nothing was written") -> None:
    """From here on, SIGINT and SIGTERM end the process at once, with 128 plus their number.

    Signals that are ignored, as SIGINT is in a shell's background job, stay ignored.

    Args:
        text: what is left, for the message; without one nothing is printed.
    """

    def leave(number: int, frame: object) -> None:
        if text:
            os.write(2, f"{_WORDS[signal.Signals(number)]}; {text}\n".encode())
        os._exit(128 + number)

    try:
        heed(dict.fromkeys(_WORDS, leave))
    except KeyboardInterrupt:  # in these few microseconds
        leave(signal.SIGINT, None)


def heed(handlers: dict[signal.Signals, Callable[..., None]]) -> None:
    """Set the handlers of signals that are not ignored."""
    for number, handler in handlers.items():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
