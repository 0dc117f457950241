"""Keep other processes out of a folder while it is written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxcifar.common.errors import RunError
from jaxcifar.common.writing import LOCK, fcntl, make_folder, open_own, try_lock


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
        made = make_folder(folder)
        descriptor = None if fcntl is None else _acquire(folder, other)
    except OSError as error:
        raise RunError(cannot_write(folder, error, other)) from error
    try:
        yield
    finally:
        if descriptor is not None:
            # Remove it before unlocking: whoever opens it from now on makes a new one.
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(descriptor)
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def wait_for_turn(folder: Path) -> Iterator[bool]:
    """Wait until no other process holds the folder in this way; False if that is unknown.

    The lock is on the folder itself, so it leaves no file and ends with its process. Without it
    (Windows, some network disks) two processes do the same work, and a rename at its end decides.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def cannot_write(folder: Path, error: OSError, other: str = "--workdir") -> str:
    """Why a folder cannot be written."""
    where = f"{error.filename}: " if error.errno == errno.ELOOP else ""
    return f"{folder} cannot be written ({where}{error.strerror}): choose another {other}"


def _acquire(folder: Path, other: str) -> int:
    """Open the lock file and lock it; closing the descriptor unlocks it."""
    path = folder / LOCK
    while True:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        locked = try_lock(descriptor)
        if locked is None:
            return descriptor  # a disk without locks
        if not locked:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f" (pid {holder})" if holder.isdecimal() else ""
            raise RunError(
                f"{folder} is in use by another process{who}: wait for it, or choose another "
                f"{other}"
            )
        # The previous holder may have removed the file after we opened and before we locked it.
        with suppress(FileNotFoundError):
            status = os.fstat(descriptor)
            if not os.path.samestat(status, path.lstat()):
                pass
            elif status.st_nlink > 1:  # it is somebody's file under another name, too
                path.unlink()
            else:
                break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
