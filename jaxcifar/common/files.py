"""Bounded reads of files that may come from anyone, and where the cache is."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import MessageError
from jaxcifar.common.messages import printable

# Bytes. A config.json has 3,000, and parsed JSON takes up to 25 times the memory of its file.
MAX_JSON = 4 << 20


class Unusable(MessageError):
    """A file cannot be used; the message names it and says why."""


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The contents of a regular file of at most `max_bytes`.

    Raises:
        Unusable: it does not exist, is larger, or is not a regular file (reading a pipe would
            block, reading a device would never end).
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
            with path.open("rb") as file:
                return file.read(status.st_size)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise Unusable(f"{printable(str(path), 4_096)} cannot be read: {reason}") from None
    if stat.S_ISREG(status.st_mode):
        raise Unusable(f"{path} has {status.st_size:,} bytes, more than the limit of {max_bytes:,}")
    kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or the like"
    raise Unusable(f"{path} is {kind}, not a file")


def read_json(path: Path, max_bytes: int = MAX_JSON) -> Any:
    """The JSON value in a file.

    Raises:
        Unusable: as `read_bytes`, or it is not JSON.
    """
    return parse_json(read_bytes(path, max_bytes), str(path))


def parse_json(data: bytes, name: str) -> Any:
    """The JSON value in `data`; the error message calls it `name`.

    Raises:
        Unusable: it is not JSON, or is nested more deeply than Python can parse.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise Unusable(f"{name} cannot be read as JSON: it is nested too deeply") from None
    except ValueError as error:  # from UTF-8, from JSON, and from numbers of thousands of digits
        raise Unusable(f"{name} cannot be read as JSON: {error}") from None


def absolute_path(text: str | os.PathLike[str]) -> Path:
    """A path from outside with `~` expanded, absolute, and its links not resolved.

    Raises:
        Unusable: it has a NUL, its `~` leads nowhere, or it is relative and the working directory
            is gone.
    """
    path = os.fspath(text)
    if "\0" in path:
        raise Unusable(f"the path {printable(path, 4_096)} has a NUL, which no path can have")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = expanded.split(os.sep)[0]
        raise Unusable(
            f"the path {path} begins with {user}, but there is no home folder of that user: write "
            f"the whole path, or ./{path} for a file of that name"
        )
    try:
        return Path(os.path.abspath(expanded))
    except OSError as error:
        raise Unusable(
            f"the path {path} is relative, and the working directory cannot be found "
            f"({error.strerror}): write the whole path"
        ) from None


def cache_folder() -> Path:
    """`$JAXCIFAR_CACHE_DIR`, else `$XDG_CACHE_HOME/jaxcifar`, else `~/.cache/jaxcifar`.

    Raises:
        OSError: the one that is set leads nowhere, or no home is known; with what to set.
    """
    own, base = os.environ.get("JAXCIFAR_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if base and not own:
        return Path(base) / "jaxcifar"
    try:
        # Not `Path.expanduser`, which takes ./~x for ~x.
        return absolute_path(own) if own else Path.home() / ".cache" / "jaxcifar"
    except Unusable as error:
        raise OSError(f"JAXCIFAR_CACHE_DIR: {error}") from None
    except RuntimeError:  # HOME is not set and the user has no entry
        raise OSError(
            "no home folder is known, as HOME is not set: set JAXCIFAR_CACHE_DIR"
        ) from None


def is_full(error: BaseException) -> bool:
    """Whether an error says that this machine's disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_of_disk(error: BaseException) -> bool:
    """Whether an error is of this machine's disk: full, read-only, or not the user's.

    A firewall refuses connections with the numbers of the last, too, but names no file.
    """
    if not isinstance(error, OSError):
        return False
    refused = error.errno in (errno.EACCES, errno.EPERM) and error.filename is not None
    return is_full(error) or refused or error.errno == errno.EROFS
