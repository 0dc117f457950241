"""CIFAR-10 in the on-disk layout of TensorFlow Datasets, read and written without TensorFlow.

`<data_dir>/cifar10/<version>/` holds `dataset_info.json`, `features.json`, `label.labels.txt` and
the shards `cifar10-train.array_record-00000-of-00004` and so on, each record an id, a PNG and a
label. `tfds.builder("cifar10", data_dir=...)` reads what is written here, and the other way round.

The TFDS builder cannot write its own `cifar10` without TensorFlow (its Image feature encodes arrays
with it), but takes PNG files as they are; so a subclass hands it those. TFDS is imported only where
images are decoded or written: looking for a prepared dataset needs no more than its JSON file.
"""

import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Shape, Unusable, misfit, read_bytes, read_json
from jaxcifar.common.messages import printable, shown
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.progress import Bar, progress_bar

NAME = "cifar10"
INFO = "dataset_info.json"
FORMAT = "array_record"
_FEATURES = "features.json"
_MOST_LABELS = 1 << 16  # bytes of label.labels.txt
_READ_AT_ONCE = 1000  # records; one by one takes twice as long
# A CIFAR image of 3,072 bytes: level 1 takes 0.23 ms and 2,286 bytes on average, level 6 0.28 ms
# and 2,253 bytes.
_PNG_LEVEL = 1


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset that was found complete; nothing in it has been decoded yet.

    Attributes:
      directory: where `dataset_info.json` is.
      class_names: in label order.
      files: everything that determines the data.
      counts: records of "train" and "test".
    """

    directory: Path
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    counts: Mapping[str, int]


def data_root(data_dir: str | Path | None, *, must_exist: bool = True) -> Path:
    """`data_dir`, else `$TFDS_DATA_DIR`, else TFDS's own default `~/tensorflow_datasets`.

    Args:
      must_exist: False if a folder that is not there may be made, its parent being there.

    Raises:
      DataError: the place named by the caller or the environment is not such a folder. (The
        default need not exist.)
    """
    asked = data_dir or os.environ.get("TFDS_DATA_DIR")
    if not asked:
        return Path.home() / "tensorflow_datasets"
    root = Path(asked).expanduser().absolute()
    what = "The data folder" if data_dir else "The folder named by TFDS_DATA_DIR,"
    if root.exists() and not root.is_dir():
        raise DataError(f"{what} {root} is not a folder.")
    if not root.exists() and (must_exist or not root.parent.is_dir()):
        raise DataError(f"{what} {root} does not exist; make it first, or correct the path.")
    return root


def find_prepared(
    root: Path, class_names: tuple[str, ...], counts: Mapping[str, int]
) -> Prepared | None:
    """Looks for the newest prepared version under `root`, and that it is all there.

    Args:
      class_names: what it must name its classes.
      counts: how many records "train" and "test" must have.

    Returns:
      None if there is none.

    Raises:
      DataError: there is one, but it is not as expected, or not complete.
    """
    newest = newest_version(root / NAME)
    return None if newest is None else _inspect(newest, class_names, counts)


def _inspect(directory: Path, class_names: tuple[str, ...], counts: Mapping[str, int]) -> Prepared:
    way_out = f"Move {directory} away and prepare it again: python scripts/prepare_data.py {NAME}."
    info = read_info(directory / INFO, way_out)
    if info.name != NAME or info.file_format != FORMAT:
        raise DataError(
            f"{directory} holds {shown(info.name)} as {printable(info.file_format)}, and only "
            f"{NAME} as {FORMAT} can be read without TensorFlow. Prepare it in another folder: "
            f"python scripts/prepare_data.py {NAME} --data-dir OTHER."
        )
    found = {split: sum(lengths) for split, lengths in info.shards.items()}
    if found != counts:
        raise DataError(f"{directory} has {found} images, expected {dict(counts)}. {way_out}")
    shards = shard_paths(directory, info)
    labels = directory / "label.labels.txt"
    files = (directory / INFO, directory / _FEATURES, labels, *shards)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{directory} lacks {', '.join(missing)}. {way_out}")
    try:
        names = tuple(read_bytes(labels, _MOST_LABELS).decode(errors="replace").split())
        features = read_json(directory / _FEATURES)
    except Unusable as error:
        raise DataError(f"{error}. {way_out}") from None
    if names != class_names:
        raise DataError(
            f"{labels} names the classes {printable(', '.join(names))}; expected "
            f"{', '.join(class_names)}. {way_out}"
        )
    foreign = foreign_class(features)
    if foreign is not None:
        raise DataError(
            f"{directory / _FEATURES} names {shown(foreign)}, which TFDS would import; only its "
            f"own features are allowed. {way_out}"
        )
    return Prepared(directory, names, files, found)


@dataclass(frozen=True)
class Info:
    """What is read of a `dataset_info.json`: of each split the records of each shard."""

    name: str
    file_format: str
    shards: Mapping[str, tuple[int, ...]]


# Of dataset_info.json; the lengths are strings of digits, as protobuf writes an int64.
_SHAPE: Shape = {
    "name": str,
    "fileFormat?": str,
    "splits": [{"name": str, "shardLengths": [(str, int)], "filepathTemplate?": str}],
}
# Which file a shard is; TFDS would follow any other pattern to any other place.
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MOST_SHARDS = 1_000


def read_info(path: Path, way_out: str) -> Info:
    """Reads a `dataset_info.json`.

    Raises:
      DataError: it cannot be understood; the message ends with `way_out`.
    """
    try:
        raw = read_json(path)
    except Unusable as error:
        raise DataError(f"{path.parent} cannot be understood: {error}. {way_out}") from None
    if problem := misfit(raw, _SHAPE):
        raise DataError(f"{path} cannot be understood ({problem}). {way_out}")
    shards = {}
    for split in raw["splits"]:
        lengths = [str(length) for length in split["shardLengths"]]
        if len(lengths) > _MOST_SHARDS or not all(re.fullmatch("[0-9]{1,9}", n) for n in lengths):
            raise DataError(f"{path} cannot be understood (its shardLengths). {way_out}")
        if split.get("filepathTemplate", _TEMPLATE) != _TEMPLATE:
            raise DataError(f"{path} names its files in a way of its own. {way_out}")
        shards[split["name"]] = tuple(map(int, lengths))
    # TFDS's default where the file says nothing.
    return Info(raw["name"], raw.get("fileFormat", "tfrecord"), shards)


def foreign_class(features: Any) -> Any:
    """The first class that features.json names outside of TFDS's own, or None.

    TFDS imports the module of each, wherever that is: an import runs code.
    """
    left = [features]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
            for key in value.keys() & _NAMING:
                if not isinstance(value[key], str) or not _OWN_CLASS.fullmatch(value[key]):
                    return value[key]
        elif isinstance(value, list):
            left += value
    return None


# "type" is of TFDS before 4.5, and a JSON feature has features as text within.
_NAMING = {"pythonClassName", "python_class_name", "type", "jsonFeature", "json_feature"}
_OWN_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.[a-z_]+\.[A-Za-z]+", re.ASCII)


def shard_paths(directory: Path, info: Info) -> list[Path]:
    """Where TFDS keeps the shards of all splits, under the names that it gives by default."""
    return [
        directory / f"{info.name}-{split}.{info.file_format}-{i:05d}-of-{len(lengths):05d}"
        for split, lengths in info.shards.items()
        for i in range(len(lengths))
    ]


def newest_version(folder: Path) -> Path | None:
    """The newest prepared version of a dataset that lies in `folder`, None where there is none."""
    versions = [
        info.parent
        for info in folder.glob(f"*/{INFO}")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    return max(
        versions, key=lambda place: [int(part) for part in place.name.split(".")], default=None
    )


def decode(prepared: Prepared, side: int, *, progress: bool = True) -> dict[str, Dataset]:
    """Decodes the PNGs of "train" and "test", in the order of the prepared dataset.

    50,000 images take 14 s on one core: 6 s to read and parse records, 8 s in PIL.

    Raises:
      DataError: a record that cannot be read, or an image or label that is not what it should be.
    """
    tfds = import_tfds()
    with progress_bar(
        "Decoding CIFAR-10", sum(prepared.counts.values()), unit=" images", shown=progress
    ) as bar:
        try:
            builder = tfds.builder_from_directory(prepared.directory)
            return {split: _decode_split(builder, split, side, bar) for split in prepared.counts}
        except Exception as error:  # array_record and PIL each have their own for damaged files
            raise DataError(
                f"The images in {prepared.directory} cannot be read ({printable(str(error))}). "
                f"Move it away and prepare it again: python scripts/prepare_data.py {NAME}."
            ) from error


def import_tfds() -> Any:
    """TFDS, once it is sure that it can read and write array_record.

    Raises:
      DataError: it or something it needs is not installed.
    """
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"Decoding or preparing this data needs TFDS ({error}): pip install "
            "tensorflow-datasets array-record importlib-resources pillow."
        ) from error
    return tfds


def _decode_split(builder: Any, split: str, side: int, bar: Bar) -> Dataset:
    tfds = import_tfds()
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    classes = builder.info.features["label"].num_classes
    images = np.empty((len(source), side, side, 3), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _READ_AT_ONCE):
        rows = range(start, min(start + _READ_AT_ONCE, len(source)))
        for row, record in zip(rows, source.__getitems__(list(rows)), strict=True):
            images[row] = _decode_png(record["image"], side)
            labels[row] = record["label"]
        bar.update(len(rows))
    if not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"labels from {labels.min()} to {labels.max()} in {split}")
    return Dataset(images, labels)


def _decode_png(data: bytes, side: int) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.size != (side, side) or image.mode != "RGB":
            raise DataError(f"an image of {image.size} pixels in mode {image.mode}")
        return np.asarray(image)


def _encode_png(image: NDArray[np.uint8]) -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=_PNG_LEVEL)
    file.seek(0)
    return file


def write(
    root: Path,
    splits: Mapping[str, Dataset],
    class_names: tuple[str, ...],
    *,
    progress: bool = True,
) -> Path:
    """Writes `splits` as TFDS would and returns the directory of `dataset_info.json`.

    Everything is written into a hidden folder of `root` and moved into place at the end by one
    rename; whatever ends it earlier leaves nothing under `<root>/cifar10`. The ids, the keys and so
    the shuffled order are those of the TFDS builder.

    Raises:
      OSError: `root` cannot be written; or another process put a dataset there meanwhile.
    """
    building = Path(tempfile.mkdtemp(prefix=_building(), dir=root))
    counts = {name: len(dataset) for name, dataset in splits.items()}
    try:
        with progress_bar(
            "Preparing CIFAR-10", sum(counts.values()), unit=" images", shown=progress
        ) as bar:
            made = _run_builder(building, splits, class_names, bar)
        _inspect(made, class_names, counts)
        place = root / NAME / made.name
        place.parent.mkdir(exist_ok=True)
        made.rename(place)
        return place
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _run_builder(
    building: Path, splits: Mapping[str, Dataset], class_names: tuple[str, ...], bar: Bar
) -> Path:
    tfds = import_tfds()
    from tensorflow_datasets.image_classification.cifar import Cifar10 as Official

    # Not registered, so that `tfds.builder("cifar10")` remains the official class.
    with tfds.core.registered.skip_registration():

        class Cifar10(Official):
            """The official builder, fed from memory and with images as PNG files."""

            name = NAME

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                del dl_manager  # there is nothing left to download
                self.info.features["label"].names = list(class_names)
                return {name: self._generate_examples(name, splits[name]) for name in splits}

            def _generate_examples(self, split: str, dataset: Dataset) -> Iterator[Any]:
                for index, (image, label) in enumerate(
                    zip(dataset.images, dataset.labels, strict=True)
                ):
                    yield (
                        index,
                        {
                            "id": f"{split}_{index:05d}",
                            "image": _encode_png(image),
                            "label": int(label),
                        },
                    )
                    bar.update(1)

            # What these print names a folder that is gone a moment later.
            def _log_download_bytes(self) -> None: ...

            def _log_download_done(self) -> None: ...

    tfds.disable_progress_bar()  # its bars count shards, which says little about time
    try:
        builder = Cifar10(data_dir=building)
        builder.download_and_prepare(
            download_dir=building / "downloads",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            file_format=FORMAT,
        )
    finally:
        tfds.enable_progress_bar()
    return Path(builder.data_dir)


def sweep(root: Path) -> None:
    """Removes what killed processes left; the caller sees to it that none is still at work."""
    for left in root.glob(f"{_building()}*"):
        shutil.rmtree(left, ignore_errors=True)


def _building() -> str:
    return f".{NAME}-preparing-"
