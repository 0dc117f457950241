"""The datasets by name, and the one function that loads them.

Four are built in. Names that begin with "folder:", "tfds:", "parquet:" or "hf:" are the user's own:
see `own`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.data import cifar10, cifar100, digits, own, tfds_any
from jaxcifar.data.arrays import is_arrays, not_by_name
from jaxcifar.data.cifar_format import SIDE, CifarFormat
from jaxcifar.data.dataset import Dataset, LabelledSource, Rows
from jaxcifar.data.info import DatasetInfo as DatasetInfo
from jaxcifar.data.info import warn_absent
from jaxcifar.data.own import Own
from jaxcifar.data.own import located as located
from jaxcifar.data.split import check_seed, check_sizes, choose_indices, split_indices
from jaxcifar.data.splits import LabelledData, Splits
from jaxcifar.data.tfds_layout import data_root


def _cifar_info(name: str, class_names: tuple[str, ...], form: CifarFormat) -> DatasetInfo:
    pool, test = form.counts["train"], form.counts["test"]
    return DatasetInfo(name, class_names, pool, test, SIDE, default_split=(40_000, 10_000))


COARSE = "cifar100:coarse"
_CIFAR = (
    _cifar_info("cifar10", cifar10.CLASS_NAMES, cifar10.CIFAR10.form),
    _cifar_info("cifar100", cifar100.CLASS_NAMES, cifar100.CIFAR100.form),
    _cifar_info(COARSE, cifar100.COARSE_NAMES, cifar100.CIFAR100.form),
)
_BUILT_IN = (
    *_CIFAR,
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


def dataset_info(
    name: str, *, data_dir: str | Path | None = None, follow_links: bool = False
) -> DatasetInfo:
    """Look a dataset up by name.

    For "folder:" names it lists the files, for "tfds:" names it reads the JSON files, for
    "parquet:" names the labels; again only if a folder or file has changed since. "hf:" names are
    looked up on the Hugging Face hub once, and the files of their splits are downloaded.

    Args:
        name: the dataset's.
        data_dir: the folder of "tfds:" datasets; else `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.
        follow_links: whether links to folders, and links out of the folder of a "folder:" or
            "parquet:" dataset, are followed.

    Raises:
        DataError: there is no dataset of that name (the message gives the nearest), or it cannot
            be used.
    """
    # Recipes ask dozens of times. A folder of 2 x 10 classes x 1,000 pictures takes 126 ms to list,
    # and 0.08 ms to look at again.
    if name in DATASETS:
        return DATASETS[name]
    known = own.known_own(name, data_dir, follow_links=follow_links)
    if known is None:
        raise _unknown(name)
    return _own_info(name, known)


def shown_info(
    name: str, *, data_dir: str | Path | None = None, follow_links: bool = False
) -> DatasetInfo:
    """As `dataset_info`, also of data to test on alone: nothing to train on, and their classes.

    Raises:
        DataError: as `dataset_info`; or there is nothing to train on, nor a test split.
    """
    where: Any = {"data_dir": data_dir, "follow_links": follow_links}
    try:
        return dataset_info(name, **where)
    except DataError:
        if own.has_train_split(name, **where) is not False:
            raise
    found = own.find_own_split(name, "test", **where)
    assert found is not None  # it has one of the prefixes
    return DatasetInfo(name, found.class_names, 0, found.counts["test"], found.side, (0, 0))


def _unknown(name: str) -> DataError:
    if is_arrays(name):
        return not_by_name(name)
    return DataError(
        f"unknown dataset {name!r}{did_you_mean(str(name).lower(), DATASETS)} (name your own data "
        f"{own.WAYS})"
    )


def _own_info(name: str, found: Own) -> DatasetInfo:
    """Without a validation split of its own, a fifth of the pool is for validation."""
    counts = found.counts
    pool, test, validation = counts["train"], counts["test"], counts.get("validation")
    fifth = max(1, pool // 5)
    split = (pool - fifth, fifth) if validation is None else (pool, validation)
    return DatasetInfo(name, found.class_names, pool, test, found.side, split, validation)


def check_split(
    name: str | DatasetInfo,
    split: tuple[int, int] | None = None,
    *,
    stratified: bool = False,
    data_dir: str | Path | None = None,
    follow_links: bool = False,
) -> tuple[int, int]:
    """The (train, validation) sizes that `load_dataset` would use; reads no image.

    Raises:
        DataError: the dataset is unknown, or cannot be split into these sizes.
    """
    if not isinstance(name, DatasetInfo):
        name = dataset_info(name, data_dir=data_dir, follow_links=follow_links)
    return _check_split(name, split, stratified)


def _check_split(
    info: DatasetInfo, split: tuple[int, int] | None, stratified: bool
) -> tuple[int, int]:
    return check_sizes(
        info.default_split if split is None else split,
        info.pool,
        classes=info.num_classes,
        stratified=stratified,
        own_validation=info.validation,
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
    follow_links: bool = False,
) -> Splits:
    """Load a dataset and split its training data into training and validation.

    CIFAR's images are decoded once (14 s) and cached in `$JAXCIFAR_CACHE_DIR`; later loads take
    well under a second. So are those of the user's own datasets, unless loaded lazily; these are
    listed anew by each load, and their contents are hashed once for each state of the files. The
    rows are chosen by `jaxcifar.data.split.split_indices`; if the dataset has a validation split of
    its own, separately from each.

    Args:
        name: a key of `DATASETS`, "folder:PATH", "tfds:NAME", "tfds:NAME/CONFIG", "parquet:PATH",
            "hf:OWNER/NAME" or "hf:OWNER/NAME/CONFIG"; the last two perhaps with "@REVISION", the
            last three with the names of columns, "#image=COLUMN,label=COLUMN".
        split: (train, validation) sizes; they may leave images unused. By default
            `dataset_info(name).default_split`.
        stratified: whether both splits keep the class proportions.
        seed: chooses the rows. The test split does not depend on it.
        data_dir: the folder of TFDS data; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        download: whether to download and prepare CIFAR-10 or CIFAR-100 if it is not there.
        side: height and width, pixels, to which images of several sizes are scaled; ignored if all
            images have one size.
        lazy: return the same images in the same order, but as `Rows` that are not in memory. Each
            time they are asked for, CIFAR's are read from the decoded copy on disk, and those of
            the user's own datasets are decoded.
        follow_links: as in `dataset_info`.

    Warns once about pictures of the user's that are not used, and once about classes that have no
    image to train or to validate on.

    Raises:
        DataError: the request cannot be met (found before anything is written); or the data is not
            there, cannot be downloaded, or is not as expected. All damaged pictures of the user's
            are named, at most 20: at once, or lazily when one of them is asked for.

    Example:
        >>> from jaxcifar import load_dataset
        >>> splits = load_dataset("digits", split=(120, 40))
        >>> splits.train.images.shape
        (120, 32, 32, 3)
    """
    found = None
    if name not in DATASETS:
        found = own.find_own(name, data_dir, follow_links=follow_links)
        if found is None:
            raise _unknown(name)
    info = DATASETS[name] if found is None else _own_info(name, found)
    sizes = _check_split(info, split, stratified)
    check_seed(seed)
    if found is None:
        sources, fingerprint = _load_built_in(name, data_dir, download)
    else:
        sources = own.load_own(found, name, side, lazy=lazy)
        fingerprint = found.fingerprint()
    train, validation, test = _choose_rows(sources, sizes, seed, stratified)
    labels = {"training": train.labels, "validation": validation.labels}
    warn_absent(info, labels, whole=_used_whole(info, sizes), stacklevel=2)
    return Splits(
        name=name,
        class_names=info.class_names,
        train=train if lazy else train.source.read(train.rows),
        validation=validation if lazy else validation.source.read(validation.rows),
        test=test.source if isinstance(test.source, Dataset) and not lazy else test,
        fingerprint=fingerprint,
        seed=seed,
        stratified=stratified,
        names_and_sizes=None if found is None else found.names_and_sizes,
        data_dir=_data_dir(name, data_dir),
        revision=own.revision_of(found),
    )


def _used_whole(info: DatasetInfo, sizes: tuple[int, int]) -> tuple[str, ...]:
    """The splits that have all of their images; none if both are taken from one pool."""
    if info.validation is None:
        return ()
    train, validation = sizes
    return ("training",) * (train == info.pool) + ("validation",) * (validation == info.validation)


def _data_dir(name: str, data_dir: str | Path | None) -> str | None:
    """The absolute path of the folder of TFDS data that a dataset lies in; None if in no such."""
    if name not in {info.name for info in _CIFAR} and not name.startswith(tfds_any.PREFIX):
        return None
    return os.path.abspath(data_root(data_dir))


_Sources = Mapping[str, LabelledSource]


def _load_built_in(name: str, data_dir: str | Path | None, download: bool) -> tuple[_Sources, str]:
    """The pool to train on and the test data, and their fingerprint."""
    if name == "digits":
        train, test, fingerprint = digits.load_digits()
    elif name == "cifar10":
        train, test, fingerprint = cifar10.load_cifar10(data_dir, download=download)
    else:
        train, test, fingerprint = cifar100.load_cifar100(
            data_dir, coarse=name == COARSE, download=download
        )
    return {"train": train, "test": test}, fingerprint


def _choose_rows(
    sources: _Sources, sizes: tuple[int, int], seed: int, stratified: bool
) -> tuple[Rows, Rows, Rows]:
    """The rows of train, validation and test."""
    pool, validation, test = sources["train"], sources.get("validation"), sources["test"]
    if validation is None:
        rows = split_indices(pool.labels, sizes, seed=seed, stratified=stratified)
        validation = pool
    else:
        rows = (
            choose_indices(pool.labels, sizes[0], seed=seed, stratified=stratified),
            choose_indices(validation.labels, sizes[1], seed=seed, stratified=stratified),
        )
    return Rows(pool, rows[0]), Rows(validation, rows[1]), Rows(test, np.arange(len(test)))


def load_labelled(
    name: str,
    split: str = "test",
    *,
    side: int | None = None,
    data_dir: str | Path | None = None,
    follow_links: bool = False,
    download: bool = True,
) -> LabelledData:
    """Load one split, complete, to score a network on it; it needs no data to train on.

    Args:
        name: as in `load_dataset`.
        split: "train" (all of it, before any split for validation) or "test" of a dataset that is
            built in; any that a "tfds:", "parquet:" or "hf:" dataset has ("test" of a Parquet file
            is all of it); of "folder:PATH" a folder in it ("validation"
            may be `PATH/val`), or "test" for `PATH/CLASS` if it holds none of train, val, valid,
            validation and test. Where there is something to train on and no test split, the
            validation split is "test", as in `load_dataset`.
        side, data_dir, follow_links, download: as in `load_dataset`.

    Returns:
        The images, read when they are asked for. The classes of a folder are those of this split.

    Raises:
        DataError: there is no such split (the message names those that are there), or it cannot be
            used.

    Example:
        >>> from jaxcifar.data import load_labelled
        >>> data = load_labelled("digits")
        >>> len(data.source), data.source.side, data.class_names[:3]
        (360, 32, ('0', '1', '2'))
    """
    if name in DATASETS:
        if split not in ("train", "test"):
            raise DataError(f"{name} has no split {split}; it has the splits train, test")
        sources, fingerprint = _load_built_in(name, data_dir, download=download)
        return LabelledData(name, DATASETS[name].class_names, sources[split], fingerprint)
    found = own.find_own_split(name, split, data_dir, follow_links=follow_links)
    if found is None:
        raise _unknown(name)
    sources = own.load_own(found, name, side, lazy=True)
    return LabelledData(name, found.class_names, sources[split], found.fingerprint)
