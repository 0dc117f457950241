"""Work on many rows, chunk by chunk, with one thread per core."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
_READ_AT_ONCE = 256  # rows; a fraction of a second even for photographs


def in_chunks(
    size: int,
    work: Callable[[NDArray[np.int64]], T],
    on_done: Callable[[int], object] | None = None,
    *,
    at_once: int = _READ_AT_ONCE,
) -> Iterator[T]:
    """What `work` returns for rows 0 to `size`, chunk by chunk, with one thread per core.

    Args:
        size: number of rows.
        work: called with the row numbers of each chunk, in several threads.
        on_done: called with the number of rows in each chunk, in order.
        at_once: rows in a chunk.
    """
    pool = ThreadPoolExecutor(max_workers=cores())
    try:
        chunks = [np.arange(i, min(i + at_once, size)) for i in range(0, size, at_once)]
        for rows, done in zip(chunks, pool.map(work, chunks), strict=True):
            if on_done is not None:
                on_done(len(rows))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
