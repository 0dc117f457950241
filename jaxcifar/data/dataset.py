"""The types of data: images with labels, in memory or read on demand, and the splits of a dataset.

`Dataset` holds its images in memory. Images read on demand come from a `LabelledSource`, which is
anything with its four members; `Rows` selects rows of such a source, and is one itself.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError

_READ_AT_ONCE = 256  # rows; a fraction of a second even for photographs


class Source(Protocol):
    """Images that can be read row by row, from several threads at once."""

    @property
    def side(self) -> int:
        """Height and width of every image, pixels."""

    def __len__(self) -> int: ...

    def read(self, rows: NDArray[np.int64], /) -> "Dataset":
        """The given rows, decoded, in the given order; rows may repeat.

        Raises:
            DataError: an image cannot be read.
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
        labels: int32 `[n]`, indices into the class names.

    Raises:
        DataError: other shapes, dtypes or lengths.

    Example:
        >>> import numpy as np
        >>> from jaxcifar import Dataset
        >>> data = Dataset(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32))
        >>> len(data), data.side
        (5, 8)
        >>> data.take(np.array([4, 0])).labels.tolist()
        [4, 0]
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(
                f"images must be uint8 [n, h, w, 3], not {images.dtype} {list(images.shape)}"
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise DataError(
                f"labels must be int32 [{len(images)}], one for each image, "
                f"not {labels.dtype} {list(labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Height of the images, pixels; also the width if they are square."""
        return self.images.shape[1]

    def take(self, rows: NDArray[np.int64]) -> "Dataset":
        """The given rows, in the given order, copied into memory."""
        return Dataset(self.images[rows], self.labels[rows])

    read = take

    def load(self) -> "Dataset":
        """The dataset itself: it is already in memory. See `Rows.load`."""
        return self


@dataclass(frozen=True, eq=False)
class Rows:
    """Selected rows of a source, itself a source; nothing is read until it is asked for.

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
        """Those of these rows, in the given order."""
        return self.source.read(self.rows[rows])

    def load(self) -> Dataset:
        """All the rows, in memory."""
        return read_all(self)


def read_all(source: Source, on_read: Callable[[int], object] | None = None) -> Dataset:
    """Read every row of a source into memory, with one thread per core.

    Args:
        source: what to read.
        on_read: called with the number of rows just read.

    Raises:
        DataError: an image cannot be read; the other threads then finish their current rows only.
    """
    size = len(source)
    images = np.empty((size, source.side, source.side, 3), np.uint8)
    labels = np.empty(size, np.int32)

    def read(start: int) -> int:
        rows = np.arange(start, min(start + _READ_AT_ONCE, size))
        chunk = source.read(rows)
        images[rows], labels[rows] = chunk.images, chunk.labels
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
    """A dataset split into data to train on, to make choices by, and to report.

    Each split is a `Dataset`, or `Rows` if it was loaded lazily. Both have `labels` and `side`,
    `read(rows)`, and `load()`, which brings all of it into memory.

    Attributes:
        name: the name it was loaded by.
        class_names: one name per label, in label order.
        train, validation: disjoint rows of the official training data.
        test: the official test data, complete.
        fingerprint: SHA-256 (hex) of the source data, before any split.
        names_and_sizes: the fingerprint that runs recorded before it covered contents, or None.
        seed, stratified: how the rows of train and validation were chosen.

    Example:
        >>> from jaxcifar import load_dataset
        >>> splits = load_dataset("digits", split=(120, 40))
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (120, 40, 360)
        >>> splits.class_names[:3]
        ('0', '1', '2')
    """

    name: str
    class_names: tuple[str, ...]
    train: Dataset | Rows
    validation: Dataset | Rows
    test: Dataset | Rows
    fingerprint: str
    seed: int = 0
    stratified: bool = False
    names_and_sizes: str | None = None


@dataclass(frozen=True, eq=False)
class LabelledData:
    """TEMPORARY."""

    name: str
    class_names: tuple[str, ...]
    source: LabelledSource
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Relabelled:
    """TEMPORARY."""

    source: LabelledSource
    lookup: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def side(self) -> int:
        """X."""
        return self.source.side

    @property
    def labels(self) -> NDArray[np.int32]:
        """X."""
        return self.lookup[self.source.labels]

    def read(self, rows: NDArray[np.int64], /) -> Dataset:
        """X."""
        read = self.source.read(rows)
        return Dataset(read.images, self.lookup[read.labels])
