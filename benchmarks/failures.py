"""A variant that cannot be measured here is left out, with the reason, and the others go on."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LeftOut(Exception):
    """A variant is not available here; the message says why."""


# What a machine refuses: JAX's errors (no memory, a compiler that gives up) and PyTorch's are
# RuntimeErrors, a process that ended is an OSError. Mistakes in a benchmark are other classes.
FAILURES = (LeftOut, RuntimeError, MemoryError, OSError)


def try_variant(name: str, f: Callable[[], T], left_out: dict[str, str]) -> T | None:
    """The result of `f`, or None if it fails; then a line and `left_out[name]` say why."""
    try:
        return f()
    except FAILURES as error:
        left_out[name] = reason_of(error)
    # Outside of the handler: the error's frames hold the arrays of what failed.
    print(f"left out: {name}: {left_out[name]}", flush=True)
    return None


def reason_of(error: BaseException) -> str:
    """The first line of its message, without a class that says nothing to a reader."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no reason is given"
    return text[:200] if isinstance(error, LeftOut) else f"{type(error).__name__}: {text[:200]}"
