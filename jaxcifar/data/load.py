"""The datasets by name, and the one function that loads them.

Two are built in. Names that begin with "folder:" or "tfds:" are the user's own: see `folder` and
`tfds_any`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.data import cifar10, digits, folder, tfds_any
from jaxcifar.data.archive import SIDE
from jaxcifar.data.dataset import Dataset, LabelledData, LabelledSource, Rows, Splits
from jaxcifar.data.decoding import decoded
from jaxcifar.data.split import check_seed, check_sizes, split_indices


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a dataset that are known without loading it.

    Attributes:
        name: as in `load_dataset`.
        class_names: in label order.
        pool: number of images to train on, for training and validation together.
        test: number of images in the test split.
        side: height and width in pixels; there are always three channels. None if the images have
            several sizes; then `load_dataset` needs the side to scale them to.
        default_split: (train, validation).
        validation: images of a validation split of its own; None: it is taken from the pool.
    """

    name: str
    class_names: tuple[str, ...]
    pool: int
    test: int
    side: int | None
    default_split: tuple[int, int]
    validation: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


_BUILT_IN = (
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
DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in _BUILT_IN})


def dataset_info(name: str, *, data_dir: str | Path | None = None) -> DatasetInfo:
    """Look a dataset up by name.

    For "folder:" names it lists the files, for "tfds:" names it reads the JSON files, once in a
    process: later changes are not seen.

    Args:
        name: the dataset's.
        data_dir: the folder of "tfds:" datasets; else `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.

    Raises:
        DataError: there is no dataset of that name (the message gives the nearest), or it cannot
            be used.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(folder.PREFIX):
        listed = folder.find_folder(name)
        pool, test = (len(listed.splits[split].files) for split in ("train", "test"))
        return _own_info(name, listed.class_names, pool, test, None)
    if name.startswith(tfds_any.PREFIX):
        dataset = tfds_any.find_tfds(name, data_dir)
        return _own_info(name, dataset.class_names, *dataset.counts, dataset.side)
    raise DataError(
        f"unknown dataset {name!r}{did_you_mean(str(name).lower(), DATASETS)} (name your own data "
        "folder:PATH or tfds:NAME)"
    )


def _own_info(
    name: str, class_names: tuple[str, ...], pool: int, test: int, side: int | None
) -> DatasetInfo:
    """The user's own dataset; a fifth of the pool is for validation."""
    validation = max(1, pool // 5)
    return DatasetInfo(name, class_names, pool, test, side, (pool - validation, validation))


def check_split(
    name: str | DatasetInfo,
    split: tuple[int, int] | None = None,
    *,
    stratified: bool = False,
    data_dir: str | Path | None = None,
) -> tuple[int, int]:
    """The (train, validation) sizes that `load_dataset` would use; reads no image.

    Raises:
        DataError: the dataset is unknown, or cannot be split into these sizes.
    """
    info = name if isinstance(name, DatasetInfo) else dataset_info(name, data_dir=data_dir)
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
    side: int | None = None,
    lazy: bool = False,
) -> Splits:
    """Load a dataset and split its training data into training and validation.

    CIFAR-10's images are decoded once (14 s) and cached in `$JAXCIFAR_CACHE_DIR`; later loads take
    well under a second. So are those of the user's own datasets, unless loaded lazily. The rows are
    chosen by `jaxcifar.data.split.split_indices`.

    Args:
        name: a key of `DATASETS`, "folder:PATH", "tfds:NAME" or "tfds:NAME/CONFIG".
        split: (train, validation) sizes; they may leave images unused. By default
            `dataset_info(name).default_split`.
        stratified: whether both splits keep the class proportions.
        seed: chooses the rows. The test split does not depend on it.
        data_dir: the folder of TFDS data; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        download: whether to download and prepare CIFAR-10 if it is not there.
        side: height and width, pixels, to which images of several sizes are scaled; ignored if all
            images have one size.
        lazy: return the same images in the same order, but as `Rows` that are not in memory. Each
            time they are asked for, CIFAR-10's are read from the decoded copy on disk, and those of
            the user's own datasets are decoded.

    Raises:
        DataError: the request cannot be met (found before anything is written); or the data is not
            there, cannot be downloaded, or is not as expected.

    Example:
        >>> from jaxcifar import load_dataset
        >>> splits = load_dataset("digits", split=(120, 40))
        >>> splits.train.images.shape
        (120, 32, 32, 3)
    """
    sizes = check_split(name, split, stratified=stratified, data_dir=data_dir)
    check_seed(seed)
    pool, test, fingerprint = _load(name, data_dir, download, side, lazy)
    train, validation = split_indices(pool.labels, sizes, seed=seed, stratified=stratified)
    return Splits(
        name=name,
        class_names=dataset_info(name, data_dir=data_dir).class_names,
        train=Rows(pool, train) if lazy else pool.read(train),
        validation=Rows(pool, validation) if lazy else pool.read(validation),
        test=test if isinstance(test, Dataset) and not lazy else Rows(test, np.arange(len(test))),
        fingerprint=fingerprint,
        seed=seed,
        stratified=stratified,
    )


def _load(
    name: str, data_dir: str | Path | None, download: bool, side: int | None, lazy: bool
) -> tuple[LabelledSource, LabelledSource, str]:
    """The pool to train on, the test data, and their fingerprint."""
    if name == "digits":
        return digits.load_digits()
    if name == "cifar10":
        return cifar10.load_cifar10(data_dir, download=download)
    side = dataset_info(name, data_dir=data_dir).side or side
    if side is None:
        raise DataError(
            f"the images of {name} have several sizes; give the side to scale them to "
            "(--resize, Recipe.resize)"
        )
    if side < 1:
        raise DataError(f"the side must be at least one pixel, not {side}")
    sources: Mapping[str, LabelledSource]
    if name.startswith(folder.PREFIX):
        listed = folder.find_folder(name)
        fingerprint, state = listed.fingerprint, listed.state
        sources = {split: folder.FolderSource(f, side) for split, f in listed.splits.items()}
    else:
        dataset = tfds_any.find_tfds(name, data_dir)
        fingerprint, state = dataset.fingerprint, dataset.state
        sources = tfds_any.open_sources(dataset, side)
    if not lazy:
        sources = decoded(name, state, sources)
    return sources["train"], sources["test"], fingerprint


def located(name: str) -> str:
    """TEMPORARY."""
    import os

    if not name.startswith(folder.PREFIX):
        return name
    return folder.PREFIX + os.path.abspath(os.path.expanduser(name.removeprefix(folder.PREFIX)))


def load_labelled(
    name: str,
    split: str = "test",
    *,
    side: int | None = None,
    data_dir: str | Path | None = None,
    follow_links: bool = False,
) -> "LabelledData":
    """TEMPORARY."""
    pool, test, fingerprint = _load(name, data_dir, True, side, True)
    names = dataset_info(name, data_dir=data_dir).class_names
    return LabelledData(name, names, test if split == "test" else pool, fingerprint)
