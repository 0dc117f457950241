"""Reads chunks of a source in order, some of them ahead, while the device computes."""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxcifar.data import Dataset, Source, cores

MAX_THREADS = 16  # of the default; each thread holds a chunk


def nbytes(source: Source) -> int:
    """Bytes of all its images, decoded; they decide whether the images fit on a device."""
    return len(source) * source.side**2 * 3


def open_stream(
    source: Source,
    chunks: Sequence[NDArray[np.int64]],
    *,
    threads: int | None = None,
    prefetch: int | None = None,
) -> Generator[Dataset, None, None]:
    """Yield `source.read(chunks[0])`, `source.read(chunks[1])` and so on, in order.

    It draws no random numbers and keeps no state: the caller computes the rows of every step from
    (seed, epoch). A run is therefore the same with any number of threads, and can continue at any
    step with the chunks from that step on.

    Threads of this process read chunks while the caller works, so decoders should release the
    interpreter lock, as Pillow's do. However the loop ends (a break, an error, an interruption), no
    further chunk is started once the iterator is closed, which happens at the latest when it is no
    longer referenced; each thread then ends with the chunk it was reading.

    Args:
        source: what to read.
        chunks: the row numbers of each chunk; may be an object that computes them on demand.
        threads: number of chunks read at once; by default one per core, at most `MAX_THREADS`.
        prefetch: number of chunks read ahead of the last one yielded, at most; together with that
            one they are all that is in memory. By default `threads`, and at least two.

    Raises:
        ValueError: at once, if `threads` or `prefetch` is not positive.
        DataError: an image cannot be read; raised when its chunk is due.
    """
    threads = min(cores(), MAX_THREADS) if threads is None else threads
    prefetch = max(threads, 2) if prefetch is None else prefetch
    if threads < 1 or prefetch < 1:
        raise ValueError(f"threads and prefetch must be at least 1, not {threads} and {prefetch}")
    return _stream(_Chunks(source, chunks), min(threads, prefetch), prefetch)


class _Chunks:
    """What grain calls a random access data source."""

    def __init__(self, source: Source, chunks: Sequence[NDArray[np.int64]]) -> None:
        self._source, self._chunks = source, chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> Dataset | Exception:
        try:
            return self._source.read(self._chunks[index])
        except Exception as error:
            # Returned, not raised: grain would add notes to its message.
            return error


def _stream(chunks: _Chunks, threads: int, prefetch: int) -> Generator[Dataset, None, None]:
    if not len(chunks):
        return
    import grain  # 0.9 s, most of it for Orbax, which it imports

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    iterator = iter(grain.MapDataset.source(chunks).to_iter_dataset(options))
    try:
        for chunk in iterator:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
    finally:
        iterator.close()
