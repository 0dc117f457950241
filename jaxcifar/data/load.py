"""The datasets by name, and the one function that loads them.

Two are known. Names that begin with "folder:" or "tfds:" are of the user's own: see `folder` and
`tfds_any`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jaxcifar.common.errors import DataError
from jaxcifar.data import cifar10, digits, folder, tfds_any
from jaxcifar.data.archive import SIDE
from jaxcifar.data.dataset import Dataset, LabelledSource, Rows, Splits
from jaxcifar.data.decoding import decoded
from jaxcifar.data.split import check_seed, check_sizes, split_indices


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without loading it.

    Attributes:
      pool: images there are to train on, for training and validation together.
      test: images in the test split.
      side: pixels of height and of width; always three channels. None where images are of several
        sizes, and `load_dataset` must be told the side to bring them to.
      default_split: (train, validation).
    """

    name: str
    class_names: tuple[str, ...]
    pool: int
    test: int
    side: int | None
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


def dataset_info(name: str, *, data_dir: str | Path | None = None) -> DatasetInfo:
    """Looks a dataset up by name.

    Of "folder:" names the files are listed, of "tfds:" names the JSON files read, once in a
    process: what changes afterwards is not seen.

    Args:
      name: the dataset's.
      data_dir: where "tfds:" names are looked up; else `$TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`.

    Raises:
      DataError: there is none of that name (the message has the nearest), or it is not one that
        can be used.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(folder.PREFIX):
        listed = folder.find_folder(name)
        pool, test = (len(listed.parts[part].files) for part in ("train", "test"))
        return _own(name, listed.class_names, pool, test, None)
    if name.startswith(tfds_any.PREFIX):
        found = tfds_any.find_tfds(name, data_dir)
        return _own(name, found.class_names, *found.counts, found.side)
    near = difflib.get_close_matches(str(name).lower(), DATASETS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(DATASETS))}."
    raise DataError(
        f"There is no dataset {name!r}. {hint} Your own are named folder:PATH or tfds:NAME."
    )


def _own(
    name: str, class_names: tuple[str, ...], pool: int, test: int, side: int | None
) -> DatasetInfo:
    """A fifth of what there is to train on is for validation."""
    validation = max(1, pool // 5)
    return DatasetInfo(name, class_names, pool, test, side, (pool - validation, validation))


def check_split(
    name: str,
    split: tuple[int, int] | None = None,
    *,
    stratified: bool = False,
    data_dir: str | Path | None = None,
) -> tuple[int, int]:
    """The (train, validation) sizes that `load_dataset` would use; reads no image.

    Raises:
      DataError: unknown dataset, or sizes it cannot be split into.
    """
    info = dataset_info(name, data_dir=data_dir)
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
    """Loads a dataset and splits its training data for training and validation.

    CIFAR-10's images are decoded once (14 s) and kept in `$JAXCIFAR_CACHE_DIR`; later loads take
    well under a second. So are those of the user's own datasets, unless loaded lazily. How rows are
    chosen: `jaxcifar.data.split.split_indices`.

    Args:
      name: a key of `DATASETS`, "folder:PATH", "tfds:NAME" or "tfds:NAME/CONFIG".
      split: (train, validation) sizes; they may leave images unused. By default
        `dataset_info(name).default_split`.
      stratified: whether both parts keep the class proportions.
      seed: chooses the rows. The test split never depends on it.
      data_dir: where TFDS data lies; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      download: whether to download and prepare CIFAR-10 where it is not there.
      side: pixels of height and width that images of several sizes are brought to; where all have
        one size it is that, whatever is said here.
      lazy: the same images in the same order, but as `Rows`, none of which is in memory: CIFAR-10's
        are read from the decoded copy on disk, those of the user's own datasets decoded, each time
        that they are asked for.

    Raises:
      DataError: a request that cannot be met, found before anything is written; or data that is
        not there, not to be had or not as it should be.
    """
    sizes = check_split(name, split, stratified=stratified, data_dir=data_dir)
    check_seed(seed)
    pool: LabelledSource
    test: LabelledSource
    if name in DATASETS:
        pool, test, digest = _load_known(name, data_dir, download)
    else:
        pool, test, digest = _load_own(name, data_dir, side, lazy)
    train, validation = split_indices(pool.labels, sizes, seed=seed, stratified=stratified)
    return Splits(
        name=name,
        class_names=dataset_info(name, data_dir=data_dir).class_names,
        train=Rows(pool, train) if lazy else pool.read(train),
        validation=Rows(pool, validation) if lazy else pool.read(validation),
        test=test if isinstance(test, Dataset) and not lazy else Rows(test, np.arange(len(test))),
        fingerprint=digest,
        seed=seed,
        stratified=stratified,
    )


def _load_known(
    name: str, data_dir: str | Path | None, download: bool
) -> tuple[Dataset, Dataset, str]:
    if name == "digits":
        return digits.load_digits()
    return cifar10.load_cifar10(data_dir, download=download)


def _load_own(
    name: str, data_dir: str | Path | None, side: int | None, lazy: bool
) -> tuple[LabelledSource, LabelledSource, str]:
    side = dataset_info(name, data_dir=data_dir).side or side
    if side is None:
        raise DataError(
            f"The images of {name} are of several sizes: say the side to bring them to "
            "(Recipe.resize, --resize)."
        )
    if side < 1:
        raise DataError(f"The side must be at least one pixel, got {side}.")
    sources: Mapping[str, LabelledSource]
    if name.startswith(folder.PREFIX):
        listed = folder.find_folder(name)
        fingerprint, state = listed.fingerprint, listed.state
        sources = {part: folder.FolderSource(files, side) for part, files in listed.parts.items()}
    else:
        found = tfds_any.find_tfds(name, data_dir)
        fingerprint, state = found.fingerprint, found.state
        sources = tfds_any.open_sources(found, side)
    if not lazy:
        sources = decoded(name, state, sources)
    return sources["train"], sources["test"], fingerprint
