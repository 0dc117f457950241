"""The on-disk layout of TensorFlow Datasets: where datasets are, and what their JSON files say.

`<data_dir>/NAME[/CONFIG]/<version>/` holds `dataset_info.json`, `features.json`, perhaps
`label.labels.txt`, and shards such as `cifar10-train.array_record-00000-of-00004`. A dataset may
come from anywhere, so the JSON files are not trusted. Neither TFDS nor TensorFlow is needed here.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, absolute_path, read_json
from jaxcifar.common.json_shape import Shape, misfit
from jaxcifar.common.messages import shown

INFO, FEATURES, LABELS = "dataset_info.json", "features.json", "label.labels.txt"
FORMAT = "array_record"
PREPARE = "jaxcifar prepare-data"  # the command that messages name
_MAX_SHARDS = 1_000


def data_root(data_dir: str | Path | None, *, must_exist: bool = True) -> Path:
    """`data_dir`, else `$TFDS_DATA_DIR`, else TFDS's own default `~/tensorflow_datasets`.

    Args:
        data_dir: the folder named by the caller, if any.
        must_exist: False if the folder may be created, in a parent that exists.

    Raises:
        DataError: the folder named by the caller or the environment is not such a folder. (The
            default need not exist.)
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    if not chosen:
        try:
            return Path.home() / "tensorflow_datasets"
        except RuntimeError:  # HOME is not set, and the user has no entry
            raise DataError(
                "no home folder is known to look for TFDS data in, as HOME is not set: set "
                "TFDS_DATA_DIR, or give --data-dir"
            ) from None
    try:
        root = absolute_path(chosen)
        there = root.exists()
    except (Unusable, OSError) as error:  # OSError: it is too long, for instance
        which = "the data folder" if data_dir else "TFDS_DATA_DIR"
        raise DataError(f"{which} cannot be used: {error}") from None
    name = f"the data folder {root}" if data_dir else f"TFDS_DATA_DIR names {root}, which"
    if there and not root.is_dir():
        raise DataError(f"{name} is not a folder")
    if not there and (must_exist or not root.parent.is_dir()):
        raise DataError(f"{name} does not exist; make it first, or correct the path")
    return root


def how_to_prepare(name: str, root: Path | str) -> str:
    """The command that puts CIFAR-10 or CIFAR-100 under `root`.

    It always says where: this process may have the folder from an option of its command.
    """
    return f"{PREPARE} {name} --data-dir {shlex.quote(str(root))}"


def how_to_prepare_any(name: str, config: str | None, root: Path) -> str:
    """How to prepare a dataset of TFDS under `root`, as the end of a message."""
    if name in ("cifar10", "cifar100"):
        return f"prepare it: {how_to_prepare(name, root)}"
    full = f"{name}/{config}" if config else name
    return (
        "prepare it with TFDS (for most datasets this one step needs TensorFlow): tfds build "
        f"{full} --file_format={FORMAT} --data_dir={shlex.quote(str(root))}"
    )


def newest_version(folder: Path) -> Path | None:
    """The newest prepared version of the dataset in `folder`, or None if there is none."""
    versions = [
        info.parent
        for info in folder.glob(f"*/{INFO}")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    return max(
        versions,
        key=lambda directory: [int(number) for number in directory.name.split(".")],
        default=None,
    )


@dataclass(frozen=True)
class Info:
    """The contents of a `dataset_info.json` that are used.

    Attributes:
        name: the dataset's.
        file_format: of its shards.
        shards: for each split, the number of records in each shard.
    """

    name: str
    file_format: str
    shards: Mapping[str, tuple[int, ...]]


# Of dataset_info.json; the lengths are strings of digits, as protobuf writes an int64.
_SHAPE: Shape = {
    "name": str,
    "fileFormat?": str,
    "splits": [{"name": str, "shardLengths": [(str, int)], "filepathTemplate?": str}],
}
# The file name of a shard; another template could lead TFDS to any other file.
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def read_info(path: Path, way_out: str) -> Info:
    """Read a `dataset_info.json`.

    Raises:
        DataError: it cannot be understood; the message ends with `way_out`.
    """
    try:
        raw = read_json(path)
    except Unusable as error:
        raise DataError(f"{path.parent} cannot be understood: {error}; {way_out}") from None
    if problem := misfit(raw, _SHAPE):
        raise DataError(f"{path} cannot be understood ({problem}); {way_out}")
    shards = {}
    for split in raw["splits"]:
        lengths = [str(length) for length in split["shardLengths"]]
        if len(lengths) > _MAX_SHARDS or not all(re.fullmatch("[0-9]{1,9}", n) for n in lengths):
            raise DataError(f"{path} cannot be understood (its shardLengths); {way_out}")
        if split.get("filepathTemplate", _TEMPLATE) != _TEMPLATE:
            raise DataError(f"{path} names its shards in an unusual way; {way_out}")
        shards[split["name"]] = tuple(map(int, lengths))
    # TFDS's default format is tfrecord.
    return Info(raw["name"], raw.get("fileFormat", "tfrecord"), shards)


def shard_paths(directory: Path, info: Info) -> list[Path]:
    """The shards of all splits, under TFDS's default names."""
    return [
        directory / f"{info.name}-{split}.{info.file_format}-{i:05d}-of-{len(lengths):05d}"
        for split, lengths in info.shards.items()
        for i in range(len(lengths))
    ]


def check_present(directory: Path, files: Iterable[Path], way_out: str) -> None:
    """Check that files of a dataset exist.

    Raises:
        DataError: some do not; the message names them and ends with `way_out`.
    """
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{directory} lacks {', '.join(missing)}; {way_out}")


def read_features(path: Path, way_out: str) -> Any:
    """The JSON value of a `features.json`.

    TFDS imports the module of each class that the file names, and an import runs code; so only
    TFDS's own feature classes are allowed.

    Raises:
        DataError: it is not JSON, or names another class; the message ends with `way_out`.
    """
    try:
        features = read_json(path)
    except Unusable as error:
        raise DataError(f"{error}; {way_out}") from None
    foreign = _foreign_class(features)
    if foreign is not None:
        raise DataError(
            f"{path} names {shown(foreign)}, which TFDS would import; only its own features are "
            f"allowed; {way_out}"
        )
    return features


# "type" is from TFDS before 4.5; a JSON feature holds features as text.
_NAMING = {"pythonClassName", "python_class_name", "type", "jsonFeature", "json_feature"}
_OWN_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.[a-z_]+\.[A-Za-z]+", re.ASCII)


def _foreign_class(features: Any) -> Any:
    """The first class named in `features` that is not TFDS's own, or None."""
    pending = [features]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
            for key in value.keys() & _NAMING:
                if not isinstance(value[key], str) or not _OWN_CLASS.fullmatch(value[key]):
                    return value[key]
        elif isinstance(value, list):
            pending += value
    return None


def import_tfds() -> Any:
    """Import TFDS, after checking that it can read and write array_record.

    Raises:
        DataError: it or something it needs is not installed.
    """
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"decoding or preparing this data needs TFDS ({error}): pip install "
            "tensorflow-datasets array-record importlib-resources pillow"
        ) from error
    return tfds
