"""A folder of pictures by class, in the layout of torchvision's ImageFolder.

`PATH/train/CLASS/*.jpg` and `PATH/test/CLASS/*.jpg` (`PATH/val` if there is no `PATH/test`). A
class may have subfolders. Hidden entries, and files without the suffix of a picture, are ignored.
Classes and pictures are in ImageFolder's order, which is by name.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.data.dataset import Dataset

PREFIX = "folder:"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class SplitFiles:
    """The pictures of "train" or "test", listed but not read.

    Attributes:
        root: the folder's.
        files: the path of each picture below `root`, class by class.
        labels: int32 `[n]`.
    """

    root: Path
    files: tuple[str, ...]
    labels: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of pictures, listed but not read.

    Attributes:
        class_names: in label order, which is alphabetical.
        splits: "train" and "test".
        fingerprint: SHA-256 (hex) of the names and sizes of all pictures.
        state: the folder, the fingerprint, and the times at which the pictures were last changed.
    """

    class_names: tuple[str, ...]
    splits: dict[str, SplitFiles]
    fingerprint: str
    state: str


@dataclass(frozen=True, eq=False)
class FolderSource:
    """The pictures of one split as images of `side` pixels, decoded as they are read."""

    split: SplitFiles
    side: int

    def __len__(self) -> int:
        return len(self.split.files)

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`."""
        return self.split.labels

    def read(self, rows: NDArray[np.int64], /) -> Dataset:
        """The given rows: see `image_file.decode_square`.

        Raises:
            DataError: a picture is gone, damaged, or too large.
        """
        images = np.empty((len(rows), self.side, self.side, 3), np.uint8)
        for image, row in zip(images, rows, strict=True):
            image[...] = _decode(self.split.root / self.split.files[row], self.side)
        return Dataset(images, self.split.labels[rows])


def _decode(path: Path, side: int) -> NDArray[np.uint8]:
    from jaxcifar.common.errors import ImageFileError
    from jaxcifar.data.image_file import MAX_BYTES, decode_square

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return decode_square(data, side, str(path))
    except (ImageFileError, OSError) as error:
        raise DataError(f"a picture cannot be read: {error}") from error


def find_folder(name: str) -> Folder:
    """List the folder of "folder:PATH"; each folder is listed once in a process.

    Raises:
        DataError: there is no such folder, or it does not have pictures by class.
    """
    path = name.removeprefix(PREFIX)
    if not path:
        raise DataError("name a folder of pictures folder:PATH")
    return _list_folder(Path(path).expanduser().absolute())


@lru_cache(maxsize=8)
def _list_folder(path: Path) -> Folder:
    layout = f"it must hold train/CLASS/ and test/CLASS/ (or val/CLASS/) with {' '.join(SUFFIXES)}"
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; {layout}")
    test_name = "test" if (path / "test").exists() else "val"
    root = path.resolve()
    train, test = root / "train", root / test_name
    for split in (train, test):
        if not split.is_dir():
            raise DataError(f"{path} has no folder {split.name}; {layout}")
        if split.is_symlink():
            raise DataError(f"{split} is a link; put the folder itself there")
    names = _class_names(train, root)
    if not names:
        raise DataError(f"{train} has no class folder; {layout}")
    _check_same_classes(names, _class_names(test, root), test)
    listed = {"train": _list_split(train, names, root), "test": _list_split(test, names, root)}
    sizes, times = hashlib.sha256(), hashlib.sha256()
    for file in sorted(file for files in listed.values() for file in files):
        sizes.update(f"{file.size}  ".encode() + os.fsencode(file.name) + b"\0")
        times.update(f"{file.changed}\n".encode())
    return Folder(
        names,
        {
            split: SplitFiles(
                root,
                tuple(file.name for file in files),
                np.array([file.label for file in files], np.int32),
            )
            for split, files in listed.items()
        },
        sizes.hexdigest(),
        f"{root} {sizes.hexdigest()} {times.hexdigest()}",
    )


def _class_names(split: Path, root: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in _entries(split, root) if entry.is_dir()))


def _check_same_classes(train: tuple[str, ...], test: tuple[str, ...], test_folder: Path) -> None:
    """An additional class would shift the labels of those after it."""
    for names, others, problem in (
        (train, test, "lacks the class"),
        (test, train, "has a class that train lacks:"),
    ):
        differing = sorted(set(names) - set(others))
        if differing:
            some = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
            raise DataError(f"{test_folder} {problem} {some}; both need the same class folders")


@dataclass(frozen=True, order=True)
class _File:
    name: str  # below the root, with "/" on every system
    label: int
    size: int
    changed: int  # nanoseconds


def _list_split(split: Path, names: tuple[str, ...], root: Path) -> list[_File]:
    listed = []
    for label, name in enumerate(names):
        files = list(_pictures(split / name, root, label))
        if not files:
            raise DataError(f"{split / name} has no pictures ({' '.join(SUFFIXES)})")
        # ImageFolder's order: folder by folder, by name within each.
        listed += sorted(files, key=lambda file: os.path.split(file.name))
    return listed


def _pictures(folder: Path, root: Path, label: int) -> Iterator[_File]:
    from jaxcifar.data.image_file import MAX_BYTES

    for entry in _entries(folder, root):
        if entry.is_dir():
            yield from _pictures(Path(entry.path), root, label)
        elif entry.name.lower().endswith(SUFFIXES):
            if not entry.is_file():  # reading a pipe would block, reading a device never end
                raise DataError(f"{entry.path} is not a regular file, nor a link to one")
            status = entry.stat()
            if status.st_size > MAX_BYTES:
                raise DataError(
                    f"{entry.path} has {status.st_size:,} bytes, more than the limit of "
                    f"{MAX_BYTES:,}"
                )
            name = Path(entry.path).relative_to(root).as_posix()
            yield _File(name, label, status.st_size, status.st_mtime_ns)


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden.

    Raises:
        DataError: there is a link out of `root`, which could show any file of the machine; or a
            link to a folder, which could lead round in circles.
    """
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}") from error
    for entry in entries:
        if not entry.is_symlink():
            continue
        try:
            inside = Path(entry.path).resolve(strict=True).is_relative_to(root)
        except (OSError, RuntimeError) as error:  # RuntimeError: it leads back to itself
            raise DataError(f"{entry.path} is a link to nothing: {error}") from error
        if not inside:
            raise DataError(f"{entry.path} is a link that leaves {root}; refused")
        if entry.is_dir():
            raise DataError(f"{entry.path} is a link to a folder; put the folder itself there")
    return entries
