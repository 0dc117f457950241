"""The original CIFAR-10 archives, read from the tar stream without unpacking anything.

Two of them hold the same images (https://www.cs.toronto.edu/~kriz/cifar.html):

- binary: `data_batch_{1..5}.bin` and `test_batch.bin`, each 10,000 records of one label byte and
  3,072 pixel bytes (32x32 red, then green, then blue), and `batches.meta.txt`, a class name a line;
- python: the same six batches and `batches.meta` as Python 2 pickles of a dictionary with `data`
  (uint8 `[10000, 3072]`) and `labels` (a list).

An archive may come from anywhere, so nothing in it is trusted: sizes are bounded before a byte is
kept, and a pickle reaches no code but the two stand-ins below.
"""

import gzip
import io
import math
import pickle
import pickletools
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable, shown
from jaxcifar.data.dataset import Dataset

SIDE = 32
PIXELS = 3 * SIDE * SIDE
_SMALL_MEMBER = 1 << 16  # readme.html and the class names are 88 and 61 bytes
_CHUNK = 1 << 16
_OVERHEAD = 1 << 20  # headers, padding and what is read ahead; the originals have 20 kB of them
_LONGEST_HEADER = 1 << 12  # of the extended ones, such as for a long name
_MOST_TUPLES = 20  # in the pickle of a batch; the originals have 7
_LARGEST_INT = 1 << 32


@dataclass(frozen=True)
class CifarFormat:
    """How much a CIFAR archive holds; the tests read archives with fewer records.

    Attributes:
      records: images in one batch.
      train_batches: training batches; there is always one test batch.
      class_names: what the archive must name its classes.
    """

    records: int
    train_batches: int
    class_names: tuple[str, ...]

    @property
    def train_records(self) -> int:
        """Training images in all."""
        return self.records * self.train_batches

    def batches(self, suffix: str) -> tuple[str, ...]:
        """Member names of the training batches in order, then of the test batch."""
        train = (f"data_batch_{i + 1}{suffix}" for i in range(self.train_batches))
        return (*train, f"test_batch{suffix}")


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class _Kind:
    """One of the two ways of writing a CIFAR archive."""

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
    """Reads "train" and "test" of a binary or python CIFAR archive, told apart by its names.

    Members that belong to neither version are ignored when they are plain files of at most 64 KiB
    (the originals have a `readme.html`), and refuse the archive otherwise.

    Raises:
      DataError: anything in the archive is not as it should be, or it is cut short.
    """
    try:
        kind, members = _read_members(path, form)
    except DataError:
        raise
    except Exception as error:  # a made-up archive can raise whatever it likes
        raise DataError(
            f"{path} cannot be read as a gzip-compressed tar archive "
            f"({printable(str(error) or type(error).__name__)}); it is damaged or something else, "
            "so fetch it again."
        ) from error
    names = kind.read_meta(f"{kind.meta} in {path}", members.pop(kind.meta))
    if names != form.class_names:
        raise DataError(
            f"{kind.meta} in {path} names the classes {printable(', '.join(names))}; expected "
            f"{', '.join(form.class_names)}."
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


def most_bytes(form: CifarFormat) -> int:
    """No archive of the format unpacks to more, and gzip makes nothing larger."""
    return max(sum(kind.limits(form).values()) for kind in _KINDS) + _OVERHEAD


class _Header(tarfile.TarInfo):
    """A member's header. tarfile searches an extended one in quadratic time (CVE-2024-6232)."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and header.size > _LONGEST_HEADER:
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
    """A stream that gives the members that are expected and little else: the end of a
    decompression bomb, and of headers by the million, which tarfile would keep.
    """

    def __init__(self, stream: _Readable, path: Path) -> None:
        self._stream, self._left, self._path = stream, _OVERHEAD, path

    def expect(self, size: int) -> None:
        """The next member may be read."""
        self._left += size

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._path} unpacks to more than CIFAR-10 can hold; refused.")
        return data


def _read_members(path: Path, form: CifarFormat) -> tuple[_Kind, dict[str, bytes]]:
    """The expected members by name, each there exactly once."""
    members: dict[str, bytes] = {}
    found: _Kind | None = None
    with gzip.open(path) as unzipped:
        stream = _Bounded(unzipped, path)
        with tarfile.open(
            # It asks for nothing but `read` in stream mode.
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
                if found not in (None, kind):
                    raise DataError(f"{path} mixes the binary and the python version of CIFAR-10.")
                if name in members:
                    raise DataError(f"{path} holds {name} twice; refused.")
                found = kind
                file = tar.extractfile(member)
                assert file is not None  # None only for what _check_member refuses
                members[name] = file.read()
    if found is None:
        raise DataError(
            f"{path} holds no CIFAR-10 batches; expected the archive cifar-10-binary.tar.gz or "
            "cifar-10-python.tar.gz."
        )
    missing = sorted(found.limits(form).keys() - members.keys())
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}.")
    return found, members


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    """Refuses what no CIFAR archive has and a hostile one might."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(
            f"{path} has a member that points outside of it, {shown(member.name)}; refused."
        )
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not plain and not member.isdir():
        raise DataError(
            f"{path} has a member that is a link, a device or the like, {shown(member.name)}; "
            "refused."
        )


def _check_size(member: tarfile.TarInfo, limit: int, path: Path) -> None:
    if member.size > limit:
        raise DataError(
            f"{shown(member.name)} in {path} has {member.size:,} bytes, where at most {limit:,} "
            "can be right; refused."
        )


def _check_labels(what: str, labels: Sequence[int] | NDArray[np.uint8], form: CifarFormat) -> None:
    low, high, classes = min(labels), max(labels), len(form.class_names)
    if not 0 <= low <= high < classes:
        raise DataError(f"{what} has labels from {low} to {high}; expected 0 to {classes - 1}.")


def _to_dataset(pixels: NDArray[np.uint8], labels: NDArray[np.int32]) -> Dataset:
    """Pixels `[n, 3072]`, channels first, to images `[n, 32, 32, 3]`."""
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return Dataset(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def _read_binary_batch(what: str, data: bytes, form: CifarFormat) -> Dataset:
    size = form.records * (1 + PIXELS)
    if len(data) != size:
        raise DataError(
            f"{what} has {len(data):,} bytes; {form.records:,} images take exactly {size:,}."
        )
    records = np.frombuffer(data, np.uint8).reshape(form.records, 1 + PIXELS)
    _check_labels(what, records[:, 0], form)
    return _to_dataset(records[:, 1:], records[:, 0].astype(np.int32))


def _read_binary_meta(what: str, data: bytes) -> tuple[str, ...]:
    return tuple(data.decode("ascii", "replace").split())


def _read_python_batch(what: str, data: bytes, form: CifarFormat) -> Dataset:
    batch = _unpickle(what, data)
    pixels, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(pixels, _Array) or pixels.shape != (form.records, PIXELS):
        raise DataError(f"{what} has no uint8 `data` of {form.records:,} x {PIXELS:,} pixels.")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{what} has no list of whole numbers named `labels`.")
    if len(labels) != form.records:
        raise DataError(f"{what} has {len(labels):,} labels for {form.records:,} images.")
    _check_labels(what, labels, form)
    return _to_dataset(pixels.values(), np.array(labels, np.int32))


def _read_python_meta(what: str, data: bytes) -> tuple[str, ...]:
    names = _unpickle(what, data).get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{what} has no list of strings named `label_names`.")
    return tuple(name.decode("ascii", "replace") for name in names)


class _Dtype:
    """Stands in for `numpy.dtype` in a pickle: remembers the name, and that is all."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass  # byte order and the like, which one-byte pixels do not have


class _Array:
    """Stands in for `numpy.ndarray` in a pickle: NumPy never sees a pickle's arguments."""

    shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, self._fortran, self._bytes = state
        if not isinstance(dtype, _Dtype) or dtype.code not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array that is not of uint8")
        # The product of a number and a string is a long string.
        if type(shape) is not tuple or not all(type(size) is int for size in shape):
            raise pickle.UnpicklingError("an array whose shape is not made of numbers")
        if type(self._bytes) is not bytes or len(self._bytes) != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of {shape} with other than so many bytes")
        self.shape = tuple(shape)

    def values(self) -> NDArray[np.uint8]:
        flat = np.frombuffer(self._bytes, np.uint8)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")


def _stand_in_for_reconstruct(*_: object) -> _Array:
    return _Array()


# numpy.core is what Python 2 wrote into the original batches, numpy._core what NumPy 2 writes.
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _stand_in_for_reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _stand_in_for_reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, strings and arrays; any other name is refused."""

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _check_opcodes(data: bytes) -> None:
    """Refuses a pickle that would take the unpickler much more than its size in memory or time.

    - It allots its memo up to the highest number: ten bytes took 2 GB and 9 s.
    - A tuple of tuples that is used as a key is hashed until the stack ends (a crash), or for ever.
    - Of long integers a file may choose a million with one hash, for a dictionary's keys.

    This costs 0.1 s a batch.
    """
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if not 0 <= int(argument or 0) <= len(data):
                raise pickle.UnpicklingError(f"a memo of {argument:,} entries")
        elif isinstance(argument, int) and abs(argument) > max(_LARGEST_INT, len(data)):
            raise pickle.UnpicklingError("a huge number")
        tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
        if tuples > _MOST_TUPLES:
            raise pickle.UnpicklingError(f"more than {_MOST_TUPLES} tuples")


def _unpickle(what: str, data: bytes) -> dict[Any, Any]:
    try:
        _check_opcodes(data)
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a made-up pickle can raise whatever it likes
        raise DataError(
            f"{what} is not the pickle of a CIFAR-10 batch ({printable(str(error))}); refused."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{what} is not the pickle of a dictionary; refused.")
    return value


_KINDS = (
    _Kind(".bin", "batches.meta.txt", 1 + PIXELS, _read_binary_batch, _read_binary_meta),
    _Kind("", "batches.meta", PIXELS + 200, _read_python_batch, _read_python_meta),
)
