"""Data that are read while the device computes: parts of a source, in order, some ahead of use."""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxcifar.data import Dataset, Source, cores

MOST_THREADS = 16  # unless asked for: each holds a part


def nbytes(source: Source) -> int:
    """Bytes of all its images, decoded: what decides whether they fit on a device."""
    return len(source) * source.side**2 * 3


def open_stream(
    source: Source,
    parts: Sequence[NDArray[np.int64]],
    *,
    threads: int | None = None,
    prefetch: int | None = None,
) -> Generator[Dataset, None, None]:
    """Reads `source.read(parts[0])`, `source.read(parts[1])` and so on, and yields them in order.

    Nothing here is random and nothing is remembered: the rows of every step are the caller's, who
    computes them from (seed, epoch). So a run is the same however many threads read, and goes on at
    any step with the parts from that step on.

    Parts are read by threads of this process while the caller is at work, which needs decoders that
    let go of the interpreter lock, as Pillow's do. However it is left, by a break, an error or an
    interruption, no further part is begun when the iterator is closed (as it is at the latest when
    it is no longer referred to), and each thread ends with the part it was reading.

    Args:
        source: what is read.
        parts: row numbers of each part; also an object that computes them as they are asked for.
        threads: how many parts are read at once; else one for each core, but no more than
            `MOST_THREADS`.
        prefetch: how many parts are read ahead of the one yielded last, at most: with it they are
            all that is in memory. Else as many as threads, and at least two.

    Raises:
        ValueError: numbers of threads or parts that are not positive; at once.
        DataError: an image that cannot be read; when its part would be due.
    """
    threads = min(cores(), MOST_THREADS) if threads is None else threads
    prefetch = max(threads, 2) if prefetch is None else prefetch
    if threads < 1 or prefetch < 1:
        raise ValueError(f"threads and prefetch must be at least 1, not {threads} and {prefetch}")
    return _stream(_Parts(source, parts), min(threads, prefetch), prefetch)


class _Parts:
    """What grain calls a random access data source."""

    def __init__(self, source: Source, parts: Sequence[NDArray[np.int64]]) -> None:
        self._source, self._parts = source, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Dataset | Exception:
        try:
            return self._source.read(self._parts[index])
        except Exception as error:
            # Carried over: to what passes through it grain adds remarks on its tracebacks.
            return error


def _stream(parts: _Parts, threads: int, prefetch: int) -> Generator[Dataset, None, None]:
    if not len(parts):
        return
    import grain  # 0.9 s, most of it in Orbax, which it imports

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    iterator = iter(grain.MapDataset.source(parts).to_iter_dataset(options))
    try:
        for part in iterator:
            if isinstance(part, Exception):
                raise part
            yield part
    finally:
        iterator.close()
