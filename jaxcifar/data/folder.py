"""A folder of pictures by class, in the layout of torchvision's ImageFolder.

`PATH/train/CLASS/*.jpg` and `PATH/test/CLASS/*.jpg`, and perhaps `PATH/val/CLASS/*.jpg` to validate
on; without `PATH/test`, `PATH/val` stands for it. (`PATH/valid` and `PATH/validation` are other
names of `PATH/val`.) A class may have subfolders. Classes and pictures are in ImageFolder's order,
by name.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, absolute_path
from jaxcifar.common.messages import printable
from jaxcifar.data.contents import file_digests
from jaxcifar.data.damage import PictureSource
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.fresh import Kept, Mark, mark
from jaxcifar.data.listing import (
    SUFFIXES,
    WAY_IN,
    Listing,
    Picture,
    is_folder,
    make_picture,
    unread_note,
)
from jaxcifar.data.picture_limits import MAX_BYTES

PREFIX = "folder:"
MAX_NAME = 4_096  # characters of a dataset's name
_VALIDATION = ("val", "valid", "validation")
_SPLITS = ("train", "test", *_VALIDATION)
_LAYOUT = f"it must hold train/CLASS/ and test/CLASS/ (or val/CLASS/) with {' '.join(SUFFIXES)}"


@dataclass(frozen=True, eq=False)
class SplitFiles:
    """The pictures of one split, listed but not read.

    Attributes:
        root: the folder's.
        pictures: class by class; their names are the paths below `root`.
        labels: int32 `[n]`.
    """

    root: Path
    pictures: tuple[Picture, ...]
    labels: NDArray[np.int32]

    @property
    def files(self) -> tuple[str, ...]:
        """The path of each picture below `root`."""
        return tuple(picture.name for picture in self.pictures)


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of pictures, listed but not read.

    Attributes:
        name: "folder:PATH".
        class_names: in label order, which is alphabetical.
        splits: "train", "test" and perhaps "validation"; or the one that was asked for.
        unread, loose: pictures that are not used: see `listing.warn_unread`.
        marks: all folders that were listed.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitFiles]
    unread: Mapping[str, int]
    loose: int
    marks: tuple[Mark, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The number of pictures in each split."""
        return {split: len(files.pictures) for split, files in self.splits.items()}

    @property
    def side(self) -> None:
        """Pictures in a folder have several sizes."""
        return None

    @property
    def state(self) -> str:
        """The folder, and a SHA-256 of the name, size, times and inode of each picture."""
        digest = hashlib.sha256(repr(self.class_names).encode("utf-8", "surrogatepass"))
        for picture in self._pictures():
            name, *status = picture
            digest.update(os.fsencode(name) + f"\0{status}\n".encode())
        return f"{self.root} {digest.hexdigest()}"

    @property
    def names_and_sizes(self) -> str | None:
        """The fingerprint of earlier versions, by names and sizes only.

        None if they used other pictures: they did not validate on `PATH/val`.
        """
        if "validation" in self.splits:
            return None
        sizes = hashlib.sha256()
        for picture in sorted(self._pictures()):
            sizes.update(f"{picture.size}  ".encode() + os.fsencode(picture.name) + b"\0")
        return sizes.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the class names, and of the path and the contents of each picture.

        It reads all pictures, once for each `state`.

        Raises:
            DataError: one cannot be read, or changes meanwhile.
        """
        files = [picture.name for picture in self._pictures()]
        digests = file_digests(self.name, self.state, self.root, files, self.check_unchanged)
        whole = hashlib.sha256()
        for name in self.class_names:
            whole.update(os.fsencode(name) + b"\0")
        for file, digest in zip(files, digests, strict=True):
            whole.update(b"\0" + os.fsencode(file) + b"\0" + digest.tobytes())
        return whole.hexdigest()

    def sources(self, side: int) -> dict[str, "FolderSource"]:
        """The pictures of each split, `side` pixels high and wide."""
        return {split: FolderSource(files, side) for split, files in self.splits.items()}

    def check_unchanged(self) -> None:
        """Look at each picture again.

        Raises:
            DataError: one is not as it was listed.
        """
        for picture in self._pictures():
            path = os.path.join(self.root, picture.name)
            try:
                now = make_picture(picture.name, os.stat(path))
            except OSError as error:
                raise DataError(f"a picture cannot be read: {path}: {error.strerror}") from None
            if now != picture:
                raise DataError(f"{path} changed while the pictures were read; load them again")

    def _pictures(self) -> Iterator[Picture]:
        for files in self.splits.values():
            yield from files.pictures


@dataclass(frozen=True, eq=False)
class FolderSource(PictureSource):
    """The pictures of one split as images of `side` pixels, decoded as they are read."""

    split: SplitFiles
    side: int

    @property
    def title(self) -> str:
        """The folder of the split."""
        first = self.split.files[0].split("/")[0]
        return str(self.split.root / first)

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`."""
        return self.split.labels

    def try_read(self, rows: NDArray[np.int64], /) -> tuple[Dataset, list[str]]:
        """See `PictureSource.try_read`."""
        from jaxcifar.common.errors import ImageFileError

        images = np.zeros((len(rows), self.side, self.side, 3), np.uint8)
        faults = []
        for image, row in zip(images, rows, strict=True):
            try:
                image[...] = _decode(self.split.root, self.split.pictures[row], self.side)
            except (ImageFileError, OSError) as error:
                faults.append(str(error))
        return Dataset(images, self.split.labels[rows]), faults


def _decode(root: Path, picture: Picture, side: int) -> NDArray[np.uint8]:
    from jaxcifar.common.errors import ImageFileError
    from jaxcifar.data.image_file import decode_square

    path = root / picture.name
    with path.open("rb") as file:
        if not make_picture(picture.name, os.fstat(file.fileno())).has_contents_of(picture):
            raise ImageFileError(f"{path} changed after the folder was read: load it again")
        data = file.read(MAX_BYTES + 1)
    return decode_square(data, side, str(path))


def located(name: str) -> str:
    """A dataset's name that holds in any working directory.

    Args:
        name: of any dataset; that of a folder gets `~` expanded and its path absolute. Links in it
            are not resolved. Other names are returned as they are.

    Raises:
        DataError: there is no path, or it leads nowhere; see `files.absolute_path`.
    """
    if not name.startswith(PREFIX):
        return name
    path = name.removeprefix(PREFIX)
    if not path:
        raise DataError("name a folder of pictures folder:PATH")
    if len(name) > MAX_NAME:
        raise DataError(
            f"the dataset's name has {len(name):,} characters, more than the limit of {MAX_NAME:,}"
        )
    try:
        return f"{PREFIX}{absolute_path(path)}"
    except Unusable as error:
        raise DataError(f"the dataset {printable(name)} cannot be found: {error}") from None


_kept: Kept[Folder] = Kept()


def find_folder(name: str, *, follow_links: bool = False) -> Folder:
    """List the folder of "folder:PATH", anew.

    Args:
        name: the dataset's.
        follow_links: whether links to folders, and links out of the folder, are followed.

    Raises:
        DataError: there is no such folder, or it does not have pictures by class.
    """
    place = located(name)
    return _kept.keep((place, follow_links), _list_folder(place, follow_links))


def known_folder(name: str, *, follow_links: bool = False) -> Folder:
    """As `find_folder`, but listed anew only if a folder in it may have changed.

    The numbers and names of pictures are as they are now, their sizes and times may be old.
    """
    place = located(name)
    return _kept.get((place, follow_links), lambda: _list_folder(place, follow_links))


def find_split(name: str, split: str, *, follow_links: bool = False) -> Folder:
    """List one split of "folder:PATH", whose own folders are the classes.

    Args:
        name: the dataset's.
        split: `PATH/split` is listed; for "validation" also `PATH/val` or `PATH/valid`. For "test"
            that if there is a train but no test folder, and `PATH` itself if it has no splits.
        follow_links: as in `find_folder`.

    Raises:
        DataError: there is no such split (the message names those that are there), or it does not
            have pictures by class.
    """
    place = located(name)
    path, root = _find_root(place)
    if not split or split.startswith(".") or set(split) & {"/", "\\", "\0", os.sep}:
        raise DataError(f"a split is named by one word, such as test, not {split!r}")
    there = [known for known in _SPLITS if _is_split(root / known)]
    listing = Listing(root, follow_links=follow_links)
    listing.marks.append(mark(path))
    # Without a test folder, a folder to train on has its test images in val, as in `find_folder`.
    stands_in = split == "test" and "train" in there and not os.path.lexists(root / split)
    if (split == "validation" or stands_in) and not (root / split).is_dir():
        folder = root / (_validation_name(root) or split)
    else:
        folder = root / split
    if not os.path.lexists(folder) and split == "test" and not there:
        folder = root
    elif not folder.is_dir():
        raise DataError(
            f"{path} has no split {split}; it has the splits {', '.join(there) or 'none'}"
        )
    _check_link(folder, follow_links)
    names = listing.folders(folder)
    listing.check()
    if not names:
        raise DataError(f"{folder} has no class folder with pictures ({' '.join(SUFFIXES)})")
    return _make_folder(place, listing, names, {split: folder})


def _find_root(place: str) -> tuple[Path, Path]:
    """The path as it was given, and with its links resolved."""
    path = Path(place.removeprefix(PREFIX))
    if not is_folder(path, missing=f"there is no folder {path}; {_LAYOUT}"):
        raise DataError(f"{path} is not a folder; {_LAYOUT}")
    return path, path.resolve()


def _list_folder(place: str, follow_links: bool) -> Folder:
    path, root = _find_root(place)
    listing = Listing(root, follow_links=follow_links)
    # Both: the first may be a link that will lead elsewhere.
    listing.marks += mark(path), mark(root)
    validation = _validation_name(root)
    has_test = os.path.lexists(root / "test")
    splits = {"train": root / "train", "test": root / ("test" if has_test else validation or "val")}
    if has_test and validation:
        splits["validation"] = root / validation
    for folder in splits.values():
        if not folder.is_dir():
            raise DataError(f"{path} has no folder {folder.name}; {_LAYOUT}")
        _check_link(folder, follow_links)
    names = {split: listing.folders(folder) for split, folder in splits.items()}
    listing.check()
    if not names["train"]:
        raise DataError(f"{splits['train']} has no class folder; {_LAYOUT}")
    for split, others in names.items():
        _check_same_classes(names["train"], others, splits[split])
    return _make_folder(place, listing, names["train"], splits)


def _is_split(folder: Path) -> bool:
    """Whether it holds class folders: a folder of pictures called valid may be a class."""
    try:
        if not folder.is_dir():
            return False
        if folder.name in ("train", "test"):
            return True
        with os.scandir(folder) as inside:
            return any(entry.is_dir() and not entry.name.startswith(".") for entry in inside)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from None


def _validation_name(root: Path) -> str | None:
    there = [name for name in _VALIDATION if os.path.lexists(root / name)]
    there = [name for name in there if not (root / name).is_file()]
    if len(there) > 1:
        raise DataError(f"{root} has both {' and '.join(there)}; only one can be validated on")
    return there[0] if there else None


def _check_link(split: Path, follow_links: bool) -> None:
    if split.is_symlink() and not follow_links:
        raise DataError(
            f"{split} is a link; put the folder itself there, or to follow links, {WAY_IN}"
        )


def _make_folder(
    place: str, listing: Listing, names: Sequence[str], splits: Mapping[str, Path]
) -> Folder:
    found = {
        split: [listing.pictures(folder / name) for name in names]
        for split, folder in splits.items()
    }
    listing.check()
    for split, classes in found.items():
        # Not of those that are only validated on: there, a warning says which are missing.
        if split != "validation" or "train" not in splits or not any(classes):
            _check_not_empty(splits[split], names, classes, listing)
    return Folder(
        place,
        listing.root,
        tuple(names),
        {split: _split_files(listing.root, classes) for split, classes in found.items()},
        listing.unread,
        listing.loose,
        tuple(listing.marks),
    )


def _check_not_empty(
    split: Path, names: Sequence[str], classes: list[list[Picture]], listing: Listing
) -> None:
    empty = [str(split / name) for name, files in zip(names, classes, strict=True) if not files]
    if empty:
        note = unread_note(listing.unread)
        some = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise DataError(f"{some} has no pictures ({' '.join(SUFFIXES)}){note}")


def _split_files(root: Path, classes: list[list[Picture]]) -> SplitFiles:
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in classes])
    return SplitFiles(root, tuple(picture for files in classes for picture in files), labels)


def _check_same_classes(train: Sequence[str], other: Sequence[str], other_folder: Path) -> None:
    """An additional class would shift the labels of those after it."""
    differing = [
        f"{problem} {', '.join(some[:5])}{', ...' if len(some) > 5 else ''}"
        for problem, some in (
            ("lacks the class", sorted(set(train) - set(other))),
            ("has a class that train lacks:", sorted(set(other) - set(train))),
        )
        if some
    ]
    if differing:
        text = " and ".join(differing)
        raise DataError(f"{other_folder} {text}; both need the same class folders")
