"""Any dataset that TFDS has prepared as array_record, if it has images with one label each.

`<data_dir>/NAME/VERSION/` or `<data_dir>/NAME/CONFIG/VERSION/` must hold `dataset_info.json`,
`features.json` with an Image called "image" and a ClassLabel called "label", and the shards of
"train" and of "test" (or "validation"). Finding a dataset reads only the two JSON files; TFDS is
imported to read images or labels, TensorFlow never.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable, shown
from jaxcifar.data.cache import cached_labels
from jaxcifar.data.contents import file_digests
from jaxcifar.data.damage import PictureSource
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.fresh import Kept, Mark, mark
from jaxcifar.data.listing import Picture, make_picture
from jaxcifar.data.tfds_features import PREPARE_AGAIN, class_names, image_features
from jaxcifar.data.tfds_layout import (
    FEATURES,
    FORMAT,
    INFO,
    LABELS,
    Info,
    check_present,
    data_root,
    how_to_prepare_any,
    import_tfds,
    newest_version,
    read_info,
    shard_paths,
)

PREFIX = "tfds:"
_READ_AT_ONCE = 1000  # records, of which only the labels are kept


@dataclass(frozen=True)
class TfdsDataset:
    """A prepared dataset that was found complete; nothing in it has been decoded yet.

    Attributes:
        name: "tfds:NAME" or "tfds:NAME/CONFIG".
        directory: where `dataset_info.json` is.
        class_names: in label order; the numbers of the classes if they have no names.
        splits: TFDS's names of "train", "test" and perhaps "validation"; or of the one asked for.
        counts: records of each.
        side: height and width of every image, None if they are not all the same.
        files: the JSON files and the class names.
        shards: of all splits.
        marks: what was read, and the folder in which a newer version would be.
        found: the shards, as they were.
        state: the folder, and a SHA-256 of the name, size, times and inode of each file.
    """

    name: str
    directory: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, str]
    counts: Mapping[str, int]
    side: int | None
    files: tuple[Path, ...]
    shards: tuple[Path, ...]
    marks: tuple[Mark, ...]
    found: tuple[Picture, ...]
    state: str

    @property
    def names_and_sizes(self) -> str | None:
        """The fingerprint of earlier versions, by the names and sizes of the shards only.

        None if they used other images: they did not validate on a split of its own.
        """
        if "validation" in self.splits:
            return None
        sizes = hashlib.sha256()
        for file in sorted(self.files):
            sizes.update(f"{sha256_of(file)}  {file.name}\n".encode())
        for shard in sorted(self.shards):
            sizes.update(f"{shard.stat().st_size}  {shard.name}\n".encode())
        return sizes.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the names and contents of all files; it reads them once for each state.

        Raises:
            DataError: one cannot be read, or changes meanwhile.
        """
        files = sorted(file.name for file in (*self.files, *self.shards))
        digests = file_digests(self.name, self.state, self.directory, files, self.check_unchanged)
        whole = hashlib.sha256()
        for file, digest in zip(files, digests, strict=True):
            whole.update(f"{digest.tobytes().hex()}  {file}\n".encode())
        return whole.hexdigest()

    def sources(self, side: int) -> dict[str, "TfdsSource"]:
        """See `open_sources`."""
        return open_sources(self, side)

    def check_unchanged(self) -> None:
        """Look at each file again.

        Raises:
            DataError: one is not as it was found.
        """
        if _state(self.directory, (*self.files, *self.shards)) != self.state:
            raise self._changed()

    def check_split_unchanged(self, split: str) -> None:
        """Look at the shards of one of TFDS's splits again, as whenever records are read.

        Raises:
            DataError: one is not as it was found.
        """
        of_split = [shard for shard in self.found if f"-{split}.{FORMAT}-" in shard.name]
        now = _look_at(self.directory, [self.directory / shard.name for shard in of_split])
        if not all(new.has_contents_of(old) for new, old in zip(now, of_split, strict=True)):
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(f"{self.directory} changed while it was read; load it again")


@dataclass(frozen=True, eq=False)
class TfdsSource(PictureSource):
    """The images of one split, `side` pixels high and wide, decoded as they are read.

    Attributes:
        dataset: where they are.
        split: TFDS's name of it.
        side: pixels; the size of the images if they have one size, else the size to scale them to.
        labels: int32 `[n]`.
        records: TFDS's data source of the split.
    """

    dataset: TfdsDataset
    split: str
    side: int
    known_labels: NDArray[np.int32]
    records: Any

    @property
    def title(self) -> str:
        """The split and the folder."""
        return f"{self.split} in {self.dataset.directory}"

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`."""
        return self.known_labels

    def try_read(self, rows: NDArray[np.int64], /) -> tuple[Dataset, list[str]]:
        """See `PictureSource.try_read`."""
        from jaxcifar.common.errors import ImageFileError
        from jaxcifar.data.image_file import decode_square

        images = np.zeros((len(rows), self.side, self.side, 3), np.uint8)
        exact = self.dataset.side is not None
        faults = []
        examples = _read_examples(self.records, rows, self.dataset, self.split)
        for image, row, example in zip(images, rows, examples, strict=True):
            name = f"image {row} of {self.split} in {self.dataset.directory}"
            data = b"".join(example["image"].bytes_list.value)
            try:
                image[...] = decode_square(data, self.side, name, exact=exact)
            except ImageFileError as error:
                faults.append(str(error))
        return Dataset(images, self.labels[rows]), faults


def open_sources(dataset: TfdsDataset, side: int) -> dict[str, TfdsSource]:
    """The source of each split.

    Their labels are read first, without decoding an image, and cached for the next time.

    Args:
        dataset: from `find_tfds`.
        side: pixels; `dataset.side` if that is not None.

    Raises:
        DataError: a record cannot be read, or a label is not one of the classes.
    """
    splits = dataset.splits
    records = {name: _open_split(dataset, split) for name, split in splits.items()}

    def read() -> dict[str, NDArray[np.int32]]:
        return {name: _read_labels(dataset, split, records[name]) for name, split in splits.items()}

    key = f"labels {' '.join(f'{name}={split}' for name, split in splits.items())} {dataset.state}"
    labels = cached_labels(hashlib.sha256(os.fsencode(key)).hexdigest(), read, splits=tuple(splits))
    return {
        name: TfdsSource(dataset, split, side, labels[name], records[name])
        for name, split in splits.items()
    }


def _open_split(dataset: TfdsDataset, split: str) -> Any:
    """The split's records as bytes, which `_read_examples` parses.

    TFDS's own parser takes 38 us per record while holding the interpreter lock, half as long as
    decoding a CIFAR image, and reads every feature; `_read_examples` takes 6 us.
    """
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(dataset.directory)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw)
    except Exception as error:  # TFDS may raise anything for files it did not write
        raise DataError(f"TFDS cannot open {split} in {dataset.directory}: {error}") from error


def _read_examples(
    records: Any, rows: Sequence[int] | NDArray, dataset: TfdsDataset, split: str
) -> list[Any]:
    """The features of each record by name, as TFDS wrote them.

    Raises:
        DataError: they cannot be read, or are perhaps not those that were found.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        read = records.__getitems__([int(row) for row in rows])
        if not all(read):  # array_record returns these silently for a shard that is cut short
            raise DataError("a record is empty, so a shard is cut short")
        examples = [tf_example_pb2.Example.FromString(record) for record in read]
    except Exception as error:  # array_record and protobuf have their own for damaged files
        # One that is exchanged meanwhile looks damaged, too.
        dataset.check_split_unchanged(split)
        raise DataError(f"the records in {dataset.directory} cannot be read: {error}") from error
    dataset.check_split_unchanged(split)
    return [example.features.feature for example in examples]


def _read_labels(dataset: TfdsDataset, split: str, records: Any) -> NDArray[np.int32]:
    count = len(records)

    def labels() -> Iterator[int]:
        for start in range(0, count, _READ_AT_ONCE):
            rows = range(start, min(start + _READ_AT_ONCE, count))
            for example in _read_examples(records, rows, dataset, split):
                value = example["label"].int64_list.value
                if len(value) != 1 or not 0 <= value[0] < len(dataset.class_names):
                    raise DataError(
                        f"{split} in {dataset.directory} has a label {list(value)}; expected one "
                        f"of 0 to {len(dataset.class_names) - 1} (TFDS writes -1 for unknown)"
                    )
                yield value[0]

    return np.fromiter(labels(), np.int32, count)


_kept: Kept[TfdsDataset] = Kept()


def find_tfds(
    name: str, data_dir: str | Path | None = None, *, split: str | None = None
) -> TfdsDataset:
    """Find the newest prepared version of "tfds:NAME" or "tfds:NAME/CONFIG", looking anew.

    Args:
        name: the dataset's.
        data_dir: the folder of TFDS data; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        split: one of its splits, by TFDS's name, if only that is wanted; the others may be absent.

    Raises:
        DataError: it is not there, or cannot be used; the message says why.
    """
    place = _parse_name(name), data_root(data_dir)
    return _kept.keep((*place, split), _find(*place, split))


def known_tfds(name: str, data_dir: str | Path | None = None) -> TfdsDataset:
    """As `find_tfds`, but looked for anew only if a JSON file or a folder may have changed."""
    place = _parse_name(name), data_root(data_dir)
    return _kept.get((*place, None), lambda: _find(*place, None))


def _parse_name(name: str) -> str:
    """NAME or NAME/CONFIG."""
    words = re.fullmatch(r"(\w+)(?:/(\w[\w.+-]*))?", name.removeprefix(PREFIX), re.ASCII)
    if words is None:
        raise DataError(f"name a TFDS dataset tfds:NAME or tfds:NAME/CONFIG, not {name!r}")
    return words[0]


def _find(place: str, root: Path, split: str | None) -> TfdsDataset:
    name, _, config = place.partition("/")
    marks = _marks(root / place)
    directory = newest_version(root / place)
    if directory is None:
        raise DataError(_not_found(name, config or None, root))
    files = [directory / INFO, directory / FEATURES]
    marks += _marks(directory, *files, directory / LABELS)
    info = read_info(directory / INFO, PREPARE_AGAIN)
    _check_kind(directory, info, name, config or None, root)
    splits = _choose_splits(directory, info, split)
    counts = {ours: sum(info.shards[theirs]) for ours, theirs in splits.items()}
    if 0 in counts.values():
        sizes = ", ".join(f"{theirs} {counts[ours]}" for ours, theirs in splits.items())
        raise DataError(f"{directory} has an empty split: {sizes}")
    shards = shard_paths(directory, info)
    check_present(directory, (*files, *shards), PREPARE_AGAIN)
    side, num_classes = image_features(directory / FEATURES)
    names = directory / LABELS
    all_files = (*files, *([names] if names.is_file() else []))
    return TfdsDataset(
        f"{PREFIX}{place}",
        directory,
        class_names(names, num_classes),
        splits,
        counts,
        side,
        all_files,
        tuple(shards),
        tuple(marks),
        _look_at(directory, shards),
        _state(directory, (*all_files, *shards)),
    )


def _check_kind(directory: Path, info: Info, name: str, config: str | None, root: Path) -> None:
    if info.name != name:
        raise DataError(
            f"{directory} holds the dataset {shown(info.name)}, not {name}: rename the folder "
            f"{name} to the dataset's name and use that one, or move it away and "
            f"{how_to_prepare_any(name, config, root)}"
        )
    if info.file_format != FORMAT:  # TFDS keeps to the format of a version that is there
        raise DataError(
            f"{directory} holds {name} as {printable(info.file_format)}, and without TensorFlow "
            f"only {FORMAT} can be read; in another folder OTHER, "
            f"{how_to_prepare_any(name, config, Path('OTHER'))}; then use --data-dir OTHER"
        )


def _state(directory: Path, files: Sequence[Path]) -> str:
    found = sorted(_look_at(directory, files))
    return f"{directory} {hashlib.sha256(repr(found).encode()).hexdigest()}"


def _look_at(directory: Path, files: Sequence[Path]) -> tuple[Picture, ...]:
    try:
        return tuple(make_picture(file.name, file.stat()) for file in files)
    except OSError as error:
        raise DataError(f"{directory} cannot be read: {error}") from error


def _marks(*paths: Path) -> list[Mark]:
    """Those that are there, before they are read."""
    return [mark(path) for path in paths if path.exists()]


def _choose_splits(directory: Path, info: Info, split: str | None) -> dict[str, str]:
    """TFDS's names of our splits."""
    there = ", ".join(info.shards) or "none"
    if split is not None:
        stands_in = split == "test" and "train" in info.shards and "test" not in info.shards
        name = "validation" if stands_in else split
        if name not in info.shards:
            raise DataError(f"{directory} has no split {name}; it has the splits {there}")
        return {split: name}
    test = "test" if "test" in info.shards else "validation"
    if not {"train", test} <= info.shards.keys():
        raise DataError(
            f"{directory} has the splits {there}; it needs train, and test or validation"
        )
    splits = {"train": "train", "test": test}
    if test == "test" and any(info.shards.get("validation", ())):
        splits["validation"] = "validation"
    return splits


def _not_found(name: str, config: str | None, root: Path) -> str:
    configs = [] if config else sorted(folder.name for folder in (root / name).glob("*/"))
    configs = [config for config in configs if newest_version(root / name / config)]
    if configs:
        return (
            f"{name} under {root} has the configs {', '.join(configs)}; name one, as in "
            f"tfds:{name}/{configs[0]}"
        )
    return (
        f"tfds:{name}{f'/{config}' if config else ''} is not prepared under {root}; "
        f"{how_to_prepare_any(name, config, root)}; if it is prepared in another folder, name that "
        "folder with --data-dir or TFDS_DATA_DIR"
    )
