"""Files written by `torch.save`, read without PyTorch and without running what they ask for.

Two formats (https://github.com/pytorch/pytorch/blob/main/torch/serialization.py):

- zip, since PyTorch 1.6: uncompressed entries NAME/data.pkl, NAME/data/KEY for each storage, and
  some small ones, of which NAME/byteorder matters;
- a stream, before: the pickles of a magic number, a protocol number, a dictionary about the
  machine, the object, and a list of storage keys; then for each key its count of numbers (int64)
  and the numbers. Older files of torchvision have it, such as resnet18-5c106cde.pth.

The tensors' numbers are looked at where they were read, so that a file cannot ask for more memory
than it has bytes (twice that for bfloat16): tensors that share a storage share memory.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights.dtypes import ITEM_SIZE, decode
from jaxcifar.models.weights.torch_pickle import (
    MOST_BYTES,
    Machine,
    Refused,
    Storage,
    Tensor,
    shown,
)

ZIP_START = b"PK\x03\x04"
# The last record: signature, numbers, bytes of the list of contents, its place, of a comment.
_ZIP_END = struct.Struct("<4s8sL4sH")
# What PyTorch writes before it: a record with the same in 64 bits, and where that is.
_ZIP64_END = struct.Struct("<4s36sQ8s4s16s")
_MOST_CONTENTS = 4 << 20  # bytes of that list; ResNet-152's has 0.1 MB, and zipfile takes 10 times
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MEMBERS = ("state_dict", "model_state_dict", "model")
_MOST_EMPTY = 1 << 40  # elements that a tensor without elements would have but for its zeros
_ReadStorage = Callable[[Storage], bytes]


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict by name, as read-only arrays; bfloat16 becomes float32.

    What was saved is the state dict itself or a dictionary that holds it as `state_dict`,
    `model_state_dict` or `model`. The prefix `module.` of DataParallel is taken off.

    Raises:
      WeightsError: the file holds something else, asks for code, is damaged or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            read = _read_zip if file.read(len(ZIP_START)) == ZIP_START else _read_stream
            return read(file, path.stat().st_size)
    except Refused as reason:
        raise WeightsError(f"{path} {reason}; refused.") from None
    except Exception as error:  # a made-up file can raise whatever it likes
        raise WeightsError(
            f"{path} cannot be read as a file of torch.save ({shown(str(error))}); it is damaged "
            "or something else, so fetch it again."
        ) from error


def _read_zip(file: BinaryIO, size: int) -> dict[str, NDArray[Any]]:
    _check_zip_end(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = _entries(archive, size)
        root = _root(entries)
        order = entries.get(f"{root}/byteorder")
        if order and _read_entry(archive, order, 16) != b"little":
            raise Refused("was written on a big-endian machine; save it again on a common one")
        data = io.BytesIO(_read_entry(archive, entries[f"{root}/data.pkl"], MOST_BYTES))
        value = Machine().load(data)
        if data.read(1):
            raise Refused("has something after the end of its pickle")

        def read_storage(storage: Storage) -> bytes:
            entry = entries.get(f"{root}/data/{storage.key}")
            if entry is None:
                raise Refused(f"lacks its storage {shown(storage.key)}")
            _check_count(storage, entry.file_size)
            return archive.read(entry)

        return _arrays(value, read_storage)


def _check_zip_end(file: BinaryIO, size: int) -> None:
    """Nothing may follow the archive, as zipfile would look for its end further up; and of its list
    of contents, which zipfile reads whole, there may not be too much.
    """
    file.seek(max(0, size - _ZIP_END.size))
    signature, _, contents, _, comment = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if signature != b"PK\x05\x06" or comment:
        raise Refused("does not end with its list of contents: it is cut short, or more follows it")
    before = size - _ZIP_END.size - _ZIP64_END.size
    if before >= 0:
        file.seek(before)
        record, _, contents64, _, locator, _ = _ZIP64_END.unpack(file.read(_ZIP64_END.size))
        if (record, locator) == (b"PK\x06\x06", b"PK\x06\x07"):
            contents = contents64
    if contents > _MOST_CONTENTS:
        raise Refused(
            f"has a list of contents of {contents:,} bytes, where at most {_MOST_CONTENTS:,} can "
            "be right"
        )


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, all of which together are no larger than the file."""
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    if len(entries) != len(infos):
        raise Refused("has two entries of one name")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise Refused("has compressed or encrypted entries, which torch.save does not write")
    if any(info.compress_size != info.file_size for info in infos):
        raise Refused("has an entry with two sizes")
    if sum(info.file_size for info in infos) > size:
        raise Refused(f"has {size:,} bytes, and its entries declare more")
    if infos and min(info.header_offset for info in infos) != 0:
        raise Refused("does not begin with its first entry")
    return entries


def _root(entries: dict[str, zipfile.ZipInfo]) -> str:
    """The folder that everything lies in."""
    roots = [name[: -len("/data.pkl")] for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refused(f"is a zip archive with {len(roots)} data.pkl, where torch.save writes one")
    return roots[0]


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    if entry.file_size > most:
        raise Refused(
            f"has an entry {shown(entry.filename)} of {entry.file_size:,} bytes, where at most "
            f"{most:,} can be right"
        )
    return archive.read(entry)


def _read_stream(file: BinaryIO, size: int) -> dict[str, NDArray[Any]]:
    file.seek(0)
    pickles = io.BytesIO(file.read(min(size, MOST_BYTES)))
    machine = Machine()
    magic = machine.load(pickles)
    if type(magic) is not int or magic != _MAGIC:
        raise Refused("is a pickle, but not one of torch.save")
    protocol = machine.load(pickles)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise Refused("is of a version of torch.save's old format that is not known")
    about = machine.load(pickles)
    if not isinstance(about, dict) or about.get("little_endian") is not True:
        raise Refused("was written on a big-endian machine; save it again on a common one")
    value = machine.load(pickles)
    keys = machine.load(pickles)
    starts = _storage_starts(file, size, pickles.tell(), keys, machine.storages)

    def read_storage(storage: Storage) -> bytes:
        file.seek(starts[storage.key])
        return file.read(storage.count * ITEM_SIZE[storage.dtype])

    return _arrays(value, read_storage)


def _storage_starts(
    file: BinaryIO, size: int, start: int, keys: Any, storages: dict[str, Storage]
) -> dict[str, int]:
    """Where in the file the numbers of each storage begin; they fill it to its end."""
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise Refused("has no list of its storages")
    if len(set(keys)) != len(keys) or set(keys) != storages.keys():
        raise Refused("lists other storages than its tensors use")
    starts = {}
    for key in keys:
        file.seek(start)
        (count,) = struct.unpack("<q", file.read(8))
        _check_count(storages[key], count * ITEM_SIZE[storages[key].dtype])
        starts[key] = start + 8
        start += 8 + count * ITEM_SIZE[storages[key].dtype]
        if start > size:
            raise Refused(f"is cut short: it has {size:,} bytes, and its storages need {start:,}")
    if start != size:
        raise Refused(f"has {size - start:,} bytes after its last storage")
    return starts


def _check_count(storage: Storage, size: int) -> None:
    if storage.count * ITEM_SIZE[storage.dtype] != size:
        raise Refused(
            f"has {size:,} bytes in its storage {shown(storage.key)}, whose tensors expect "
            f"{shown(str(storage.count))} numbers of {storage.dtype}"
        )


def _arrays(value: Any, read_storage: _ReadStorage) -> dict[str, NDArray[Any]]:
    tensors = _state_dict(value)
    flat: dict[str, NDArray[Any]] = {}
    arrays = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        if storage.key not in flat:
            flat[storage.key] = decode(read_storage(storage), storage.dtype)
        arrays[name] = _to_array(name, tensor, flat[storage.key])
    return arrays


def _state_dict(value: Any) -> dict[str, Tensor]:
    """The tensors by name in what was saved."""
    where, found = "it", value
    if isinstance(value, dict) and _not_a_tensor(value) is not None:
        member = next((name for name in _MEMBERS if isinstance(value.get(name), dict)), None)
        if member is not None:
            where, found = f"its {member!r}", value[member]
    if not isinstance(found, dict):
        raise Refused(f"holds a {type(found).__name__} where a dictionary of tensors was expected")
    if not found:
        raise Refused(f"holds no tensors: {where} is an empty dictionary")
    other = _not_a_tensor(found)
    if other is not None:
        raise Refused(
            f"holds no dictionary of tensors alone: in {where}, {shown(str(other))} is a "
            f"{type(found[other]).__name__}. Expected a state dict, or a dictionary with one under "
            f"{', '.join(map(repr, _MEMBERS[:-1]))} or {_MEMBERS[-1]!r}"
        )
    prefix = "module."
    if all(name.startswith(prefix) for name in found):
        return {name[len(prefix) :]: tensor for name, tensor in found.items()}
    return found


def _not_a_tensor(value: dict[Any, Any]) -> Any:
    """The first key that is no string or whose value is no tensor."""
    items = value.items()
    return next((k for k, v in items if type(k) is not str or not isinstance(v, Tensor)), None)


def _to_array(name: str, tensor: Tensor, numbers: NDArray[Any]) -> NDArray[Any]:
    item = numbers.dtype.itemsize
    if 0 in tensor.size:
        if math.prod(size or 1 for size in tensor.size) > _MOST_EMPTY:
            raise Refused(f"has a tensor {shown(name)} of an impossible shape")
        return np.zeros(tensor.size, numbers.dtype)
    _check_view(name, tensor)
    strides = [
        item * step if size > 1 else item
        for size, step in zip(tensor.size, tensor.stride, strict=True)
    ]
    return np.ndarray(tensor.size, numbers.dtype, numbers, item * tensor.offset, strides)


def _check_view(name: str, tensor: Tensor) -> None:
    """Refuses a tensor that leaves its storage or uses a number twice.

    Sorted by stride, each must step over all that the smaller ones reach. Some odd views without
    overlap break this rule; no layout of PyTorch's does.
    """
    reach = 0
    for step, size in sorted(zip(tensor.stride, tensor.size, strict=True)):
        if size == 1:
            continue
        if step <= reach:
            raise Refused(
                f"has a tensor {shown(name)} whose elements overlap (an expanded one? save a "
                "contiguous copy)"
            )
        reach += step * (size - 1)
    if tensor.offset + reach >= tensor.storage.count:
        raise Refused(
            f"has a tensor {shown(name)} that reaches beyond the "
            f"{tensor.storage.count:,} numbers of its storage"
        )
