"""What a loaded dataset is: images with their labels, and three of them with a name."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxcifar.data.errors import DataError


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

    def take(self, rows: NDArray[np.int64]) -> "Dataset":
        """The given rows, in the given order, copied into memory."""
        return Dataset(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset cut into what is trained on, what choices are made by, and what is reported.

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
    train: Dataset
    validation: Dataset
    test: Dataset
    fingerprint: str
    seed: int = 0
    stratified: bool = False
