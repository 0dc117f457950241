"""Write files so that nothing is lost: in one step, durably, and never through a link.

A file is written under a name that nobody can foresee and then renamed into place. A process that
is killed leaves such a file behind, which counts as nothing; the next write into the folder
removes it.
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
        if path.is_file() and path.lstat().st_nlink > 1:  # in a backup of hard links, for instance
            write_atomically(path, path.read_bytes() + line.encode() + b"\n")
            return
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
        OSError: it is a link (a hard one, too), a pipe or the like, which we never make; or it
            cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _OWN, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _not_own(path, "a link") from None
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink < 2:
        return descriptor
    os.close(descriptor)
    regular = stat.S_ISREG(status.st_mode)
    raise _not_own(path, "also another file" if regular else "a pipe, a device or the like")


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
    if path.is_symlink() and not path.exists():
        raise OSError(errno.ELOOP, "it is a link to nothing", str(path))
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
        # Network disks answer in many ways that they cannot, and a folder may be writable but not
        # readable. What is wrong with the disk itself is raised.
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT):
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


def remove_at_once(folder: Path) -> None:
    """Remove a whole folder; killed meanwhile, it is there as it was or not at all.

    Raises:
        OSError: it cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        remove(folder)
        return
    going = folder.with_name(_new_name())
    os.rename(folder, going)
    shutil.rmtree(going)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what killed processes of ours may leave."""
    return all(map(is_left_by_us, os.listdir(folder)))


def is_left_by_us(name: str) -> bool:
    """Whether a file or folder of this name is what a killed process of ours may leave."""
    return name == LOCK or _is_leftover(name)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished; what a living one writes stays.

    On a disk without locks nothing can tell the two apart, and unfinished files stay.
    """
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
        temporary = folder / _new_name()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OWN, 0o666)
        # Before it was locked, another process may have taken it for a leftover.
        if try_lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)


def _new_name() -> str:
    return f".jaxcifar-{secrets.token_hex(16)}.tmp"


def _is_leftover(name: str) -> bool:
    return re.fullmatch(r"\.jaxcifar-[0-9a-f]{32}\.tmp", name) is not None


def _remove_unless_held(path: Path) -> None:
    if path.is_symlink() or path.is_dir():  # planted, or a folder on its way out
        remove(path)
        return
    descriptor = os.open(path, os.O_RDONLY | _OWN)
    try:
        if try_lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)
