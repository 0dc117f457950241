"""Images and labels in Parquet files, in the layouts of the Hugging Face hub.

"parquet:PATH" names a folder (see `parquet_layout`) or one file; the columns are found by the
schema, or named: "parquet:PATH#image=img,label=fine_label". Finding a dataset reads the labels,
which takes no picture; pyarrow is imported only then.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError, ImageFileError
from jaxcifar.common.messages import printable
from jaxcifar.common.progress import progress_bar
from jaxcifar.data import parquet_layout as layout
from jaxcifar.data.cache import cached_digests
from jaxcifar.data.damage import PictureSource
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.fresh import Kept, Mark, mark
from jaxcifar.data.listing import is_folder
from jaxcifar.data.parquet_name import OPTIONS, PREFIX, located, parse_name
from jaxcifar.data.parquet_rows import (
    Pictures,
    Shard,
    digest_pictures,
    look_at,
    read_numbers,
    read_texts,
)
from jaxcifar.data.parquet_schema import MAX_CLASSES, Columns, find_columns, read_footer

Splits = Mapping[str, Sequence[Path]]  # the files of each split


@dataclass(frozen=True, eq=False)
class ParquetDataset:
    """A dataset in Parquet files that was found complete; no picture has been read yet.

    Attributes:
        name: "parquet:PATH", perhaps with columns.
        root: the folder or file.
        class_names: in label order.
        splits: the files of "train", "test" and perhaps "validation"; or of the one asked for.
        labels: int32 `[n]` of each.
        marks: what was read, and the folders that were listed.
        state: the columns, and a SHA-256 of the name, size, times and inode of each file.
        revision: the commit on the Hugging Face hub that the files are of; None if not from there.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    labels: Mapping[str, NDArray[np.int32]]
    marks: tuple[Mark, ...]
    state: str
    revision: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of images in each split."""
        return {split: len(labels) for split, labels in self.labels.items()}

    @property
    def side(self) -> None:
        """Pictures may have several sizes."""
        return None

    @property
    def names_and_sizes(self) -> None:
        """No earlier version has read such data."""
        return None

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the class names, and of each split's labels and encoded pictures.

        It reads all pictures, once for each `state`. Where the files are, and how they and their
        row groups divide the rows, does not change it.

        Raises:
            DataError: a file cannot be read, or changes meanwhile.
        """

        def read() -> NDArray[np.uint8]:
            size = sum(self.counts.values())
            label = f"Hashing {self.name}"
            with progress_bar(label, size, unit=" images", enabled=True) as bar:
                digests = [
                    digest_pictures(shards, self.labels[split], bar.update)
                    for split, shards in self.splits.items()
                ]
            self.check_unchanged()
            return np.stack([np.frombuffer(digest, np.uint8) for digest in digests])

        key = hashlib.sha256(os.fsencode(f"parquet digests 1 {self.state}")).hexdigest()
        digests = cached_digests(key, read)
        whole = hashlib.sha256()
        for name in self.class_names:
            whole.update(name.encode("utf-8", "surrogatepass") + b"\0")
        for split, digest in zip(self.splits, digests, strict=True):
            whole.update(f"\0{split}\0".encode() + digest.tobytes())
        return whole.hexdigest()

    def sources(self, side: int) -> dict[str, "ParquetSource"]:
        """The pictures of each split, `side` pixels high and wide."""
        return {
            split: ParquetSource(
                f"{split} in {self.root}", side, self.labels[split], Pictures(shards)
            )
            for split, shards in self.splits.items()
        }

    def check_unchanged(self) -> None:
        """Look at each file again.

        Raises:
            DataError: one is not as it was found.
        """
        for shards in self.splits.values():
            for shard in shards:
                shard.check_unchanged()


@dataclass(frozen=True, eq=False)
class ParquetSource(PictureSource):
    """The pictures of one split as images of `side` pixels, decoded as they are read."""

    known_title: str
    side: int
    known_labels: NDArray[np.int32]
    pictures: Pictures

    @property
    def title(self) -> str:
        """The split and the folder."""
        return self.known_title

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`."""
        return self.known_labels

    def try_read(self, rows: NDArray[np.int64], /) -> tuple[Dataset, list[str]]:
        """See `PictureSource.try_read`."""
        from jaxcifar.data.image_file import decode_square

        images = np.zeros((len(rows), self.side, self.side, 3), np.uint8)
        faults = []
        for image, row, cell in zip(images, rows, self.pictures.read(rows), strict=True):
            where = self.pictures.where(int(row))
            if cell is None:
                faults.append(f"{where}: there is no picture (null); remove such rows")
                continue
            try:
                image[...] = decode_square(cell, self.side, where)
            except ImageFileError as error:
                faults.append(str(error))
        return Dataset(images, self.labels[rows]), faults


_kept: Kept[ParquetDataset] = Kept()


def find_parquet(
    name: str, *, split: str | None = None, follow_links: bool = False
) -> ParquetDataset:
    """Find the files of "parquet:PATH", anew, and read their labels.

    Args:
        name: the dataset's.
        split: one of its splits, if only that is wanted; the others may be absent. "test" also
            names the one file of "parquet:FILE", and the validation split where there is no other.
        follow_links: whether links to folders, and links out of the folder, are followed.

    Raises:
        DataError: it is not there, or cannot be used; the message says why.
    """
    place = located(name)
    return _kept.keep((place, split, follow_links), _find(place, split, follow_links))


def known_parquet(name: str, *, follow_links: bool = False) -> ParquetDataset:
    """As `find_parquet`, but looked for anew only if a file or a folder may have changed."""
    place = located(name)
    key = place, None, follow_links
    return _kept.get(key, lambda: _find(place, None, follow_links))


def _find(place: str, split: str | None, follow_links: bool) -> ParquetDataset:
    parsed = parse_name(place)
    root = Path(parsed.place.removeprefix(PREFIX))
    missing = f"there is no folder or Parquet file {root}; {layout.LAYOUT}"
    if not is_folder(root, missing=missing):
        if split is None:
            raise DataError(
                f"{root} is one file; name the folder of the files to train and test on: "
                f"{layout.LAYOUT}"
            )
        return open_dataset(place, root, {split: [root]}, parsed.options, ())
    listed = layout.list_files(root, follow_links=follow_links)
    if not listed.names:
        raise DataError(f"{root} has no Parquet files (*{layout.SUFFIX}); {layout.LAYOUT}")
    groups = layout.group(listed.names)
    there = layout.choose_config(groups, None, str(root), f"{PREFIX}{root}/CONFIG")
    files = choose_files(there, split, str(root))
    paths = {ours: [root / name for name in names] for ours, names in files.items()}
    return open_dataset(place, root, paths, parsed.options, listed.marks)


def choose_files(
    there: Mapping[str, Sequence[str]], split: str | None, where: str
) -> dict[str, Sequence[str]]:
    """The names of the files of each split that is used.

    Args:
        there: the names by split.
        split: the one that is wanted; None for those to train, validate and test on.
        where: what messages call the folder or repository.

    Raises:
        DataError: a split or a part of one is missing.
    """
    if split is None:
        chosen = layout.choose_splits(there, where)
    else:
        chosen = {split: layout.choose_split(there, split, where)}
    for theirs in chosen.values():
        layout.check_complete(theirs, there[theirs], where)
    return {ours: there[theirs] for ours, theirs in chosen.items()}


def open_dataset(
    name: str, root: Path, files: Splits, options: Mapping[str, str], marks: Sequence[Mark]
) -> ParquetDataset:
    """Read the footers and the labels of files.

    Args:
        name: the dataset's.
        root: the folder or file, for messages.
        files: of each split, in order.
        options: the columns that were asked for.
        marks: of the folders that were listed.

    Raises:
        DataError: a file is damaged, or does not go with the others; a label is none or out of
            range; a split is empty.
    """
    paths = [path for several in files.values() for path in several]
    try:
        marks = [*marks, *map(mark, paths)]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    splits: dict[str, tuple[Shard, ...]] = {}
    first: Shard | None = None
    for split, several in files.items():
        shards = []
        for path in several:
            shard = _open_shard(path, name, options)
            first = first or shard
            _check_same_columns(first, shard)
            shards.append(shard)
        splits[split] = tuple(shards)
        if not any(shard.rows for shard in shards):
            raise DataError(f"{root} has an empty split: {split}, in {shards[0].path}")
    state = _state(root, splits)
    class_names, labels = _read_labels(splits)
    return ParquetDataset(name, root, class_names, splits, labels, tuple(marks), state)


def _open_shard(path: Path, name: str, options: Mapping[str, str]) -> Shard:
    found = look_at(path)
    footer = read_footer(path)
    asked = {key: options.get(key) for key in OPTIONS}
    columns = find_columns(footer.schema, path, name, image=asked["image"], label=asked["label"])
    return Shard(path, columns, footer.groups, found)


def _check_same_columns(first: Shard, other: Shard) -> None:
    mine, theirs = first.columns, other.columns
    if mine == theirs:
        return
    if mine[:-1] == theirs[:-1]:
        ours, others = (columns.class_names or () for columns in (mine, theirs))
        pairs = zip((*ours, *[None] * len(others)), (*others, *[None] * len(ours)), strict=True)
        at, (one, other_name) = next(
            (i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        problem = f"class {at} of {mine.label} is {_shown(one)} in one and {_shown(other_name)}"
    else:
        problem = f"the columns are {_kinds(mine)} in one and {_kinds(theirs)}"
    raise DataError(
        f"{first.path} and {other.path} do not go together: {problem} in the other; get them again "
        "from one version of the dataset"
    )


def _shown(name: str | None) -> str:
    return "none" if name is None else printable(repr(name))


def _kinds(columns: Columns) -> str:
    image = "struct" if columns.in_struct else "binary"
    label = "texts" if columns.as_text else "numbers"
    return f"{columns.image} ({image}) and {columns.label} ({label})"


def _read_labels(
    splits: Mapping[str, Sequence[Shard]],
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int32]]]:
    """The class names, and the labels of each split."""
    columns = next(iter(splits.values()))[0].columns
    if columns.as_text:
        return _read_text_labels(splits)
    names, labels = columns.class_names, {}
    classes = MAX_CLASSES if names is None else len(names)
    for split, shards in splits.items():
        labels[split] = np.concatenate([read_numbers(shard, classes) for shard in shards])
        if names is None:  # those of the first split, which is the one to train on
            classes = int(labels[split].max()) + 1
            names = tuple(map(str, range(classes)))
    return names or (), labels


def _read_text_labels(
    splits: Mapping[str, Sequence[Shard]],
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int32]]]:
    """Sorted, the texts of the first split are the classes."""
    known: dict[str, int] = {}
    labels = {}
    for i, (split, shards) in enumerate(splits.items()):
        parts = [read_texts(shard, known, grow=i == 0) for shard in shards]
        labels[split] = np.concatenate(parts)
    names = tuple(sorted(known))
    position = {name: label for label, name in enumerate(names)}
    lookup = np.array([position[name] for name in known], np.int32)
    return names, {split: lookup[each] for split, each in labels.items()}


def _state(root: Path, splits: Mapping[str, Sequence[Shard]]) -> str:
    """What the decoded images depend on."""
    found = [(split, [shard.found for shard in shards]) for split, shards in splits.items()]
    columns = next(iter(splits.values()))[0].columns
    digest = hashlib.sha256(
        repr((found, columns.image, columns.label)).encode(errors="backslashreplace")
    )
    return f"{root} {digest.hexdigest()}"


def renamed(dataset: ParquetDataset, name: str, revision: str) -> ParquetDataset:
    """The same data under their name on the Hugging Face hub, with the commit."""
    return replace(dataset, name=name, revision=revision)
