"""The pictures in a folder, listed with their state and not read.

Hidden entries are skipped, and files without the suffix of a picture. Links are followed within
the folder only, or everywhere if the user says so.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxcifar.common.errors import DataError, DataNotThereError
from jaxcifar.common.messages import warn
from jaxcifar.data.fresh import Mark, mark
from jaxcifar.data.picture_limits import MAX_BYTES

_READ = ".apng .bmp .gif .jfif .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp"
SUFFIXES = tuple(_READ.split())
# Pictures all the same: they are counted, so that nobody trains without them unawares.
_OTHER_PICTURES = (
    ".arw .avif .avifs .cr2 .cr3 .dds .dib .dng .eps .exr .hdr .heic .heics .heif .heifs .hif "
    ".icns .ico .j2c .j2k .jp2 .jpc .jpf .jpx .jxl .nef .orf .pam .pcx .pfm .psd .raf .raw .rw2 "
    ".sgi .svg .tga .xbm .xpm"
)
_UNREAD = frozenset(_OTHER_PICTURES.split())
_ALL = _UNREAD.union(SUFFIXES)
WAY_IN = "use --follow-links (follow_links=True)"
_MAX_LINES = 20


class Picture(NamedTuple):
    """A picture as it was found; of a link, what it leads to.

    Attributes:
        name: its path below the folder that was listed, with "/" on every system.
        size: bytes.
        modified, changed: times of the last change of its contents, and of anything about it, in
            nanoseconds.
        inode: which file it is.
    """

    name: str
    size: int
    modified: int
    changed: int
    inode: int

    def has_contents_of(self, other: "Picture") -> bool:
        """Whether size, time of writing and inode are the same.

        `changed` is left out: a change of rights, or a backup of hard links, changes it alone.
        """
        return (self.size, self.modified, self.inode) == (other.size, other.modified, other.inode)


def is_folder(path: Path, *, missing: str) -> bool:
    """Whether a folder is there, or leads there, and not a file.

    Raises:
        DataNotThereError: nothing is there; `missing` is the message.
        DataError: the path cannot be followed.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        raise DataNotThereError(missing) from None
    except (OSError, ValueError) as error:  # too long, no permission, a link to itself, no text
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be opened: {reason}") from None


def make_picture(name: str, status: os.stat_result) -> Picture:
    """The picture of that name, from what `os.stat` says."""
    return Picture(name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Listing:
    """Lists what is below `root`, and remembers what it met.

    Attributes:
        root: an existing folder, with links in its own path resolved.
        follow_links: whether links out of `root` and links to folders are followed.
        marks: every folder that was listed.
        unread: how many pictures of each suffix are in a format that is not read.
        loose: how many pictures lie beside the folders that `folders` named.
        problems: what stands in the way, one line each; see `check`.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        """Nothing is listed yet."""
        self.root, self.follow_links = root, follow_links
        self.marks: list[Mark] = []
        self.unread: Counter[str] = Counter()
        self.loose = 0
        self.problems: list[str] = []
        self._prefix = len(os.path.join(root, ""))

    def folders(self, folder: Path) -> tuple[str, ...]:
        """The names of the folders in a folder, sorted; pictures beside them count as loose.

        Raises:
            DataError: `folder` cannot be read.
        """
        names = []
        for entry in self._entries(folder):
            if entry.is_dir():
                names.append(entry.name)
            else:
                self.loose += _suffix(entry.name) in _ALL
        return tuple(sorted(names))

    def pictures(self, folder: Path) -> list[Picture]:
        """The pictures in a folder and those in it: folder by folder, by name within each.

        That is the order of torchvision's ImageFolder.

        Raises:
            DataError: a folder cannot be read, or a link leads round in a circle.
        """
        above = [*folder.parents][: len(folder.relative_to(self.root).parts)]
        found = self._walk(os.fspath(folder), tuple(map(_identity, above)))
        return sorted(found, key=lambda picture: os.path.split(picture.name))

    def check(self) -> None:
        """Raise what stood in the way, all at once.

        Raises:
            DataError: a link may not be followed, or a file cannot be a picture.
        """
        if self.problems:
            raise one_error(f"{self.root} cannot be used:", self.problems)

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Picture]:
        if _identity(folder) in above:
            raise DataError(
                f"{folder} leads back to a folder that it lies in, by a link; remove that link"
            )
        for entry in self._entries(folder):
            if entry.is_dir():
                yield from self._walk(entry.path, (*above, _identity(folder)))
            elif (suffix := _suffix(entry.name)) in SUFFIXES:
                yield from self._picture(entry)
            elif suffix in _UNREAD:
                self.unread[suffix] += 1

    def _picture(self, entry: "os.DirEntry[str]") -> Iterator[Picture]:
        if not entry.is_file():  # reading a pipe would block, reading a device never end
            self.problems.append(f"{entry.path} is not a regular file, nor a link to one")
            return
        status = entry.stat()
        if status.st_size > MAX_BYTES:
            self.problems.append(
                f"{entry.path} has {status.st_size:,} bytes, more than the limit of {MAX_BYTES:,}"
            )
            return
        name = entry.path[self._prefix :].replace(os.sep, "/")
        yield make_picture(name, status)

    def _entries(self, folder: str | Path) -> "list[os.DirEntry[str]]":
        """The entries of a folder that are not hidden; not the links that may not be followed."""
        try:
            self.marks.append(mark(folder))
            with os.scandir(folder) as scanned:
                entries = [entry for entry in scanned if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
        return [entry for entry in entries if not entry.is_symlink() or self._may_follow(entry)]

    def _may_follow(self, entry: "os.DirEntry[str]") -> bool:
        """A link out of `root` could show any file of the machine."""
        problem = self._problem_of_link(entry)
        if problem:
            self.problems.append(f"{entry.path} is a link {problem}")
        return problem is None

    def _problem_of_link(self, entry: "os.DirEntry[str]") -> str | None:
        try:
            inside = Path(entry.path).resolve(strict=True).is_relative_to(self.root)
        except (OSError, RuntimeError) as error:  # RuntimeError: it leads back to itself
            return f"to nothing: {error}"
        if self.follow_links:
            return None
        if not inside:
            return f"that leaves {self.root}; to follow links, {WAY_IN}"
        if entry.is_dir():
            return f"to a folder; put the folder itself there, or to follow links, {WAY_IN}"
        return None


def warn_unread(name: str, unread: Mapping[str, int], loose: int = 0) -> None:
    """Say in one line which pictures are not used, if any.

    Args:
        name: where they are.
        unread: how many of each suffix.
        loose: how many lie outside the class folders.
    """
    parts = []
    if unread:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(unread.items()))
        parts.append(f"{kinds} (formats that are not read; convert them to PNG or JPEG)")
    if loose:
        parts.append(f"{loose:,} outside the class folders (move them into one)")
    if parts:
        warn(f"{name} has pictures that are not used: {'; '.join(parts)}", stacklevel=3)


def unread_note(unread: Mapping[str, int]) -> str:
    """The end of an error about a folder without pictures that are read."""
    names = " ".join(sorted(unread))
    return f"; {names} are not read: convert them to PNG or JPEG" if names else ""


def one_error(start: str, problems: list[str]) -> DataError:
    """One problem in one line; several in lines of their own after `start`, at most 20."""
    if len(problems) == 1:
        return DataError(problems[0])
    rest = len(problems) - _MAX_LINES
    more = [f"  and {rest:,} more"] if rest > 0 else []
    return DataError(start, *(f"  {problem}" for problem in problems[:_MAX_LINES]), *more)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
