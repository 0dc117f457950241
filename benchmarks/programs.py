"""Compiled programs in a benchmark: kept on disk, except where compiling is what is measured.

The rule: initial states, scores and whatever else is not timed come from the library's compilation
cache (`start` turns it on); a program whose compile time is reported is compiled by
`compiled_anew`, which neither reads the cache nor writes it. `second_fit` turns the cache off, and
`warm_start` and `transfer` give their processes empty ones.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxcifar.common.errors import DeviceError
from jaxcifar.devices.backend import find_devices
from jaxcifar.devices.compilation_cache import enable_compilation_cache


def start(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> Any:
    """Parse the options, find the devices as the library does, and turn on its compilation cache.

    Exits with one line and status 2 without the devices that JAX_PLATFORMS asks for.
    """
    parsed = parser.parse_args(words)
    try:
        find_devices()
    except DeviceError as error:
        parser.error(str(error))
    enable_compilation_cache()
    return parsed


def timed(f: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and the seconds it took."""
    started = time.perf_counter()
    result = jax.block_until_ready(f())
    return result, time.perf_counter() - started


def compiled_anew(f: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call that compiles, and the seconds it took without the cache."""
    with without_cache():
        return timed(f)


@contextmanager
def without_cache() -> Iterator[None]:
    """No program is read from the cache on disk or written there."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX looks at the setting only once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
