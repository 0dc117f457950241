"""CIFAR-10 in the layout of TensorFlow Datasets, read and written without TensorFlow.

Each record holds an id, a PNG and a label. `tfds.builder("cifar10", data_dir=...)` reads the
datasets written here, and the other way round.

The TFDS builder cannot write its own `cifar10` without TensorFlow (its Image feature encodes arrays
with it), but accepts PNG files; so a subclass passes it those. TFDS is imported only to decode or
write images: finding a prepared dataset needs only its JSON files.
"""

import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, read_bytes
from jaxcifar.common.lock import wait_for_turn
from jaxcifar.common.messages import printable, shown
from jaxcifar.common.progress import Bar, progress_bar
from jaxcifar.common.writing import make_folder, sync_folder, sync_tree
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.tfds_layout import (
    FEATURES,
    FORMAT,
    INFO,
    LABELS,
    PREPARE,
    check_present,
    import_tfds,
    newest_version,
    read_features,
    read_info,
    shard_paths,
)

NAME = "cifar10"
_MAX_LABELS = 1 << 16  # bytes of label.labels.txt
_READ_AT_ONCE = 1000  # records; one by one takes twice as long
# For a CIFAR image of 3,072 bytes, level 1 takes 0.23 ms and gives 2,286 bytes on average, level 6
# 0.28 ms and 2,253 bytes.
_PNG_LEVEL = 1
_BUILDING = f".{NAME}-preparing-"


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset that was found complete; nothing in it has been decoded yet.

    Attributes:
        directory: where `dataset_info.json` is.
        files: every file that determines the data.
        counts: records of "train" and "test".
    """

    directory: Path
    files: tuple[Path, ...]
    counts: Mapping[str, int]


def find_prepared(
    root: Path, class_names: tuple[str, ...], counts: Mapping[str, int]
) -> Prepared | None:
    """Find the newest prepared version under `root`, and check that it is complete.

    Args:
        root: the data folder.
        class_names: the class names that it must have.
        counts: the number of records that "train" and "test" must have.

    Returns:
        None if there is none.

    Raises:
        DataError: there is one, but it is not as expected, or not complete.
    """
    newest = newest_version(root / NAME)
    return None if newest is None else _inspect(newest, class_names, counts)


def _inspect(directory: Path, class_names: tuple[str, ...], counts: Mapping[str, int]) -> Prepared:
    way_out = _way_out(directory)
    info = read_info(directory / INFO, way_out)
    if info.name != NAME or info.file_format != FORMAT:
        raise DataError(
            f"{directory} holds {shown(info.name)} as {printable(info.file_format)}, and only "
            f"{NAME} as {FORMAT} can be read without TensorFlow; prepare it in another folder: "
            f"{PREPARE} {NAME} --data-dir OTHER"
        )
    found_counts = {split: sum(lengths) for split, lengths in info.shards.items()}
    if found_counts != counts:
        raise DataError(
            f"{directory} has {found_counts} images, expected {dict(counts)}; {way_out}"
        )
    labels = directory / LABELS
    files = (directory / INFO, directory / FEATURES, labels, *shard_paths(directory, info))
    check_present(directory, files, way_out)
    try:
        names = tuple(read_bytes(labels, _MAX_LABELS).decode(errors="replace").split())
    except Unusable as error:
        raise DataError(f"{error}; {way_out}") from None
    if names != class_names:
        raise DataError(
            f"{labels} names the classes {printable(', '.join(names))}; expected "
            f"{', '.join(class_names)}; {way_out}"
        )
    read_features(directory / FEATURES, way_out)
    return Prepared(directory, files, found_counts)


def _way_out(directory: Path) -> str:
    return f"move {directory} away and prepare it again: {PREPARE} {NAME}"


def decode(prepared: Prepared, side: int, *, progress: bool = True) -> dict[str, Dataset]:
    """Decode the PNGs of "train" and "test", in the order of the prepared dataset.

    50,000 images take 14 s on one core: 6 s to read and parse records, 8 s in PIL.

    Raises:
        DataError: a record cannot be read, or an image or label is not as expected.
    """
    tfds = import_tfds()
    size = sum(prepared.counts.values())
    with progress_bar("Decoding CIFAR-10", size, unit=" images", enabled=progress) as bar:
        try:
            builder = tfds.builder_from_directory(prepared.directory)
            return {split: _decode_split(builder, split, side, bar) for split in prepared.counts}
        except Exception as error:  # array_record and PIL have their own for damaged files
            raise DataError(
                f"the images in {prepared.directory} cannot be read ({printable(str(error))}); "
                f"{_way_out(prepared.directory)}"
            ) from error


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
    """Write `splits` as TFDS would and return the directory of `dataset_info.json`.

    Everything is written to a hidden folder in `root` and moved into place at the end by a single
    rename; if it ends earlier, nothing is left under `<root>/cifar10`. The ids and keys, and so the
    shuffled order, are those of the TFDS builder.

    Raises:
        OSError: `root` cannot be written; or another process put a dataset there meanwhile.
    """
    building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=root))
    counts = {name: len(dataset) for name, dataset in splits.items()}
    size = sum(counts.values())
    try:
        with progress_bar("Preparing CIFAR-10", size, unit=" images", enabled=progress) as bar:
            built = _run_builder(building, splits, class_names, bar)
        _inspect(built, class_names, counts)
        directory = root / NAME / built.name
        make_folder(directory.parent)
        sync_tree(built)
        built.rename(directory)
        sync_folder(directory.parent)
        return directory
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
                del dl_manager  # nothing is left to download
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

            # These would print the name of a folder that is gone a moment later.
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


def remove_unfinished(root: Path, *, held: bool = False) -> None:
    """Remove the folders of killed processes, if no process is still at work.

    Args:
        root: the data folder.
        held: the caller holds it by `lock.wait_for_turn`.
    """
    folders = list(root.glob(f"{_BUILDING}*"))
    if not folders:
        return
    with nullcontext(held) if held else wait_for_turn(root, wait=False) as alone:
        for folder in folders if alone else ():
            shutil.rmtree(folder, ignore_errors=True)
