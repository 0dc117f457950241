"""The original CIFAR-10 archives, read from the tar stream without unpacking anything to disk.

There are two versions with the same images (https://www.cs.toronto.edu/~kriz/cifar.html):

- binary: `data_batch_{1..5}.bin` and `test_batch.bin`, each 10,000 records of one label byte and
  3,072 pixel bytes (32x32 red, then green, then blue), and `batches.meta.txt`, a class name a line;
- python: the same six batches and `batches.meta` as Python 2 pickles of a dictionary with `data`
  (uint8 `[10000, 3072]`) and `labels` (a list).

An archive may come from anywhere, so nothing in it is trusted: sizes are limited before a byte is
kept, and pickles cannot run code, see `batch_pickle`.
"""

import gzip
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable, shown
from jaxcifar.data.batch_pickle import PickledArray, unpickle
from jaxcifar.data.dataset import Dataset

SIDE = 32
PIXELS = 3 * SIDE * SIDE
_SMALL_MEMBER = 1 << 16  # readme.html and the class names are 88 and 61 bytes
_CHUNK = 1 << 16
_OVERHEAD = 1 << 20  # headers, padding and read-ahead; the originals have 20 kB of them
_MAX_HEADER = 1 << 12  # of an extended header, such as one for a long name


@dataclass(frozen=True)
class CifarFormat:
    """How much a CIFAR archive holds; the tests read archives with fewer records.

    Attributes:
        records: images in one batch.
        train_batches: training batches; there is always one test batch.
        class_names: the class names that the archive must give.
    """

    records: int
    train_batches: int
    class_names: tuple[str, ...]

    @property
    def train_records(self) -> int:
        """Number of training images."""
        return self.records * self.train_batches

    def batches(self, suffix: str) -> tuple[str, ...]:
        """Member names of the training batches in order, then of the test batch."""
        train = (f"data_batch_{i + 1}{suffix}" for i in range(self.train_batches))
        return (*train, f"test_batch{suffix}")


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class _Kind:
    """One of the two versions of a CIFAR archive."""

    suffix: str
    meta: str
    bytes_per_record: int  # an upper bound: pickles also hold a file name of about 40 bytes
    read_batch: Callable[[str, bytes, CifarFormat], Dataset]
    read_meta: Callable[[str, bytes], tuple[str, ...]]

    def limits(self, form: CifarFormat) -> dict[str, int]:
        """The most bytes each expected member may have."""
        batch = form.records * self.bytes_per_record + (_SMALL_MEMBER if not self.suffix else 0)
        return dict.fromkeys(form.batches(self.suffix), batch) | {self.meta: _SMALL_MEMBER}


def read_archive(path: Path, form: CifarFormat) -> dict[str, Dataset]:
    """Read "train" and "test" of a binary or python CIFAR archive; member names tell which it is.

    Other members are ignored if they are regular files of at most 64 KiB (the originals have a
    `readme.html`); otherwise the archive is refused.

    Raises:
        DataError: the archive is cut short, or anything in it is not as expected.
    """
    try:
        kind, members = _read_members(path, form)
    except DataError:
        raise
    except Exception as error:  # a hostile archive can raise anything
        raise DataError(
            f"{path} cannot be read as a gzip-compressed tar archive "
            f"({printable(str(error) or type(error).__name__)}); it is damaged or something else, "
            "so download it again"
        ) from error
    names = kind.read_meta(f"{kind.meta} in {path}", members.pop(kind.meta))
    if names != form.class_names:
        raise DataError(
            f"{kind.meta} in {path} names the classes {printable(', '.join(names))}; expected "
            f"{', '.join(form.class_names)}"
        )
    batches = [
        kind.read_batch(f"{name} in {path}", members.pop(name), form)
        for name in form.batches(kind.suffix)
    ]
    train = Dataset(
        np.concatenate([batch.images for batch in batches[:-1]]),
        np.concatenate([batch.labels for batch in batches[:-1]]),
    )
    return {"train": train, "test": batches[-1]}


def max_bytes(form: CifarFormat) -> int:
    """No archive of the format unpacks to more, and gzip makes nothing larger."""
    return max(sum(kind.limits(form).values()) for kind in _KINDS) + _OVERHEAD


class _Header(tarfile.TarInfo):
    """A member's header. tarfile parses an extended one in quadratic time (CVE-2024-6232)."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and header.size > _MAX_HEADER:
            raise tarfile.ReadError(f"it has a header of {header.size:,} bytes")
        return header


_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Bounded:
    """A stream that returns the expected members and little else.

    It stops a decompression bomb, and millions of headers, which tarfile would keep in memory.
    """

    def __init__(self, stream: _Readable, path: Path) -> None:
        self._stream, self._left, self._path = stream, _OVERHEAD, path

    def expect(self, size: int) -> None:
        """Allow the next member to be read."""
        self._left += size

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._path} unpacks to more than CIFAR-10 can hold; refused")
        return data


def _read_members(path: Path, form: CifarFormat) -> tuple[_Kind, dict[str, bytes]]:
    """The expected members by name, each present exactly once."""
    members: dict[str, bytes] = {}
    archive_kind: _Kind | None = None
    with gzip.open(path) as unzipped:
        stream = _Bounded(unzipped, path)
        with tarfile.open(
            # In stream mode it only calls `read`.
            fileobj=stream,  # type: ignore[call-overload]
            mode="r|",
            bufsize=_CHUNK,
            tarinfo=_Header,
        ) as tar:
            for member in tar:
                _check_member(member, path)
                if member.isdir():
                    continue
                name = PurePosixPath(member.name).name
                kind = next((kind for kind in _KINDS if name in kind.limits(form)), None)
                _check_size(member, kind.limits(form)[name] if kind else _SMALL_MEMBER, path)
                stream.expect(member.size)
                if kind is None:
                    continue
                if archive_kind not in (None, kind):
                    raise DataError(f"{path} mixes the binary and the python version of CIFAR-10")
                if name in members:
                    raise DataError(f"{path} holds {name} twice; refused")
                archive_kind = kind
                file = tar.extractfile(member)
                assert file is not None  # None only for members that _check_member refuses
                members[name] = file.read()
    if archive_kind is None:
        raise DataError(
            f"{path} holds no CIFAR-10 batches; expected the archive cifar-10-binary.tar.gz or "
            "cifar-10-python.tar.gz"
        )
    missing = sorted(archive_kind.limits(form).keys() - members.keys())
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    return archive_kind, members


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    """Refuse members that no CIFAR archive has and a hostile one might have."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(
            f"{path} has a member that points outside of it, {shown(member.name)}; refused"
        )
    regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not regular and not member.isdir():
        raise DataError(
            f"{path} has a member that is a link, a device or the like, {shown(member.name)}; "
            "refused"
        )


def _check_size(member: tarfile.TarInfo, limit: int, path: Path) -> None:
    if member.size > limit:
        raise DataError(
            f"{shown(member.name)} in {path} has {member.size:,} bytes, more than the limit of "
            f"{limit:,}; refused"
        )


def _check_labels(name: str, labels: Sequence[int] | NDArray[np.uint8], form: CifarFormat) -> None:
    low, high, classes = min(labels), max(labels), len(form.class_names)
    if not 0 <= low <= high < classes:
        raise DataError(f"{name} has labels from {low} to {high}; expected 0 to {classes - 1}")


def _to_dataset(pixels: NDArray[np.uint8], labels: NDArray[np.int32]) -> Dataset:
    """Pixels `[n, 3072]`, channels first, to images `[n, 32, 32, 3]`."""
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return Dataset(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def _read_binary_batch(name: str, data: bytes, form: CifarFormat) -> Dataset:
    size = form.records * (1 + PIXELS)
    if len(data) != size:
        raise DataError(
            f"{name} has {len(data):,} bytes; {form.records:,} images take exactly {size:,}"
        )
    records = np.frombuffer(data, np.uint8).reshape(form.records, 1 + PIXELS)
    _check_labels(name, records[:, 0], form)
    return _to_dataset(records[:, 1:], records[:, 0].astype(np.int32))


def _read_binary_meta(name: str, data: bytes) -> tuple[str, ...]:
    return tuple(data.decode("ascii", "replace").split())


def _read_python_batch(name: str, data: bytes, form: CifarFormat) -> Dataset:
    batch = unpickle(name, data)
    pixels, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(pixels, PickledArray) or pixels.shape != (form.records, PIXELS):
        raise DataError(f"{name} has no uint8 `data` of {form.records:,} x {PIXELS:,} pixels")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{name} has no list of whole numbers named `labels`")
    if len(labels) != form.records:
        raise DataError(f"{name} has {len(labels):,} labels for {form.records:,} images")
    _check_labels(name, labels, form)
    return _to_dataset(pixels.values(), np.array(labels, np.int32))


def _read_python_meta(name: str, data: bytes) -> tuple[str, ...]:
    names = unpickle(name, data).get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(each, bytes) for each in names):
        raise DataError(f"{name} has no list of strings named `label_names`")
    return tuple(each.decode("ascii", "replace") for each in names)


_KINDS = (
    _Kind(".bin", "batches.meta.txt", 1 + PIXELS, _read_binary_batch, _read_binary_meta),
    _Kind("", "batches.meta", PIXELS + 200, _read_python_batch, _read_python_meta),
)
