"""Any dataset that TFDS has prepared as array_record, if it is of images with one label each.

`<data_dir>/NAME/VERSION/` or `<data_dir>/NAME/CONFIG/VERSION/` must hold `dataset_info.json`,
`features.json` with an Image called "image" and a ClassLabel called "label", and the shards of
"train" and of "test" (or "validation"). What there is is read from the two JSON files; TFDS is
imported where images or labels are read, and TensorFlow never.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, read_bytes, read_json
from jaxcifar.common.messages import shown
from jaxcifar.data.cache import cached_labels
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.tfds_store import (
    FORMAT,
    INFO,
    data_root,
    foreign_class,
    import_tfds,
    newest_version,
    read_info,
    shard_paths,
)

PREFIX = "tfds:"
_MOST_NAMES = 4 << 20  # bytes of label.labels.txt; ImageNet's has 10,000
_READ_AT_ONCE = 1000  # records, of whose images only the labels are kept


@dataclass(frozen=True)
class Found:
    """A prepared dataset that was found complete; nothing in it has been decoded yet.

    Attributes:
      directory: where `dataset_info.json` is.
      class_names: in label order; their numbers where they have no names.
      splits: what TFDS calls "train" and "test".
      counts: records of "train" and "test".
      side: height and width of every image, None where they are not all the same.
      fingerprint: SHA-256 (hex) of what the two JSON files and the class names say and of the
        names and sizes of the shards.
      state: the same and the times at which these were last changed.
    """

    directory: Path
    class_names: tuple[str, ...]
    splits: tuple[str, str]
    counts: tuple[int, int]
    side: int | None
    fingerprint: str
    state: str


@dataclass(frozen=True, eq=False)
class TfdsSource:
    """The images of one split, `side` pixels high and wide, decoded as they are read.

    Attributes:
      found: where they are.
      split: as TFDS calls it.
      side: pixels; images all of one size are of that, others are brought to it.
      labels: int32 `[n]`.
      records: TFDS's data source of the split.
    """

    found: Found
    split: str
    side: int
    labels: NDArray[np.int32]
    records: Any

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: NDArray[np.int64], /) -> Dataset:
        """The given rows: see `image_file.decode_square`.

        Raises:
          DataError: a record that cannot be read, or holds another picture than it should.
        """
        from jaxcifar.common.errors import ImageFileError
        from jaxcifar.data.image_file import decode_square

        images = np.empty((len(rows), self.side, self.side, 3), np.uint8)
        exact = self.found.side is not None
        examples = _read_examples(self.records, rows, self.found)
        for image, row, example in zip(images, rows, examples, strict=True):
            name = f"image {row} of {self.split} in {self.found.directory}"
            data = b"".join(example["image"].bytes_list.value)
            try:
                image[...] = decode_square(data, self.side, name, exact=exact)
            except ImageFileError as error:
                raise DataError(f"A picture cannot be read: {error}.") from error
        return Dataset(images, self.labels[rows])


def open_sources(found: Found, side: int) -> dict[str, TfdsSource]:
    """The sources of "train" and "test".

    Their labels are read first, without decoding an image, and kept for the next time.

    Args:
      found: from `find_tfds`.
      side: pixels; `found.side` where it has one.

    Raises:
      DataError: a record that cannot be read, or a label that is none of the classes.
    """
    parts = dict(zip(("train", "test"), found.splits, strict=True))
    records = {part: _open_split(found, split) for part, split in parts.items()}

    def read() -> dict[str, NDArray[np.int32]]:
        return {part: _read_labels(found, split, records[part]) for part, split in parts.items()}

    labels = cached_labels(hashlib.sha256(f"labels {found.state}".encode()).hexdigest(), read)
    return {
        part: TfdsSource(found, split, side, labels[part], records[part])
        for part, split in parts.items()
    }


def _open_split(found: Found, split: str) -> Any:
    """The split's records as bytes. The way to them is TFDS's, parsing them is not: its own takes
    38 us each with the interpreter lock held, which is half of what decoding a CIFAR image takes,
    and reads every feature there is; `_read_examples` takes 6 us.
    """
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(found.directory)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw)
    except Exception as error:  # whatever TFDS meets in what it did not write
        raise DataError(f"TFDS cannot open {split} in {found.directory}: {error}.") from error


def _read_examples(records: Any, rows: Sequence[int] | NDArray, found: Found) -> list[Any]:
    """Of each record the features by name, as TFDS wrote them."""
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        read = records.__getitems__([int(row) for row in rows])
        if not all(read):  # what array_record gives of a shard that is cut short, without a word
            raise DataError("a record is empty, so a shard is cut short")
        return [tf_example_pb2.Example.FromString(record).features.feature for record in read]
    except Exception as error:  # array_record and protobuf have their own for damaged files
        raise DataError(f"The records in {found.directory} cannot be read: {error}.") from error


def _read_labels(found: Found, split: str, records: Any) -> NDArray[np.int32]:
    count = len(records)

    def labels() -> Iterator[int]:
        for start in range(0, count, _READ_AT_ONCE):
            rows = range(start, min(start + _READ_AT_ONCE, count))
            for example in _read_examples(records, rows, found):
                value = example["label"].int64_list.value
                if len(value) != 1 or not 0 <= value[0] < len(found.class_names):
                    raise DataError(
                        f"{split} in {found.directory} has a label {list(value)}; expected one of "
                        f"0 to {len(found.class_names) - 1}. (TFDS writes -1 where it is unknown.)"
                    )
                yield value[0]

    return np.fromiter(labels(), np.int32, count)


def find_tfds(name: str, data_dir: str | Path | None = None) -> Found:
    """Looks for the newest prepared version of "tfds:NAME" or "tfds:NAME/CONFIG".

    What was found once in a process is not looked for again.

    Args:
      name: the dataset's.
      data_dir: where TFDS data lies; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Raises:
      DataError: it is not there, or not of a kind that can be used, and why.
    """
    words = re.fullmatch(r"(\w+)(?:/(\w[\w.+-]*))?", name.removeprefix(PREFIX), re.ASCII)
    if words is None:
        raise DataError(f"A TFDS dataset is named tfds:NAME or tfds:NAME/CONFIG, not {name!r}.")
    return _find(words[1], words[2], data_root(data_dir))


@lru_cache(maxsize=32)
def _find(name: str, config: str | None, root: Path) -> Found:
    directory = newest_version(root / name / (config or ""))
    if directory is None:
        raise DataError(_not_found(name, config, root))
    info = read_info(directory / INFO, "Prepare it again.")
    if info.name != name or info.file_format != FORMAT:
        raise DataError(
            f"{directory} holds {info.name!r} as {info.file_format}, and without TensorFlow only "
            f"{FORMAT} can be read. {_how_to(name, config, root)}"
        )
    test = "test" if "test" in info.shards else "validation"
    if not {"train", test} <= info.shards.keys():
        raise DataError(
            f"{directory} has the splits {', '.join(info.shards) or 'none'}; needed are train, and "
            "test or validation."
        )
    counts = (sum(info.shards["train"]), sum(info.shards[test]))
    if 0 in counts:
        raise DataError(f"{directory} has an empty split: train {counts[0]}, {test} {counts[1]}.")
    files = [directory / INFO, directory / "features.json"]
    shards = shard_paths(directory, info)
    missing = [file.name for file in (*files, *shards) if not file.is_file()]
    if missing:
        raise DataError(f"{directory} lacks {', '.join(missing)}. Prepare it again.")
    side, num_classes = _read_features(directory / "features.json")
    names = directory / "label.labels.txt"
    fingerprint, state = _digests([*files, *([names] if names.is_file() else [])], shards)
    return Found(
        directory,
        _class_names(names, num_classes),
        ("train", test),
        counts,
        side,
        fingerprint,
        f"{directory} {state}",
    )


def _not_found(name: str, config: str | None, root: Path) -> str:
    configs = [] if config else sorted(place.name for place in (root / name).glob("*/"))
    configs = [config for config in configs if newest_version(root / name / config)]
    if configs:
        return (
            f"{name} under {root} has the configs {', '.join(configs)}: name one, as in "
            f"tfds:{name}/{configs[0]}."
        )
    place = f"{name}/{config}" if config else name
    return (
        f"tfds:{place} is not prepared under {root}. {_how_to(name, config, root)} Prepared "
        "elsewhere: set TFDS_DATA_DIR (or --data-dir) to the folder that has it."
    )


def _how_to(name: str, config: str | None, root: Path) -> str:
    if name == "cifar10":
        return f"Prepare it: python scripts/prepare_data.py cifar10 --data-dir {root}."
    place = f"{name}/{config}" if config else name
    return (
        "Prepare it with TFDS (for most datasets this one step needs TensorFlow): "
        f"tfds build {place} --file_format={FORMAT} --data_dir={root}."
    )


def _read_features(path: Path) -> tuple[int | None, int]:
    """The side of the images, None where they are of several sizes, and the number of classes."""
    try:
        value = read_json(path)
        # Other classes than TFDS's own would be imported by it, which runs code.
        if (foreign := foreign_class(value)) is not None:
            raise DataError(
                f"{path} names {shown(foreign)}, which TFDS would import; only its own features "
                "are allowed. Prepare it again."
            )
        features = value["featuresDict"]["features"]
        image, label = features.get("image", {}), features.get("label", {})
        kinds = [str(f.get("pythonClassName", "")).rpartition(".")[2] for f in (image, label)]
        if kinds != ["Image", "ClassLabel"]:
            raise DataError(
                f"{path} has the features {', '.join(sorted(features))}; needed are an Image "
                "called image and a ClassLabel called label."
            )
        dtype = image["image"].get("dtype", "uint8")
        shape = [int(length) for length in image["image"]["shape"]["dimensions"]]
        num_classes = int(label["classLabel"]["numClasses"])
    except DataError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be understood ({error!r}): it is damaged or of an old TFDS. "
            "Prepare it again."
        ) from error
    if dtype != "uint8" or len(shape) != 3 or num_classes < 1:
        raise DataError(
            f"{path} says that images are {dtype} {shape} of {num_classes} classes; only uint8 "
            "[height, width, channels] of at least one class can be used."
        )
    return (shape[0] if shape[0] == shape[1] > 0 else None), num_classes


def _class_names(path: Path, count: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(map(str, range(count)))
    try:
        text = read_bytes(path, _MOST_NAMES).decode(errors="replace")
    except Unusable as error:
        raise DataError(f"{error}. Prepare it again.") from None
    names = tuple(text.rstrip("\n").split("\n"))
    if len(names) != count:
        raise DataError(f"{path} names {len(names)} classes, and features.json has {count}.")
    return names


def _digests(files: Sequence[Path], shards: Sequence[Path]) -> tuple[str, str]:
    """SHA-256 of contents, names and sizes, and the same with the times of change."""
    sizes, times = hashlib.sha256(), hashlib.sha256()
    for file in sorted(files):
        sizes.update(f"{sha256_of(file)}  {file.name}\n".encode())
    for shard in sorted(shards):
        status = shard.stat()
        sizes.update(f"{status.st_size}  {shard.name}\n".encode())
        times.update(f"{status.st_mtime_ns}\n".encode())
    return sizes.hexdigest(), f"{sizes.hexdigest()} {times.hexdigest()}"
