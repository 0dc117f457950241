"""Keep other processes out of a folder while it is written."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, ENOSPC, EPERM
from pathlib import Path

from jaxcifar.common.errors import RunError
from jaxcifar.common.messages import warn
from jaxcifar.common.writing import LOCK, fcntl, make_folder, open_own, try_lock

_LONG = 3.0  # seconds, after which a process says that it waits


@contextmanager
def hold(folder: Path, other: str = "--workdir") -> Iterator[None]:
    """Keep other processes from writing a run, a sweep or a report; the folder is made if needed.

    The system holds the lock and releases it when the process ends, however it ends. Check before
    it that the folder belongs to nothing else, and again inside it, in case that changed. Does
    nothing if the system or the disk has no locks. A folder that was made and stays empty is
    removed.

    Args:
        folder: gets a file ``.lock`` as long as it is held.
        other: the option that names another folder, for messages.

    Raises:
        RunError: another process holds the lock, or the folder cannot be written.
    """
    try:
        made, descriptor = _enter(folder, other)
    except OSError as error:
        raise RunError(cannot_write(folder, error, other)) from error
    try:
        yield
    finally:
        if descriptor is not None:
            _release(folder / LOCK, descriptor)
        _remove_if_empty(made)


@contextmanager
def wait_for_turn(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Wait until no other process holds the folder in this way; False if that is unknown.

    Warns once if it has to wait for long. With `wait=False` it does not wait, and the answer is
    False.

    The lock is on the folder itself, so it leaves no file and ends with its process. Without it
    (Windows, some network disks) two processes do the same work, and a rename at its end decides.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        alone = try_lock(descriptor)
        since = time.monotonic()
        while alone is False and wait and time.monotonic() - since < _LONG:
            time.sleep(0.02)
            alone = try_lock(descriptor)
        if alone is False and wait:
            warn(f"another process works in {folder}: waiting for it; Ctrl-C stops", stacklevel=3)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        yield bool(alone)
    finally:
        os.close(descriptor)


def cannot_write(folder: Path, error: OSError, other: str = "--workdir") -> str:
    """Why a folder cannot be written, and the way out."""
    inside = str(error.filename or folder).removeprefix(f"{folder}{os.sep}")
    where = "" if inside == str(folder) else f"; {inside}"
    return f"{folder} cannot be written ({error.strerror}{where}): {_way_out(error, other)}"


def _way_out(error: OSError, other: str) -> str:
    if error.errno in (ENOSPC, EDQUOT):  # a run that is there can go on only where it is
        return "free some space there, then try again"
    if error.errno in (EACCES, EPERM):
        return f"make it writable, or choose another {other}"
    return f"choose another {other}"


def in_use(folder: Path, other: str = "--workdir") -> str | None:
    """What to say if another process holds the folder, else None; nothing is changed."""
    with suppress(OSError):
        descriptor = open_own(folder / LOCK, os.O_RDWR)
        try:
            if try_lock(descriptor) is False and _holder(descriptor) != str(os.getpid()):
                return _in_use(folder, descriptor, other)
        finally:
            os.close(descriptor)
    return None


def surely_free(folder: Path) -> bool:
    """Whether no other process can hold the folder; False where the system or disk has no locks."""
    if fcntl is None:
        return False
    try:
        descriptor = open_own(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return True  # who holds it has made the file
    except OSError:
        return False
    try:
        locked = try_lock(descriptor)
        return bool(locked) or (locked is False and _holder(descriptor) == str(os.getpid()))
    finally:
        os.close(descriptor)


def _in_use(folder: Path, descriptor: int, other: str) -> str:
    holder = _holder(descriptor)
    who = f" (pid {holder})" if holder.isdecimal() else ""
    return f"{folder} is in use by another process{who}: wait for it, or choose another {other}"


def _holder(descriptor: int) -> str:
    """What the lock file says, which is the holder's process id."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 32).decode("ascii", "replace").strip()


def _enter(folder: Path, other: str) -> tuple[list[Path], int | None]:
    """Make and lock the folder: those that were made, and the descriptor of the lock."""
    while True:
        made = make_folder(folder)
        if fcntl is None:
            return made, None
        try:
            return made, _acquire(folder, other)
        except FileNotFoundError:  # whoever held it has just removed the folder, which was empty
            if folder.is_symlink():
                raise
        except OSError:
            _remove_if_empty(made)
            raise


def _acquire(folder: Path, other: str) -> int:
    """Open the lock file and lock it; closing the descriptor unlocks it."""
    path = folder / LOCK
    while True:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        locked = try_lock(descriptor)
        if locked is None:
            return descriptor  # a disk without locks
        if not locked:
            text = _in_use(folder, descriptor, other)
            os.close(descriptor)
            raise RunError(text)
        # The previous holder may have removed the file after we opened and before we locked it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                break
        os.close(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError:  # a full disk has room for the name, and not for what is in it
        _release(path, descriptor)
        raise
    return descriptor


def _release(path: Path, descriptor: int) -> None:
    # Remove it before unlocking: whoever opens it from now on makes a new one.
    with suppress(OSError):
        path.unlink()
    os.close(descriptor)


def _remove_if_empty(made: list[Path]) -> None:
    """Remove folders, the innermost first, up to one that holds something."""
    with suppress(OSError):
        for path in made:
            path.rmdir()
