"""SIGINT and SIGTERM as a wish that the run looks at between pieces of an epoch.

Python runs a signal's handler only when the interpreter is next at work, and a training process
spends seconds at a time inside a compiled program. So the first signal is only noted (by Python's
own C handler, which writes its number to a pipe), and a thread watching the pipe ends the process
at once on a second SIGINT.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and did; the message says where, and how to go on.

    Attributes:
        signal_number: what asked; a script exits with 128 more, as shells have it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        """Note why the run stopped."""
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Whether a signal has come.

    Attributes:
        signal_number: which one this process heard first, 0 for none.
        agreed: which one all processes of the run stop for, 0 for none.
    """

    def __init__(self) -> None:
        """None has."""
        self.signal_number = 0
        self.agreed = 0

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self.signal_number != 0


@contextmanager
def watch_signals(*, announce: bool = True) -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM in place of acting on them; a second SIGINT exits at once.

    Outside the main thread, where Python hands out no signals, nothing is watched.

    Args:
        announce: say on standard error that the first one was heard.
    """
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def heard(number: int) -> None:
        if found.requested and number == signal.SIGINT:
            # Not sys.exit: the main thread may be inside a compiled program for seconds.
            os._exit(128 + number)
        if not found.requested and announce:
            name = signal.Signals(number).name
            print(
                f"\n{name}: stopping after this step and saving; Ctrl-C again exits at once",
                file=sys.stderr,
                flush=True,
            )
        found.signal_number = found.signal_number or number

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # One that is ignored, as SIGINT is in a job in a shell's background, stays so.
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _nothing) for number in heeded}
    outer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while received := reader.recv(1):
            if received[0] in heeded:
                heard(received[0])

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        signal.set_wakeup_fd(outer)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        thread.join()
        reader.close()


def _nothing(number: int, frame: object) -> None:
    """Python's C handler has written the number to the pipe already."""
