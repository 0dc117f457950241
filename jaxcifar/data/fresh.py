"""What was found on disk, kept as long as the folders and files it was found in are the same."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

# Nanoseconds. A change right after the one that was seen may leave the same time: disks count in
# steps of up to 2 seconds (FAT).
_SETTLED = 2_000_000_000


class Mark(NamedTuple):
    """A folder or file as it was found.

    Attributes:
        path: where it is; links are followed.
        device, inode: which one it is.
        changed: time of its last change, nanoseconds.
        settled: whether that was long enough ago for a later change to have another time.
    """

    path: str
    device: int
    inode: int
    changed: int
    settled: bool


def mark(path: str | os.PathLike[str]) -> Mark:
    """Look at a folder or file, before it is read.

    Raises:
        OSError: it is not there.
    """
    now, status = time.time_ns(), os.stat(path)
    settled = status.st_mtime_ns < now - _SETTLED
    return Mark(os.fspath(path), status.st_dev, status.st_ino, status.st_mtime_ns, settled)


def unchanged(marks: Iterable[Mark]) -> bool:
    """Whether everything is surely as it was found."""
    try:
        return all(seen.settled and mark(seen.path)[:4] == seen[:4] for seen in marks)
    except (OSError, ValueError):
        return False


class Found(Protocol):
    """Anything that says where it was found."""

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All that it was read from."""


F = TypeVar("F", bound=Found)


@dataclass(eq=False)
class Kept(Generic[F]):
    """The last few things that were found, by key; several threads may use it.

    Attributes:
        most: how many are kept.
    """

    most: int = 8

    def __post_init__(self) -> None:
        self._found: OrderedDict[Hashable, F] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, find: Callable[[], F]) -> F:
        """What is kept under `key` if it is unchanged; else what `find` returns now."""
        with self._lock:
            found = self._found.get(key)
        if found is None or not unchanged(found.marks):
            found = self.keep(key, find())
        return found

    def keep(self, key: Hashable, found: F) -> F:
        """Keep what was found just now, and return it."""
        with self._lock:
            self._found[key] = found
            self._found.move_to_end(key)
            while len(self._found) > self.most:
                self._found.popitem(last=False)
        return found
