"""The datasets by name, and the one function that loads them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from jaxcifar.data import cifar10, digits
from jaxcifar.data.archive import SIDE
from jaxcifar.data.dataset import Dataset, Splits
from jaxcifar.data.errors import DataError
from jaxcifar.data.split import check_seed, check_sizes, split_indices


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without loading it.

    Attributes:
      pool: images there are to train on, for training and validation together.
      test: images in the test split.
      side: pixels of height and of width; always three channels.
      default_split: (train, validation).
    """

    name: str
    class_names: tuple[str, ...]
    pool: int
    test: int
    side: int
    default_split: tuple[int, int]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


_KNOWN = (
    DatasetInfo(
        "cifar10",
        cifar10.CLASS_NAMES,
        pool=cifar10.CIFAR10.counts["train"],
        test=cifar10.CIFAR10.counts["test"],
        side=SIDE,
        default_split=(40_000, 10_000),
    ),
    DatasetInfo(
        "digits",
        digits.CLASS_NAMES,
        pool=digits.TRAIN,
        test=digits.TEST,
        side=digits.SIDE,
        default_split=(1_237, 200),
    ),
)
DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in _KNOWN})


def dataset_info(name: str) -> DatasetInfo:
    """Looks a dataset up by name.

    Raises:
      DataError: there is none of that name; the message has the nearest.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(str(name).lower(), DATASETS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(DATASETS))}."
    raise DataError(f"There is no dataset {name!r}. {hint}")


def check_split(
    name: str, split: tuple[int, int] | None = None, *, stratified: bool = False
) -> tuple[int, int]:
    """The (train, validation) sizes that `load_dataset` would use; needs no data.

    Raises:
      DataError: unknown dataset, or sizes it cannot be split into.
    """
    info = dataset_info(name)
    return check_sizes(
        info.default_split if split is None else split,
        info.pool,
        classes=info.num_classes,
        stratified=stratified,
    )


def load_dataset(
    name: str,
    *,
    split: tuple[int, int] | None = None,
    stratified: bool = False,
    seed: int = 0,
    data_dir: str | Path | None = None,
    download: bool = True,
) -> Splits:
    """Loads a dataset and splits its training data for training and validation.

    CIFAR-10's images are decoded once (14 s) and kept in `$JAXCIFAR_CACHE_DIR`; later loads take
    well under a second. How rows are chosen: `jaxcifar.data.split.split_indices`.

    Args:
      name: a key of `DATASETS`.
      split: (train, validation) sizes; they may leave images unused. By default
        `DATASETS[name].default_split`.
      stratified: whether both parts keep the class proportions.
      seed: chooses the rows. The test split never depends on it.
      data_dir: where TFDS data lies; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      download: whether to download and prepare what is not there.

    Raises:
      DataError: a request that cannot be met, found before anything is written; or data that is
        not there, not to be had or not as it should be.
    """
    sizes = check_split(name, split, stratified=stratified)
    check_seed(seed)
    pool, test, digest = _load(name, data_dir, download)
    train, validation = split_indices(pool.labels, sizes, seed=seed, stratified=stratified)
    return Splits(
        name=name,
        class_names=DATASETS[name].class_names,
        train=pool.take(train),
        validation=pool.take(validation),
        test=test,
        fingerprint=digest,
        seed=seed,
        stratified=stratified,
    )


def _load(name: str, data_dir: str | Path | None, download: bool) -> tuple[Dataset, Dataset, str]:
    if name == "digits":
        return digits.load_digits()
    return cifar10.load_cifar10(data_dir, download=download)
