"""A function of many photos, read by threads while the device computes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError, ImageFileError, message_lines
from jaxcifar.common.progress import progress_bar
from jaxcifar.data import cores
from jaxcifar.inference.photos import Photo

# A few images are computed in batches of this size, so that two or twenty share one program.
SMALL_BATCH = 16
_FEW = 8 * SMALL_BATCH
_AT_ONCE = 8  # photos that a thread reads in turn
_Read = NDArray[np.uint8] | Exception
_AHEAD = 2  # batches that are computed before the first is fetched
_MOST_NAMED = 20  # unreadable files in an error


class _Batch(NamedTuple):
    rows: list[int]
    images: list[NDArray[np.uint8]]  # of one size


def in_batches(
    photos: Sequence[Photo],
    function: Callable[[NDArray[np.uint8]], jax.Array],
    *,
    side: int,
    stored_side: int | None,
    batch_size: int,
    on_unreadable: Callable[[str, Exception], None] | None = None,
    progress: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A function of every photo that can be read.

    Args:
        photos: what to read.
        function: uint8 images [b, s, s, 3] -> an array [b, ...].
        side, stored_side: s, see `Photo.read`.
        batch_size: b; a few images come in batches of `SMALL_BATCH`, filled up with copies.
        on_unreadable: called with the name of a file that cannot be read, and why.
        progress: draw a bar, on a terminal.

    Returns:
        The rows of the photos that were read, in order, and the function of each.

    Raises:
        ImageFileError: files cannot be read, and there is no `on_unreadable`; all are named.
        DataError: none can be read.
    """
    done: list[tuple[list[int], NDArray[np.float32]]] = []
    computing: list[tuple[list[int], jax.Array]] = []
    with progress_bar("Reading", len(photos), unit=" images", enabled=progress) as bar:
        for batch in _read(photos, side, stored_side, batch_size, on_unreadable, bar.update):
            for rows, images in _filled(batch, batch_size):
                computing.append((rows, function(images)))
            while len(computing) > _AHEAD:
                done.append(_fetch(*computing.pop(0)))
    done += [_fetch(*item) for item in computing]
    if not done:
        raise DataError(f"none of the {len(photos):,} images can be read")
    found = np.array([row for rows, _ in done for row in rows], np.int64)
    outputs = np.concatenate([values for _, values in done])
    order = np.argsort(found)
    return found[order], outputs[order]


def _fetch(rows: list[int], values: jax.Array) -> tuple[list[int], NDArray[np.float32]]:
    return rows, np.asarray(values, np.float32)[: len(rows)]


def _filled(batch: _Batch, batch_size: int) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """A batch in pieces of two possible sizes, each filled up with copies of its last image."""
    many = len(batch.rows) == batch_size or len(batch.rows) > _FEW
    size = batch_size if many else min(SMALL_BATCH, batch_size)
    for first in range(0, len(batch.rows), size):
        rows, images = batch.rows[first : first + size], batch.images[first : first + size]
        yield rows, np.stack([*images, *[images[-1]] * (size - len(images))])


def _read(
    photos: Sequence[Photo],
    side: int,
    stored_side: int | None,
    batch_size: int,
    on_unreadable: Callable[[str, Exception], None] | None,
    on_read: Callable[[int], object],
) -> Iterator[_Batch]:
    """Batches of images of one size each; the next one is read while the caller computes."""
    waiting: dict[int, _Batch] = {}
    unreadable: list[str] = []

    for row, image in enumerate(_read_ahead(photos, side, stored_side, batch_size)):
        on_read(1)
        if isinstance(image, Exception):
            if on_unreadable is None:
                unreadable += message_lines(image)[:1]
            else:
                on_unreadable(photos[row].name, image)
        elif not unreadable:
            batch = waiting.setdefault(len(image), _Batch([], []))
            batch.rows.append(row)
            batch.images.append(image)
            if len(batch.rows) == batch_size:
                yield waiting.pop(len(image))
    if unreadable:
        more = len(unreadable) - _MOST_NAMED
        raise ImageFileError(
            f"{len(unreadable):,} of {len(photos):,} images cannot be read:",
            *(f"  {line}" for line in unreadable[:_MOST_NAMED]),
            *([f"  and {more:,} more"] if more > 0 else []),
        )
    yield from waiting.values()


def _read_ahead(
    photos: Sequence[Photo], side: int, stored_side: int | None, batch_size: int
) -> Iterator[_Read]:
    """Each photo or why it cannot be read, in order; threads are up to two batches ahead."""

    def read(first: int) -> list[_Read]:
        return [_try(photo, side, stored_side) for photo in photos[first : first + _AT_ONCE]]

    pool = ThreadPoolExecutor(max_workers=cores())
    pending: deque[Future[list[_Read]]] = deque()
    try:
        for first in range(0, len(photos), _AT_ONCE):
            pending.append(pool.submit(read, first))
            if len(pending) * _AT_ONCE > 2 * batch_size:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _try(photo: Photo, side: int, stored_side: int | None) -> _Read:
    try:
        return photo.read(side, stored_side)
    except ImageFileError as error:
        return error
