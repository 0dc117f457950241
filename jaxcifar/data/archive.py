"""The original CIFAR archives, read from the tar stream without unpacking anything to disk.

There are two versions with the same images (https://www.cs.toronto.edu/~kriz/cifar.html):

- binary: `data_batch_{1..5}.bin` and `test_batch.bin`, each 10,000 records of one label byte and
  3,072 pixel bytes (32x32 red, then green, then blue), and `batches.meta.txt`, a class name a line;
- python: the same six batches and `batches.meta` as Python 2 pickles of a dictionary with `data`
  (uint8 `[10000, 3072]`) and `labels` (a list).

Those of CIFAR-100 have the batches `train` (50,000 images) and `test` (10,000). A binary record
begins with the coarse and the fine label, a python batch has the lists `fine_labels` and
`coarse_labels`; the names are in `fine_label_names.txt` and `coarse_label_names.txt`, or in `meta`.

An archive may come from anywhere, so nothing in it is trusted: sizes are limited before a byte is
kept, and pickles cannot run code, see `batch_pickle`.
"""

import gzip
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable, reason_of, shown
from jaxcifar.data.batch_pickle import PickledArray, unpickle
from jaxcifar.data.cifar_format import PIXELS, SIDE, CifarFormat, LabelSet, TwiceLabelled
from jaxcifar.data.dataset import Dataset

_SMALL_MEMBER = 1 << 16  # readme.html and the class names are 88 and 61 bytes
_CHUNK = 1 << 16
_OVERHEAD = 1 << 20  # headers, padding and read-ahead; the originals have 20 kB of them
_MAX_HEADER = 1 << 12  # of an extended header, such as one for a long name


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class _Kind:
    """One of the two versions of a CIFAR archive."""

    suffix: str
    bytes_per_record: int  # an upper bound: pickles also hold a file name of about 40 bytes
    read_batch: Callable[[str, bytes, int, CifarFormat], Dataset]
    names_file: Callable[[CifarFormat, LabelSet], str]
    read_names: Callable[[str, bytes, LabelSet], tuple[str, ...]]

    def limits(self, form: CifarFormat) -> dict[str, int]:
        """The most bytes each expected member may have."""
        small = 0 if self.suffix else _SMALL_MEMBER
        batches = {
            name: records * self.bytes_per_record + small
            for name, records in form.batches(self.suffix).items()
        }
        names = (self.names_file(form, label_set) for label_set in form.labels)
        return batches | dict.fromkeys(names, _SMALL_MEMBER)


def read_archive(path: Path, form: CifarFormat) -> dict[str, Dataset]:
    """Read "train" and "test" of a binary or python CIFAR archive; member names tell which it is.

    Other members are ignored if they are regular files of at most 64 KiB (the originals have a
    `readme.html`); otherwise the archive is refused.

    Returns:
        The data of both splits; of CIFAR-100 they are `TwiceLabelled`.

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
            f"({reason_of(error)}); it is damaged or something else, "
            "so download it again"
        ) from error
    _check_names(path, form, kind, members)
    batches = [
        kind.read_batch(f"{name} in {path}", members.pop(name), records, form)
        for name, records in form.batches(kind.suffix).items()
    ]
    contents = {"train": _join(batches[:-1]), "test": batches[-1]}
    _check_hierarchy(path, contents)
    return contents


def _check_names(path: Path, form: CifarFormat, kind: _Kind, members: dict[str, bytes]) -> None:
    for label_set in form.labels:
        file = kind.names_file(form, label_set)
        names = kind.read_names(f"{file} in {path}", members[file], label_set)
        if names != label_set.class_names:
            raise DataError(
                f"{file} in {path} names the classes {printable(', '.join(names))}; expected "
                f"{printable(', '.join(label_set.class_names))}"
            )


def _join(batches: Sequence[Dataset]) -> Dataset:
    if len(batches) == 1:
        return batches[0]
    return Dataset(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )


def _check_hierarchy(path: Path, contents: Mapping[str, Dataset]) -> None:
    """A fine class belongs to one coarse class, in both splits."""
    coarse_of: dict[int, int] = {}
    for split, data in contents.items():
        if isinstance(data, TwiceLabelled):
            for fine, coarse in np.unique([data.labels, data.coarse], axis=1).T.tolist():
                if coarse_of.setdefault(fine, coarse) != coarse:
                    raise DataError(
                        f"{path} has images of the fine label {fine} with the coarse labels "
                        f"{coarse_of[fine]} and {coarse} ({split}); expected one"
                    )


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

    def __init__(self, stream: _Readable, path: Path, title: str) -> None:
        self._stream, self._left, self._path, self._title = stream, _OVERHEAD, path, title

    def expect(self, size: int) -> None:
        """Allow the next member to be read."""
        self._left += size

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._path} unpacks to more than {self._title} can hold; refused")
        return data


def _read_members(path: Path, form: CifarFormat) -> tuple[_Kind, dict[str, bytes]]:
    """The expected members by name, each present exactly once."""
    members: dict[str, bytes] = {}
    archive_kind: _Kind | None = None
    with gzip.open(path) as unzipped:
        stream = _Bounded(unzipped, path, form.title)
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
                    raise DataError(
                        f"{path} mixes the binary and the python version of {form.title}"
                    )
                if name in members:
                    raise DataError(f"{path} holds {name} twice; refused")
                archive_kind = kind
                file = tar.extractfile(member)
                assert file is not None  # None only for members that _check_member refuses
                members[name] = file.read()
    if archive_kind is None:
        raise DataError(
            f"{path} holds no {form.title} batches; expected the archive "
            f"{form.title.lower()}-binary.tar.gz or {form.title.lower()}-python.tar.gz"
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


def _check_labels(name: str, labels: Sequence[int] | NDArray[np.uint8], classes: int) -> None:
    low, high = min(labels), max(labels)
    if not 0 <= low <= high < classes:
        raise DataError(f"{name} has labels from {low} to {high}; expected 0 to {classes - 1}")


def _to_dataset(pixels: NDArray[np.uint8], labels: Sequence[NDArray[np.int32]]) -> Dataset:
    """Pixels `[n, 3072]`, channels first, to images `[n, 32, 32, 3]`."""
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return Dataset(images, labels[0]) if len(labels) == 1 else TwiceLabelled(images, *labels)


def _read_binary_batch(name: str, data: bytes, count: int, form: CifarFormat) -> Dataset:
    record = len(form.labels) + PIXELS
    size = count * record
    if len(data) != size:
        raise DataError(f"{name} has {len(data):,} bytes; {count:,} images take exactly {size:,}")
    records = np.frombuffer(data, np.uint8).reshape(count, record)
    labels = []
    for i, label_set in enumerate(form.labels):
        column = records[:, len(form.labels) - 1 - i]  # the coarse label comes first
        _check_labels(name, column, len(label_set.class_names))
        labels.append(column.astype(np.int32))
    return _to_dataset(records[:, len(labels) :], labels)


def _read_binary_names(name: str, data: bytes, label_set: LabelSet) -> tuple[str, ...]:
    del name, label_set  # a file has the names of one kind of label
    return tuple(data.decode("ascii", "replace").split())


def _read_python_batch(name: str, data: bytes, count: int, form: CifarFormat) -> Dataset:
    batch = unpickle(name, data)
    pixels = batch.get(b"data")
    if not isinstance(pixels, PickledArray) or pixels.shape != (count, PIXELS):
        raise DataError(f"{name} has no uint8 `data` of {count:,} x {PIXELS:,} pixels")
    labels = []
    for label_set in form.labels:
        values, key = batch.get(label_set.key), label_set.key.decode()
        if not isinstance(values, list) or not all(type(label) is int for label in values):
            raise DataError(f"{name} has no list of whole numbers named `{key}`")
        if len(values) != count:
            raise DataError(f"{name} has {len(values):,} {key} for {count:,} images")
        _check_labels(name, values, len(label_set.class_names))
        labels.append(np.array(values, np.int32))
    return _to_dataset(pixels.values(), labels)


def _read_python_names(name: str, data: bytes, label_set: LabelSet) -> tuple[str, ...]:
    names = unpickle(name, data).get(label_set.names_key)
    if not isinstance(names, list) or not all(isinstance(each, bytes) for each in names):
        raise DataError(f"{name} has no list of strings named `{label_set.names_key.decode()}`")
    return tuple(each.decode("ascii", "replace") for each in names)


_KINDS = (
    _Kind(
        ".bin", 2 + PIXELS, _read_binary_batch, lambda _, each: each.names_file, _read_binary_names
    ),
    _Kind("", PIXELS + 200, _read_python_batch, lambda form, _: form.meta, _read_python_names),
)
