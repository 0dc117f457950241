"""What a process does when JAX finds that another process of its run is lost.

JAX's processes send each other heartbeats from threads in C++, which no compilation delays. When
one is missing, JAX calls `missed_heartbeat_callback`; by default that aborts the process, with a
stack trace in C++ and the status of a crash. `jax.distributed.initialize` does not pass the
argument on, so this module adds it. Where JAX or the C++ library differ, JAX's default stays.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WAY_OUT = "what was saved is intact: end those that are left, start all of them again with --resume"
_LINE = f"error: another process of this run is gone or does not answer; {WAY_OUT}\n"
# Callbacks that C++ keeps.
_kept: list[Any] = []


def leave(*_: object) -> None:
    """Print one line and exit with 2, at once: the main thread may be waiting without limit."""
    os.write(2, _LINE.encode())
    os._exit(2)


@contextmanager
def leave_when_one_is_lost() -> Iterator[None]:
    """Let `jax.distributed.initialize`, called inside, connect a process that ends by `leave`."""
    try:
        from jax._src.lib import _jax

        make_client = _jax.get_distributed_runtime_client
        _leave_on_uncaught_cast()
    except (ImportError, AttributeError, OSError):
        yield
        return

    def make(*args: Any, **settings: Any) -> Any:
        try:
            return make_client(*args, **settings, missed_heartbeat_callback=leave)
        except TypeError:  # a JAX without this argument
            return make_client(*args, **settings)

    _jax.get_distributed_runtime_client = make
    try:
        yield
    finally:
        _jax.get_distributed_runtime_client = make_client


def _leave_on_uncaught_cast() -> None:
    """Make an uncaught std::bad_cast end this process by `leave`, too.

    The callback's argument is an absl::Status, for which JAX 0.10 to 0.12 have no Python type: they
    throw std::bad_cast instead of calling it, in a thread where nothing catches that.

    Raises:
        OSError, AttributeError: the C++ library is another one.
    """
    if _kept:
        return
    library = ctypes.CDLL("libstdc++.so.6")
    exception_type = library.__cxa_current_exception_type
    exception_type.restype = ctypes.POINTER(ctypes.c_char_p)
    set_terminate = library._ZSt13set_terminatePFvvE  # std::set_terminate
    set_terminate.restype = ctypes.CFUNCTYPE(None)
    before: list[Callable[[], None]] = []

    def uncaught() -> None:
        thrown = exception_type()
        if thrown and thrown[1] == b"St8bad_cast":  # type_info: its methods, then its name
            leave()
        before[0]()

    handler = ctypes.CFUNCTYPE(None)(uncaught)
    _kept.append(handler)
    before.append(set_terminate(handler))
