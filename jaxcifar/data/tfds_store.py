"""CIFAR-10 and CIFAR-100 in the layout of TensorFlow Datasets, read and written without TensorFlow.

Each record holds an id, a PNG and its labels. `tfds.builder("cifar10", data_dir=...)` reads the
datasets written here, and the other way round.

The TFDS builders cannot write without TensorFlow (their Image feature encodes arrays with it), but
accept PNG files; so a subclass passes them those. TFDS is imported only to decode or
write images: finding a prepared dataset needs only its JSON files.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, read_bytes
from jaxcifar.common.lock import wait_for_turn
from jaxcifar.common.messages import printable, shown
from jaxcifar.common.progress import Bar, progress_bar
from jaxcifar.common.writing import make_folder, sync_folder, sync_tree
from jaxcifar.data.cifar_format import SIDE, CifarFormat, LabelSet, TwiceLabelled
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.tfds_layout import (
    FEATURES,
    FORMAT,
    INFO,
    check_present,
    how_to_prepare,
    import_tfds,
    newest_version,
    read_features,
    read_info,
    shard_paths,
)

T = TypeVar("T")
_MAX_LABELS = 1 << 16  # bytes of label.labels.txt
_READ_AT_ONCE = 1000  # records; one by one takes twice as long
# For a CIFAR image of 3,072 bytes, level 1 takes 0.23 ms and gives 2,286 bytes on average, level 6
# 0.28 ms and 2,253 bytes.
_PNG_LEVEL = 1


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


def find_prepared(root: Path, form: CifarFormat) -> Prepared | None:
    """Find the newest prepared version under `root`, and check that it is complete.

    Args:
        root: the data folder.
        form: the name, the class names and the number of records that it must have.

    Returns:
        None if there is none.

    Raises:
        DataError: there is one, but it is not as expected, or not complete.
    """
    newest = newest_version(root / form.name)
    return None if newest is None else _inspect(newest, form)


def _inspect(directory: Path, form: CifarFormat) -> Prepared:
    way_out = _way_out(directory, form)
    info = read_info(directory / INFO, way_out)
    if info.name != form.name or info.file_format != FORMAT:
        raise DataError(
            f"{directory} holds {shown(info.name)} as {printable(info.file_format)}, and only "
            f"{form.name} as {FORMAT} can be read without TensorFlow; prepare it in another "
            f"folder: {how_to_prepare(form.name, 'OTHER')}"
        )
    counts = {split: sum(lengths) for split, lengths in info.shards.items()}
    if counts != form.counts:
        raise DataError(f"{directory} has {counts} images, expected {form.counts}; {way_out}")
    names_files = [directory / f"{each.feature}.labels.txt" for each in form.labels]
    shards = shard_paths(directory, info)
    files = (directory / INFO, directory / FEATURES, *names_files, *shards)
    check_present(directory, files, way_out)
    for file, label_set in zip(names_files, form.labels, strict=True):
        _check_names(file, label_set.class_names, way_out)
    read_features(directory / FEATURES, way_out)
    return Prepared(directory, files, counts)


def _check_names(file: Path, class_names: tuple[str, ...], way_out: str) -> None:
    try:
        names = tuple(read_bytes(file, _MAX_LABELS).decode(errors="replace").split())
    except Unusable as error:
        raise DataError(f"{error}; {way_out}") from None
    if names != class_names:
        raise DataError(
            f"{file} names the classes {printable(', '.join(names))}; expected "
            f"{printable(', '.join(class_names))}; {way_out}"
        )


def _way_out(directory: Path, form: CifarFormat) -> str:
    root = directory.parents[1]
    return f"move {directory} away and prepare it again: {how_to_prepare(form.name, root)}"


def decode(prepared: Prepared, form: CifarFormat, *, progress: bool = True) -> dict[str, Dataset]:
    """Decode the PNGs of "train" and "test", in the order of the prepared dataset.

    50,000 images take 14 s on one core: 6 s to read and parse records, 8 s in PIL.

    Raises:
        DataError: a record cannot be read, or an image or label is not as expected.
    """
    size = sum(prepared.counts.values())
    with progress_bar(f"Decoding {form.title}", size, unit=" images", enabled=progress) as bar:

        def read(builder: Any, split: str) -> Dataset:
            images = np.empty((prepared.counts[split], SIDE, SIDE, 3), np.uint8)

            def keep(rows: range, records: list[Any]) -> None:
                for row, record in zip(rows, records, strict=True):
                    images[row] = _decode_png(record["image"], SIDE)
                bar.update(len(rows))

            return Dataset(images, _read_split(builder, split, form.labels[0], keep))

        return _read_prepared(prepared, form, read)


def read_labels(
    prepared: Prepared, form: CifarFormat, label_set: LabelSet
) -> dict[str, NDArray[np.int32]]:
    """One kind of label of "train" and "test", int32 `[n]`; no image is decoded.

    Raises:
        DataError: a record cannot be read, or a label is not as expected.
    """

    def read(builder: Any, split: str) -> NDArray[np.int32]:
        return _read_split(builder, split, label_set, lambda rows, records: None)

    return _read_prepared(prepared, form, read)


def _read_prepared(
    prepared: Prepared, form: CifarFormat, read: Callable[[Any, str], T]
) -> dict[str, T]:
    """What `read` returns for each split, given TFDS's builder and its name."""
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(prepared.directory)
        return {split: read(builder, split) for split in prepared.counts}
    except Exception as error:  # array_record and PIL have their own for damaged files
        raise DataError(
            f"the images in {prepared.directory} cannot be read ({printable(str(error))}); "
            f"{_way_out(prepared.directory, form)}"
        ) from error


def _read_split(
    builder: Any, split: str, label_set: LabelSet, keep: Callable[[range, list[Any]], None]
) -> NDArray[np.int32]:
    """The labels of a split; `keep` is called with rows and their records, chunk by chunk."""
    tfds = import_tfds()
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    classes = len(label_set.class_names)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _READ_AT_ONCE):
        rows = range(start, min(start + _READ_AT_ONCE, len(source)))
        records = source.__getitems__(list(rows))
        labels[start : rows.stop] = [record[label_set.feature] for record in records]
        keep(rows, records)
    if not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"labels from {labels.min()} to {labels.max()} in {split}")
    return labels


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
    form: CifarFormat,
    *,
    progress: bool = True,
) -> Path:
    """Write `splits` as TFDS would and return the directory of `dataset_info.json`.

    Everything is written to a hidden folder in `root` and moved into place at the end by a single
    rename; if it ends earlier, nothing is left under `<root>/<name>`. The ids and keys, and so the
    shuffled order, are those of the TFDS builder.

    Raises:
        OSError: `root` cannot be written; or another process put a dataset there meanwhile.
    """
    building = Path(tempfile.mkdtemp(prefix=_building(form), dir=root))
    size = sum(form.counts.values())
    try:
        with progress_bar(f"Preparing {form.title}", size, unit=" images", enabled=progress) as bar:
            built = _run_builder(building, splits, form, bar)
        _inspect(built, form)
        directory = root / form.name / built.name
        make_folder(directory.parent)
        sync_tree(built)
        built.rename(directory)
        sync_folder(directory.parent)
        return directory
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _run_builder(
    building: Path, splits: Mapping[str, Dataset], form: CifarFormat, bar: Bar
) -> Path:
    tfds = import_tfds()
    from tensorflow_datasets.image_classification import cifar

    official = cifar.Cifar100 if form.coarse_names else cifar.Cifar10

    # Not registered, so that `tfds.builder("cifar10")` remains the official class.
    with tfds.core.registered.skip_registration():

        class Cifar(official):  # type: ignore[valid-type, misc]
            """The official builder, fed from memory and with images as PNG files."""

            name = form.name

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                del dl_manager  # nothing is left to download
                for each in form.labels:
                    self.info.features[each.feature].names = list(each.class_names)
                return {name: self._generate_examples(name, splits[name]) for name in splits}

            def _generate_examples(self, split: str, dataset: Dataset) -> Iterator[Any]:
                labels = [dataset.labels]
                if isinstance(dataset, TwiceLabelled):
                    labels.append(dataset.coarse)
                for index, image in enumerate(dataset.images):
                    features: dict[str, Any] = {
                        each.feature: int(of_all[index])
                        for each, of_all in zip(form.labels, labels, strict=True)
                    }
                    features |= {"id": f"{split}_{index:05d}", "image": _encode_png(image)}
                    yield index, features
                    bar.update(1)

            # These would print the name of a folder that is gone a moment later.
            def _log_download_bytes(self) -> None: ...

            def _log_download_done(self) -> None: ...

    tfds.disable_progress_bar()  # its bars count shards, which says little about time
    try:
        builder = Cifar(data_dir=building)
        builder.download_and_prepare(
            download_dir=building / "downloads",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            file_format=FORMAT,
        )
    finally:
        tfds.enable_progress_bar()
    return Path(builder.data_dir)


def _building(form: CifarFormat) -> str:
    return f".{form.name}-preparing-"


def remove_unfinished(root: Path, form: CifarFormat, *, held: bool = False) -> None:
    """Remove the folders of killed processes, if no process is still at work.

    Args:
        root: the data folder.
        form: of the dataset.
        held: the caller holds it by `lock.wait_for_turn`.
    """
    folders = list(root.glob(f"{_building(form)}*"))
    if not folders:
        return
    with nullcontext(held) if held else wait_for_turn(root, wait=False) as alone:
        for folder in folders if alone else ():
            shutil.rmtree(folder, ignore_errors=True)
