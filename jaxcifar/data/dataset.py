"""What data are: images with their labels, in memory or read when asked for, and three with a name.

`Dataset` holds its images. Anything with the four members of a `LabelledSource` can stand where
images are read on demand; `Rows` is a choice of such a source's rows, and one itself.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError

_READ_AT_ONCE = 256  # rows; a fraction of a second even of photographs


class Source(Protocol):
    """Images that can be read row by row, from several threads at once."""

    @property
    def side(self) -> int:
        """Height and width of every image, pixels."""

    def __len__(self) -> int: ...

    def read(self, rows: NDArray[np.int64], /) -> "Dataset":
        """The given rows, decoded, in the given order; a row may be asked for twice.

        Raises:
          DataError: an image that cannot be read.
        """


class LabelledSource(Source, Protocol):
    """A source that knows its labels without reading an image."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their labels, row by row.

    Attributes:
      images: uint8 `[n, h, w, 3]` in 0..255; an array, or a read-only memory map of the cache.
      labels: int32 `[n]`, an index into the class names.

    Raises:
      DataError: shapes, dtypes or lengths are other than these.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(
                f"Images must be uint8 [n, h, w, 3], got {images.dtype} {list(images.shape)}."
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise DataError(
                f"Labels must be int32 [{len(images)}] to go with the images, "
                f"got {labels.dtype} {list(labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Height of the images, pixels; where they are square also the width."""
        return self.images.shape[1]

    def take(self, rows: NDArray[np.int64]) -> "Dataset":
        """The given rows, in the given order, copied into memory."""
        return Dataset(self.images[rows], self.labels[rows])

    read = take

    def load(self) -> "Dataset":
        """The dataset itself, which is there already: see `Rows.load`."""
        return self


@dataclass(frozen=True, eq=False)
class Rows:
    """A choice of a source's rows, itself a source, of which nothing is read before it is asked.

    Attributes:
      source: where the images are.
      rows: int64 `[n]`, row numbers of the source.
    """

    source: LabelledSource
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        """Height and width of every image, pixels."""
        return self.source.side

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`, known without reading an image."""
        return self.source.labels[self.rows]

    def read(self, rows: NDArray[np.int64], /) -> Dataset:
        """The given ones of these rows, in the given order."""
        return self.source.read(self.rows[rows])

    def load(self) -> Dataset:
        """All of them, in memory."""
        return read_all(self)


def read_all(source: Source, on_read: Callable[[int], object] | None = None) -> Dataset:
    """Reads every row of a source into memory, with a thread for each core.

    Args:
      source: what to read.
      on_read: called with the number of rows just read.

    Raises:
      DataError: an image that cannot be read; the other threads then end with what they are at.
    """
    size = len(source)
    images = np.empty((size, source.side, source.side, 3), np.uint8)
    labels = np.empty(size, np.int32)

    def read(start: int) -> int:
        rows = np.arange(start, min(start + _READ_AT_ONCE, size))
        part = source.read(rows)
        images[rows], labels[rows] = part.images, part.labels
        return len(rows)

    pool = ThreadPoolExecutor(max_workers=cores())
    try:
        for count in pool.map(read, range(0, size, _READ_AT_ONCE)):
            if on_read is not None:
                on_read(count)
    finally:
        pool.shutdown(cancel_futures=True)
    return Dataset(images, labels)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset cut into what is trained on, what choices are made by, and what is reported.

    Each part is a `Dataset`, or `Rows` where it was loaded lazily. Both have `labels` and `side`,
    `read(rows)` and `load()`, which brings all of it into memory.

    Attributes:
      name: the name it was loaded by.
      class_names: one name a label, in label order.
      train, validation: disjoint rows of the official training data.
      test: the official test data, whole.
      fingerprint: SHA-256 (hex) of the source data, before any split.
      seed, stratified: how the rows of train and validation were chosen.
    """

    name: str
    class_names: tuple[str, ...]
    train: Dataset | Rows
    validation: Dataset | Rows
    test: Dataset | Rows
    fingerprint: str
    seed: int = 0
    stratified: bool = False
