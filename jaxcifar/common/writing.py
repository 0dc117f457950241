"""Write files so that nothing is lost: in one step, durably, and never through a link.

A file is written under a name that nobody can foresee and then renamed into place. A process that
is killed leaves such a file behind; the next write into the folder removes it, and nothing else
minds it.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # see `lock.hold`
# In `os.open`: not through a link, and no waiting for the other end of a pipe.
_OWN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_HELD = (errno.EAGAIN, errno.EACCES)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Replace a file: whenever the process or the machine dies, it holds the old or the new data.

    A link at `path` is replaced, not followed.

    Raises:
        OSError: naming `path`.
    """
    try:
        remove_leftovers(path.parent)
        temporary, descriptor = _create(path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(descriptor)
                if fcntl is None:
                    file.close()  # Windows renames no open file
                # The open file is locked: until it has its name, nobody takes it for a leftover.
                os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def append_line(path: Path, line: str) -> None:
    """Append a line to a file of our own, and sync it to the disk; the file is made if needed.

    Raises:
        OSError: naming `path`; it is a link, for instance.
    """
    try:
        descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with open(descriptor, "ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def open_own(path: Path, flags: int) -> int:
    """The descriptor of a file of our own, opened by its name.

    Raises:
        OSError: it is a link, a pipe or the like, which we never make; or cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _OWN, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _not_own(path, "a link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_own(path, "a pipe, a device or the like")
    return descriptor


def _not_own(path: Path, kind: str) -> OSError:
    text = f"it is {kind}, through which nothing is written: remove it"
    return OSError(errno.ELOOP, text, str(path))


def make_folder(path: Path) -> list[Path]:
    """Make a folder and its missing parents, durably.

    Returns:
        Those that were made, the innermost first.

    Raises:
        OSError: one cannot be made.
    """
    missing = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    return missing


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to the disk, where the system supports it: names are durable
    only then.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network disks cannot, and a folder may be writable but not readable.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`, and itself."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def remove(path: Path) -> None:
    """Remove a file, a whole folder, or a link and not what it leads to; nothing may be there.

    Raises:
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what killed processes of ours may leave."""
    return all(name == LOCK or _is_leftover(name) for name in os.listdir(folder))


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of killed processes; what a living one writes stays."""
    with suppress(OSError):
        for name in filter(_is_leftover, os.listdir(folder)):
            with suppress(OSError):
                _remove_unless_held(folder / name)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file; the system unlocks it when it is closed, or its process ends.

    Returns:
        False if another process holds it, None if the system or the disk has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _create(folder: Path) -> tuple[Path, int]:
    """A new file, open and locked."""
    while True:
        temporary = folder / f".jaxcifar-{secrets.token_hex(16)}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OWN, 0o666)
        # Before it was locked, another process may have taken it for a leftover.
        if try_lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)


def _is_leftover(name: str) -> bool:
    return re.fullmatch(r"\.jaxcifar-[0-9a-f]{32}\.tmp", name) is not None


def _remove_unless_held(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | _OWN)
    try:
        if try_lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)
