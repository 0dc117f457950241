"""The types of data: images with labels, in memory or read on demand, and the splits of a dataset.

`Dataset` holds its images in memory. Images read on demand come from a `LabelledSource`, which is
anything with its four members; `Rows` selects rows of such a source, and is one itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.data.arrays import Pair, read_arrays
from jaxcifar.data.chunks import in_chunks
from jaxcifar.data.info import DatasetInfo, warn_absent


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


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset split into data to train on, to make choices by, and to report.

    Each split is a `Dataset`, or `Rows` if it was loaded lazily. Both have `labels` and `side`,
    `read(rows)`, and `load()`, which brings all of it into memory.

    Attributes:
        name: the name it was loaded by.
        class_names: one name per label, in label order.
        train, validation: disjoint rows of the official training data; or validation of a split of
            its own, if the dataset has one besides train and test.
        test: the official test data, complete.
        fingerprint: SHA-256 (hex) of the contents of the source data, before any split; of arrays,
            of the three splits as they are.
        seed, stratified: how the rows of train and validation were chosen.
        names_and_sizes: the fingerprint of the user's own data as earlier versions computed it,
            which runs have recorded; None if it is the same as today's, or if earlier versions
            used other images.
        data_dir: absolute path of the folder of TFDS data that it was found in, if it is such data.
        info: what a recipe must know of the data, if they are arrays (see `from_arrays`); None for
            data that have a name to look them up by.
        revision: the commit that it was read from, if it is from the Hugging Face hub.

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
    data_dir: str | None = None
    revision: str | None = None
    info: DatasetInfo | None = None

    @classmethod
    def from_arrays(
        cls,
        train: Pair,
        validation: Pair | int | None = None,
        test: Pair | None = None,
        *,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        seed: int = 0,
        stratified: bool = False,
    ) -> "Splits":
        """Splits of images and labels that are in memory, from any source.

        Images are uint8 in 0..255, or floats in [0, 1] that are not normalised (training normalises
        them): RGB `[n, h, w, 3]`, or gray `[n, h, w]` or `[n, h, w, 1]`; all of one size, and
        square. They may be whatever `numpy.asarray` takes: NumPy and JAX arrays, torch tensors on
        the CPU, lists. They are copied, and kept as uint8 `[n, h, w, 3]` as all images are here:
        floats are rounded to the nearest of 256 levels, gray is repeated three times.

        Args:
            train: images and labels. Labels are integers `[n]` from 0 on; or class names, if these
                are given.
            validation: images and labels; or how many of the training images to take for it; by
                default a fifth of them.
            test: images and labels. Without them, the validation images stand for the test data, so
                the test score is of images by which choices were made.
            class_names: one name per label, in label order; by default "0", "1", ... up to the
                largest label.
            name: what to call the data; the result's name is "arrays", or "arrays:NAME".
            seed, stratified: how validation images are taken, as in `data.split_indices`.

        Warns of classes that have no image to train or to validate on.

        Returns:
            Splits with an `info` for the recipe, whose fingerprint is of the images, labels and
            class names of the three splits: the same for uint8 as for the same images as floats.

        Raises:
            DataError: naming the split, the first rows and their values, what was expected, and the
                way out.

        Example:
            >>> import numpy as np
            >>> from jaxcifar import Splits
            >>> images = np.random.default_rng(0).random((50, 8, 8))
            >>> splits = Splits.from_arrays((images, np.arange(50) % 2), class_names=["cat", "dog"])
            >>> splits.name, splits.train.images.shape, len(splits.validation)
            ('arrays', (40, 8, 8, 3), 10)
        """
        arrays = read_arrays(
            {"train": train, "validation": validation, "test": test},
            class_names=class_names,
            name=name,
            seed=seed,
            stratified=stratified,
        )
        sources = {split: Dataset(*part) for split, part in arrays.parts.items()}
        warn_absent(
            arrays.info,
            {"training": sources["train"].labels, "validation": sources["validation"].labels},
            advice="use more images, or stratified=True",
            stacklevel=2,
        )
        return cls(
            name=arrays.info.name,
            class_names=arrays.info.class_names,
            train=sources["train"],
            validation=sources["validation"],
            test=sources.get("test", sources["validation"]),
            fingerprint=arrays.fingerprint,
            seed=seed,
            stratified=stratified,
            info=arrays.info,
        )


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Images with labels that are scored, not trained on.

    Attributes:
        name: the dataset's.
        class_names: one name per label, in label order.
        source: the images, read when they are asked for.
        fingerprint: SHA-256 (hex) of the contents: of a folder, of this split; of other datasets,
            as in `Splits`.
    """

    name: str
    class_names: tuple[str, ...]
    source: LabelledSource
    fingerprint: str
