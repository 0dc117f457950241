"""The types of data: images with labels, in memory or read on demand.

`Dataset` holds its images in memory. Images read on demand come from a `LabelledSource`, which is
anything with its four members; `Rows` selects rows of such a source, and is one itself.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.summaries import shortened, summary
from jaxcifar.data.chunks import in_chunks


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

    def __repr__(self) -> str:
        _, height, width, _ = self.images.shape
        kept = "read from a file" if isinstance(self.images, np.memmap) else "in memory"
        return summary("Dataset", [f"{len(self):,} images of {height}x{width} pixels", kept])

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

    def __repr__(self) -> str:
        chosen = f"{len(self):,} of the {images_in_words(self.source)}"
        return summary("Rows", [chosen, f"from {kind_in_words(self.source)}"])

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


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A source whose labels are looked up in a table; its images are untouched. Itself a source.

    Attributes:
        source: where the images are.
        lookup: int32 `[m]`, the new label of each old one.

    Raises:
        DataError: the table has another form, or lacks a label.

    Example:
        >>> import numpy as np
        >>> from jaxcifar.data import Dataset, Relabelled
        >>> data = Dataset(np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 1], np.int32))
        >>> Relabelled(data, np.array([7, 4], np.int32)).labels.tolist()
        [7, 4, 4]
    """

    source: LabelledSource
    lookup: NDArray[np.int32]

    def __post_init__(self) -> None:
        lookup, labels = self.lookup, self.source.labels
        if lookup.dtype != np.int32 or lookup.ndim != 1:
            raise DataError(
                f"the table of labels must be int32 [m], not {lookup.dtype} {list(lookup.shape)}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(lookup):
            raise DataError(
                f"the table of labels has {len(lookup)} entries, but the labels go from "
                f"{labels.min()} to {labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        table = shortened(self.lookup.tolist(), 60)
        return summary(
            "Relabelled",
            [images_in_words(self), f"from {kind_in_words(self.source)}", f"labels become {table}"],
        )

    @property
    def side(self) -> int:
        """Height and width of every image, pixels."""
        return self.source.side

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`, the new ones, known without reading an image."""
        return self.lookup[self.source.labels]

    def read(self, rows: NDArray[np.int64], /) -> Dataset:
        """The given rows, in the given order."""
        data = self.source.read(rows)
        return Dataset(data.images, self.lookup[data.labels])

    def load(self) -> Dataset:
        """All the rows, in memory."""
        return read_all(self)


def read_all(source: Source) -> Dataset:
    """Read every row of a source into memory, with one thread per core.

    Raises:
        DataError: an image cannot be read; the other threads then finish their current rows only.
    """
    images = np.empty((len(source), source.side, source.side, 3), np.uint8)
    labels = np.empty(len(source), np.int32)

    def read(rows: NDArray[np.int64]) -> None:
        chunk = source.read(rows)
        images[rows], labels[rows] = chunk.images, chunk.labels

    for _ in in_chunks(len(source), read):
        pass
    return Dataset(images, labels)


def images_in_words(source: Source, which: str = "") -> str:
    """How many images of which size a source has, for a repr."""
    return f"{len(source):,} {which}images of {source.side}x{source.side} pixels"


def kind_in_words(source: Source) -> str:
    """The class of a source, which may be a user's own: its repr could be of any length."""
    return f"a {shortened(type(source).__name__, 30)}"
