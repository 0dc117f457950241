"""Data for a machine without TensorFlow Datasets and without a network: packed, carried, read.

  python -m benchmarks.without_tfds pack DIR        where TFDS is: CIFAR-10 as 103 MB, 6 sheets
  python -m benchmarks.without_tfds check DIR       read it back; compare with TFDS's where that is
  python -m benchmarks.without_tfds train DIR speedrun epochs=16 --workdir runs/speedrun

The images lie on sheets of lossless WebP, which Pillow reads and writes, of at most 18 MB each for
CIFAR, so that they travel one by one. `index.json` has the fingerprint, the labels, the class names
and the SHA-256 of each sheet's pixels, which every reading checks. Splits read from them are those
that the recipe names, with the fingerprint of the source, so that a run trained on them is the same
run; "train" trains one and continues it if it was interrupted.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.contenders import read_settings, recipe_of
from jaxcifar.commands.exit_status import exit_with_status
from jaxcifar.common.files import read_json
from jaxcifar.common.writing import make_folder, write_atomically
from jaxcifar.data import (
    DATASETS,
    DataError,
    Dataset,
    LabelledData,
    Splits,
    load_labelled,
    split_indices,
)
from jaxcifar.recipes.recipe import Recipe

FORMAT = 1
INDEX = "index.json"
SPLITS = ("train", "test")
# Of 2,000 images of CIFAR-10, WebP's method 4 takes 1,692 bytes an image and 0.8 s, method 6 1,685
# and 1.3 s, its slowest form 1,679 and 23 s.
PER_SHEET = 10_000
COLUMNS = 100
MAX_SIDE = 16_383  # pixels, of a WebP
AGAIN = "pack it again: python -m benchmarks.without_tfds pack DIR"


class Packed(NamedTuple):
    """What a folder holds.

    Attributes:
        name: of the dataset.
        class_names: in label order.
        fingerprint: of the source data, see `Splits`.
        pool: all images to train and validate on, in the order of the source.
        test: the test images.
    """

    name: str
    class_names: tuple[str, ...]
    fingerprint: str
    pool: Dataset
    test: Dataset


def pack(folder: Path, dataset: str = "cifar10", data_dir: Path | None = None) -> int:
    """Write a built-in dataset into `folder`: the sheets first, the index last.

    Args:
        folder: made if needed.
        dataset: a key of `DATASETS`.
        data_dir: of TFDS, as in `load_dataset`.

    Returns:
        The bytes written.

    Raises:
        DataError: the folder has an index already, or the data are not available.
    """
    if (folder / INDEX).exists():
        raise DataError(f"{folder} holds packed data already: name another folder, or remove it")
    splits: dict[str, Any] = {}
    fingerprint, written = "", 0
    for split in SPLITS:
        labelled = load_labelled(dataset, split, data_dir=data_dir)
        data, fingerprint = _whole(labelled), labelled.fingerprint
        make_folder(folder)
        sheets = []
        for number, start in enumerate(range(0, len(data), PER_SHEET)):
            images = data.images[start : start + PER_SHEET]
            name = f"{split}-{number:02d}.webp"
            _write_sheet(folder / name, images)
            written += (folder / name).stat().st_size
            sheets.append({"file": name, "images": len(images), "sha256": _digest(images)})
            print(f"wrote {folder / name}: {len(images):,} images", flush=True)
        splits[split] = {"sheets": sheets, "labels": data.labels.tolist()}
    index = {
        "format": FORMAT,
        "name": dataset,
        "class_names": list(DATASETS[dataset].class_names),
        "fingerprint": fingerprint,
        "side": data.side,
        "splits": splits,
    }
    text = json.dumps(index)
    write_atomically(folder / INDEX, text)
    return written + len(text)


def _whole(labelled: LabelledData) -> Dataset:
    return labelled.source.read(np.arange(len(labelled.source)))


def read_packed(folder: str | Path, recipe: Recipe) -> Splits:
    """The data a recipe names, split as it says, as `load_splits` gives them where TFDS is.

    Raises:
        DataError: the folder holds other data, or a file is absent or damaged.
    """
    packed = read_folder(Path(folder))
    if recipe.dataset != packed.name:
        raise DataError(
            f"{folder} holds {packed.name}, and the recipe names {recipe.dataset}: name a folder "
            f"that {recipe.dataset} was packed into"
        )
    rows = split_indices(
        packed.pool.labels, recipe.split_sizes, seed=recipe.split_seed, stratified=recipe.stratified
    )
    train, validation = (packed.pool.take(each) for each in rows)
    return Splits(
        name=packed.name,
        class_names=packed.class_names,
        train=train,
        validation=validation,
        test=packed.test,
        fingerprint=packed.fingerprint,
        seed=recipe.split_seed,
        stratified=recipe.stratified,
    )


def read_folder(folder: Path) -> Packed:
    """All that `pack` wrote; each sheet's pixels are compared with their SHA-256.

    Raises:
        DataError: see `read_packed`.
    """
    try:
        index = read_json(folder / INDEX)
    except ValueError as error:
        raise DataError(f"{error}; expected what was packed here; {AGAIN}") from None
    try:
        if index["format"] != FORMAT:
            raise DataError(f"{folder / INDEX} has the format {index['format']!r}, not {FORMAT}")
        names = tuple(map(str, index["class_names"]))
        pool, test = (_read_split(folder, index, split, len(names)) for split in SPLITS)
        return Packed(str(index["name"]), names, str(index["fingerprint"]), pool, test)
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{folder / INDEX} is not as packed ({type(error).__name__}: {error}); {AGAIN}"
        ) from None


def _read_split(folder: Path, index: Mapping[str, Any], split: str, classes: int) -> Dataset:
    part, side = index["splits"][split], int(index["side"])
    labels = np.array(part["labels"], np.int32)
    if labels.ndim != 1 or not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels of {split} that are not from 0 to {classes - 1}")
    sheets = []
    for sheet in part["sheets"]:
        path = folder / Path(sheet["file"]).name
        images = _read_sheet(path, int(sheet["images"]), side)
        if _digest(images) != sheet["sha256"]:
            raise DataError(f"{path} is damaged: its pixels are not those packed; carry it again")
        sheets.append(images)
    return Dataset(np.concatenate(sheets), labels)


def _grid(count: int, side: int) -> tuple[int, int]:
    """Rows and columns of a sheet."""
    columns = max(1, min(COLUMNS, count, MAX_SIDE // side))
    return -(-count // columns), columns


def _write_sheet(path: Path, images: NDArray[np.uint8]) -> None:
    count, side = images.shape[:2]
    rows, columns = _grid(count, side)
    cells = np.zeros((rows * columns, side, side, 3), np.uint8)
    cells[:count] = images
    sheet = cells.reshape(rows, columns, side, side, 3).swapaxes(1, 2)
    picture = Image.fromarray(np.ascontiguousarray(sheet).reshape(rows * side, columns * side, 3))
    picture.save(path, "WEBP", lossless=True, method=4)


def _read_sheet(path: Path, count: int, side: int) -> NDArray[np.uint8]:
    rows, columns = _grid(count, side)
    try:
        with Image.open(path, formats=["WEBP"]) as picture:
            if picture.size != (columns * side, rows * side) or picture.mode != "RGB":
                raise DataError(f"{path} is a sheet of {picture.size} pixels in {picture.mode}")
            sheet = np.asarray(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({error}); carry it again") from None
    cells = sheet.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    return cells.reshape(rows * columns, side, side, 3)[:count]


def _digest(images: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def check(folder: Path, data_dir: Path | None = None) -> Iterator[str]:
    """Read the folder, and compare it with the library's data pixel by pixel; download nothing.

    Yields:
        A line for each split that is equal; or one that says why nothing could be compared.

    Raises:
        DataError: it is damaged, or it differs.
    """
    packed = read_folder(folder)
    yield f"{folder}: {packed.name}, every sheet has the pixels that were packed"
    for split, data in zip(SPLITS, (packed.pool, packed.test), strict=True):
        try:
            source = load_labelled(packed.name, split, data_dir=data_dir, download=False)
            there = _whole(source)
        except (DataError, ImportError) as error:
            yield f"not compared with the library's data, which are not here: {error}"
            return
        if source.fingerprint != packed.fingerprint or len(there) != len(data):
            raise DataError(f"{folder} was packed from another {packed.name}: {packed.fingerprint}")
        for what, one, other in (
            ("image", data.images, there.images),
            ("label", data.labels, there.labels),
        ):
            differing = (one != other).reshape(len(data), -1).any(axis=1)
            if differing.any():
                rows = np.flatnonzero(differing)
                raise DataError(f"{len(rows):,} {what}s of {split} differ, the first in {rows[0]}")
        yield f"{split}: {len(data):,} images and labels are those of the library"


def train(folder: Path, preset: str, settings: Mapping[str, Any], workdir: Path) -> None:
    """Begin or continue a run as `jaxcifar train` does, on the packed data.

    Raises:
        ValueError: a setting, the data or the run directory cannot be used; see `fit`.
    """
    from jaxcifar.training.fit import fit  # starts a device, which packing does not need

    recipe = recipe_of(preset, settings)
    splits = read_packed(folder, recipe)
    fit(recipe, splits, workdir=workdir, experiment=preset, resume="auto", verbose=True)


def main() -> None:
    """Pack, check or train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("pack", "check", "train"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path, metavar="DIR")
        if name == "train":
            command.add_argument("preset")
            command.add_argument("settings", nargs="*", metavar="FIELD=VALUE")
            command.add_argument("--workdir", type=Path, required=True, help="the run directory")
        else:
            command.add_argument("--data-dir", type=Path, help="of TFDS (default: $TFDS_DATA_DIR)")
        if name == "pack":
            command.add_argument("--dataset", choices=sorted(DATASETS), default="cifar10")
    parsed = parser.parse_args()
    if parsed.command == "pack":
        size = pack(parsed.folder, parsed.dataset, parsed.data_dir)
        print(f"packed {parsed.dataset} into {parsed.folder}: {size:,} bytes")
    elif parsed.command == "check":
        for line in check(parsed.folder, parsed.data_dir):
            print(line)
    else:
        train(parsed.folder, parsed.preset, read_settings(parsed.settings), parsed.workdir)


if __name__ == "__main__":
    exit_with_status(main)
