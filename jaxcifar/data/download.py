"""Download of one file from several mirrors, resumed where an earlier try stopped.

Received bytes are kept in `NAME.part`, which becomes `NAME` only if its SHA-256 is the pinned one,
so a wrong or hostile mirror costs time and nothing else.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import get_logger, printable, reason_of
from jaxcifar.common.progress import progress_bar
from jaxcifar.common.writing import make_folder, open_own, sync_folder

_log = get_logger(__name__)
_CHUNK = 1 << 16
_ANY_RATE = 0.0  # for a slow mirror that is tried again because nothing faster is left


@dataclass(frozen=True)
class Remote:
    """A file with a known size and SHA-256 (hex), and its mirrors, best first."""

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Patience:
    """How long to wait for a mirror.

    Attributes:
        timeout: seconds without a byte, when connecting or later.
        give_up: seconds in total after which no further mirror is tried if none has sent a byte:
            five silent mirrors with several addresses each would otherwise take minutes.
        slow: bytes per second; a mirror slower than this over its first `slow_after` seconds is
            left for the next one. The original host was seen at 55 kB/s, which is 50 minutes for
            CIFAR-10.
        slow_after: seconds.
    """

    timeout: float = 6.0
    give_up: float = 30.0
    slow: float = 200e3
    slow_after: float = 15.0


class _Failed(Exception):
    """A mirror cannot be used; the message says why."""


class _Cut(_Failed):
    """The connection broke; the mirror may continue from there."""


class _Slow(_Failed):
    """The mirror works, but another may be faster."""


class _WrongBytes(_Failed):
    """The whole file arrived, and it is another file."""


def fetch(
    remote: Remote, folder: Path, *, patience: Patience | None = None, progress: bool = True
) -> Path:
    """Download a file into `folder`, unless it is already there, and return its path.

    Raises:
        DataError: no mirror has the file; the message gives each mirror's reason. The bytes
            received stay in `NAME.part` for the next try.
        OSError: `folder` cannot be written.
    """
    patience = patience or Patience()
    make_folder(folder)
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    if target.is_file() and sha256_of(target) == remote.sha256:
        return target
    started, size_before = time.monotonic(), _size(part)
    queue = deque((url, patience.slow) for url in remote.urls)
    failures: list[str] = []
    while queue:
        url, slow = queue.popleft()
        host = urlsplit(url).hostname
        if time.monotonic() - started > patience.give_up and _size(part) == size_before:
            failures.append(f"{host}: not tried, as {patience.give_up:.0f} s had passed")
            continue
        try:
            _fetch_from(url, remote, part, slow if queue else _ANY_RATE, patience, progress)
        except _Slow as failure:
            queue.append((url, _ANY_RATE))
            _log.info("%s: %s; trying another mirror", host, failure)
        except _Failed as failure:
            failures.append(f"{host}: {failure}")
            _log.info("%s: %s", host, failure)
        else:
            part.replace(target)
            sync_folder(folder)
            return target
    raise DataError(f"{remote.name} could not be downloaded ({'; '.join(failures)})")


def _fetch_from(
    url: str, remote: Remote, part: Path, slow: float, patience: Patience, progress: bool
) -> None:
    """Fill `part` from one mirror, reconnecting after a cut as long as each try brings something.

    Raises:
        _Failed: `part` keeps the bytes that may still be useful.
    """
    restarted = False
    while True:
        before = _size(part)
        try:
            if before < remote.size:
                _receive(url, remote, part, slow, patience, progress)
            _check(remote, part)
            return
        except _Cut:
            if _size(part) <= before:
                raise
        except _WrongBytes:
            # The bytes of an earlier try, perhaps from another mirror, may be the wrong ones.
            part.unlink()
            if restarted or not before:
                raise
            restarted = True


def _receive(
    url: str, remote: Remote, part: Path, slow: float, patience: Patience, progress: bool
) -> None:
    """Request the bytes that `part` lacks once, and append those received."""
    have = _size(part)
    headers = {"User-Agent": "jaxcifar", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=patience.timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _Failed(f"HTTP {error.code} {printable(str(error.reason))}") from error
    except urllib.error.URLError as error:
        raise _Failed(printable(str(error.reason))) from error
    # ValueError: from an address that it was redirected to.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Failed(reason_of(error)) from error
    with response:
        start = _start_of(response, have, remote)
        with (
            open(open_own(part, os.O_RDWR | os.O_CREAT), "r+b") as file,
            progress_bar(
                remote.name, remote.size, unit="B", enabled=progress, initial=start
            ) as bar,
        ):
            file.truncate(start)
            file.seek(start)
            started = time.monotonic()
            received = 0
            while chunk := _read(response):
                # One byte too many is enough to know that it is another file.
                file.write(chunk[: remote.size + 1 - start - received])
                received += len(chunk)
                bar.update(len(chunk))
                if start + received > remote.size:
                    break
                elapsed = time.monotonic() - started
                if elapsed > patience.slow_after and received < slow * elapsed:
                    raise _Slow(f"only {received / elapsed / 1e3:.0f} kB/s")
    if start + received < remote.size:
        raise _Cut(f"the connection ended after {start + received:,} of {remote.size:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(reason_of(error)) from error


def _start_of(response: http.client.HTTPResponse, have: int, remote: Remote) -> int:
    """Where in the file the answer begins: a server may ignore the range and send everything.

    Raises:
        _Failed: the answer is about a file of another size, such as an error page.
    """
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "no range")
        same_size = content_range.endswith((f"/{remote.size}", "/*"))
        if not (content_range.startswith(f"bytes {have}-") and same_size):
            raise _Failed(f"asked for the bytes from {have:,} on, it answered {content_range!r}")
        return have
    length = response.headers.get("Content-Length")
    if length is not None and length != str(remote.size):
        raise _Failed(f"it offers {length} bytes, but the file has {remote.size:,}")
    return 0


def _check(remote: Remote, part: Path) -> None:
    digest = sha256_of(part)
    if digest != remote.sha256:
        raise _WrongBytes(f"the file it sent has SHA-256 {digest}, expected {remote.sha256}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
