"""What a CIFAR archive and the dataset prepared from it hold: images, labels and their names."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxcifar.data.dataset import Dataset

SIDE = 32
PIXELS = 3 * SIDE * SIDE


class LabelSet(NamedTuple):
    """One of the labels that each image has, and where it is found.

    Attributes:
        feature: its name in a prepared dataset, by TFDS.
        class_names: in label order.
        key: of the labels in a python batch.
        names_key: of the class names in a python archive's list of them.
        names_file: of the class names in a binary archive.
    """

    feature: str
    class_names: tuple[str, ...]
    key: bytes
    names_key: bytes
    names_file: str


@dataclass(frozen=True, eq=False)
class TwiceLabelled(Dataset):
    """Images of CIFAR-100: `labels` are the fine ones, `coarse` (int32 `[n]`) the coarse ones."""

    coarse: NDArray[np.int32]


@dataclass(frozen=True)
class CifarFormat:
    """How much a CIFAR archive holds; the tests read archives with fewer records.

    Attributes:
        records: images in one training batch.
        train_batches: training batches; there is always one test batch.
        class_names: the class names that the archive must give; of CIFAR-100, the fine ones.
        coarse_names: the coarse class names that the archive must give; none in CIFAR-10.
        test_records: images in the test batch; by default as many as in a training batch.
        name: the dataset's, as TFDS calls it.
        title: the dataset's, as messages call it.
    """

    records: int
    train_batches: int
    class_names: tuple[str, ...]
    coarse_names: tuple[str, ...] = ()
    test_records: int | None = None
    name: str = "cifar10"
    title: str = "CIFAR-10"

    @property
    def counts(self) -> dict[str, int]:
        """Images in each split."""
        test = self.records if self.test_records is None else self.test_records
        return {"train": self.train_records, "test": test}

    @property
    def train_records(self) -> int:
        """Number of training images."""
        return self.records * self.train_batches

    def batches(self, suffix: str) -> dict[str, int]:
        """Member names and records of the training batches in order, then of the test batch."""
        if self.coarse_names:
            return {f"{split}{suffix}": count for split, count in self.counts.items()}
        train = {f"data_batch_{i + 1}{suffix}": self.records for i in range(self.train_batches)}
        return train | {f"test_batch{suffix}": self.counts["test"]}

    @property
    def meta(self) -> str:
        """The member of a python archive that lists the class names."""
        return "meta" if self.coarse_names else "batches.meta"

    @property
    def labels(self) -> tuple[LabelSet, ...]:
        """The labels of each image, the one to train on first."""
        if not self.coarse_names:
            return (
                LabelSet("label", self.class_names, b"labels", b"label_names", "batches.meta.txt"),
            )
        return (
            LabelSet(
                "label",
                self.class_names,
                b"fine_labels",
                b"fine_label_names",
                "fine_label_names.txt",
            ),
            LabelSet(
                "coarse_label",
                self.coarse_names,
                b"coarse_labels",
                b"coarse_label_names",
                "coarse_label_names.txt",
            ),
        )
