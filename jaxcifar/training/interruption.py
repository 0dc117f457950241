"""SIGINT and SIGTERM set a flag, which a run polls between the pieces of an epoch.

Python runs a signal's handler only when the interpreter runs again, and a training process spends
seconds at a time inside a compiled program. So the first signal only sets the flag (Python's own C
handler writes its number to a pipe), and a thread that reads the pipe ends the process at once on a
second SIGINT.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jaxcifar.common.messages import escaped, say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and did; the message says where, and how to continue.

    Attributes:
        signal_number: of the signal; a command exits with 128 plus this number, as shells do.

    Example:
        >>> from jaxcifar import Interrupted
        >>> try:
        ...     raise Interrupted("SIGTERM in epoch 2, after step 40, which is saved", 15)
        ... except Interrupted as stopped:
        ...     print(128 + stopped.signal_number)
        143
    """

    def __init__(self, message: str, signal_number: int) -> None:
        """Keep the signal's number beside the message."""
        super().__init__(escaped(message))
        self.signal_number = signal_number


class Interruption:
    """Whether a signal was received.

    Attributes:
        signal_number: the first that this process received, 0 for none.
        agreed: the one that all processes of the run stop for, 0 for none.
    """

    def __init__(self) -> None:
        """Start with no signal received."""
        self.signal_number = 0
        self.agreed = 0

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self.signal_number != 0


@contextmanager
def watch_signals(*, announce: bool = True) -> Iterator[Interruption]:
    """Record SIGINT and SIGTERM instead of acting on them; a second SIGINT exits at once.

    Outside the main thread, where Python delivers no signals, nothing is watched.

    Args:
        announce: print on standard error that the first one was received.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def heard(number: int) -> None:
        if interruption.requested and number == signal.SIGINT:
            # Not sys.exit: the main thread may be inside a compiled program for seconds.
            os._exit(128 + number)
        if not interruption.requested and announce:
            name = signal.Signals(number).name
            say(
                "",
                f"{name}: stopping after this step and saving; Ctrl-C again exits at once",
                file=sys.stderr,
                flush=True,
            )
        interruption.signal_number = interruption.signal_number or number

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # A signal that is ignored, as SIGINT is in a shell's background job, stays ignored.
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
        yield interruption
    finally:
        signal.set_wakeup_fd(outer)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        thread.join()
        reader.close()


def _nothing(number: int, frame: object) -> None:
    """Python's C handler has written the number to the pipe already."""
