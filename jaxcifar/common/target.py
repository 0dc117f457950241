"""The platform that programs are built for: some forms are faster on a CPU, others elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def target_platform() -> str:
    """One of "cpu", "gpu" and "tpu": that of JAX's default device, or the one of `built_for`."""
    return _TARGET.get() or jax.default_backend()


@contextmanager
def built_for(platform: str) -> Iterator[None]:
    """Build programs for another platform than that of the default device, to be studied.

    What is traced inside gets that platform's forms. A program that was traced before keeps its
    own, so build it anew.
    """
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
