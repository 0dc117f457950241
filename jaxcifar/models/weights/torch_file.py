"""Read files written by `torch.save`, without PyTorch and without running any code in them.

There are two formats (https://github.com/pytorch/pytorch/blob/main/torch/serialization.py):

- zip, since PyTorch 1.6: uncompressed entries NAME/data.pkl, NAME/data/KEY for each storage, and
  some small entries, of which only NAME/byteorder matters;
- a stream, before 1.6: the pickles of a magic number, a protocol number, a dictionary about the
  machine, the object, and a list of storage keys; then for each key the count of its numbers
  (int64) and the numbers. Older files of torchvision, such as resnet18-5c106cde.pth, have it.

The tensors are views of the bytes that were read, and tensors of one storage share memory. So a
file cannot make the reader allocate more memory than its own size (twice that for bfloat16).
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
    MAX_BYTES,
    Interpreter,
    Refused,
    Storage,
    Tensor,
    excerpt,
)

ZIP_START = b"PK\x03\x04"
# The last record: signature, counts, size of the central directory, its offset, comment length.
_ZIP_END = struct.Struct("<4s8sL4sH")
# PyTorch writes two more records before it: the same in 64 bits, and the offset of that record.
_ZIP64_END = struct.Struct("<4s36sQ8s4s16s")
# Bytes of the central directory; ResNet-152's has 0.1 MB, and zipfile takes 10 times as much.
_MAX_DIRECTORY = 4 << 20
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MEMBERS = ("state_dict", "model_state_dict", "model")
_MAX_EMPTY = 1 << 40  # the product of a tensor's nonzero sizes, if one of its sizes is zero
_ReadStorage = Callable[[Storage], bytes]


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict by name, as read-only arrays; bfloat16 becomes float32.

    The saved object is the state dict, or a dictionary that has it under `state_dict`,
    `model_state_dict` or `model`. Their names are the file's, a prefix such as `module.` included.

    Raises:
        WeightsError: the file holds another object, asks to run code, is damaged or is
            inconsistent.
    """
    try:
        with path.open("rb") as file:
            read = _read_zip if file.read(len(ZIP_START)) == ZIP_START else _read_stream
            return read(file, path.stat().st_size)
    except Refused as reason:
        raise WeightsError(f"{path} {reason}; refused.") from None
    except Exception as error:  # a forged file can raise any exception
        raise WeightsError(
            f"{path} cannot be read as a file of torch.save ({excerpt(str(error))}); it is damaged "
            "or not such a file, so download it again."
        ) from error


def _read_zip(file: BinaryIO, size: int) -> dict[str, NDArray[Any]]:
    check_zip_end(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = _entries(archive, size)
        root = _root(entries)
        order = entries.get(f"{root}/byteorder")
        if order and _read_entry(archive, order, 16) != b"little":
            raise Refused("was written on a big-endian machine; save it on a little-endian one")
        data = io.BytesIO(_read_entry(archive, entries[f"{root}/data.pkl"], MAX_BYTES))
        value = Interpreter().load(data)
        if data.read(1):
            raise Refused("has bytes after the end of its pickle")

        def read_storage(storage: Storage) -> bytes:
            entry = entries.get(f"{root}/data/{storage.key}")
            if entry is None:
                raise Refused(f"has no storage {excerpt(storage.key)}, which its tensors use")
            _check_count(storage, entry.file_size)
            return archive.read(entry)

        return _arrays(value, read_storage)


def check_zip_end(file: BinaryIO, size: int) -> None:
    """Check that the file ends with the archive, and that its directory is not too large.

    Otherwise zipfile would search backwards for the end, and it reads the directory whole.

    Args:
        file: opened in binary mode.
        size: of the file, in bytes.

    Raises:
        Refused: it does not end so, or the directory is too large.
        Exception: of any type, if it is damaged.
    """
    file.seek(max(0, size - _ZIP_END.size))
    signature, _, directory, _, comment = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if signature != b"PK\x05\x06" or comment:
        raise Refused("does not end with a zip directory: it is cut short, or has bytes after it")
    before = size - _ZIP_END.size - _ZIP64_END.size
    if before >= 0:
        file.seek(before)
        record, _, directory64, _, locator, _ = _ZIP64_END.unpack(file.read(_ZIP64_END.size))
        if (record, locator) == (b"PK\x06\x06", b"PK\x06\x07"):
            directory = directory64
    if directory > _MAX_DIRECTORY:
        raise Refused(
            f"has a zip directory of {directory:,} bytes, more than the limit of {_MAX_DIRECTORY:,}"
        )


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name; their sizes may not add up to more than the file's."""
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    if len(entries) != len(infos):
        raise Refused("has two entries with the same name")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise Refused("has compressed or encrypted entries, which torch.save does not write")
    if any(info.compress_size != info.file_size for info in infos):
        raise Refused("has an entry with two different sizes")
    if sum(info.file_size for info in infos) > size:
        raise Refused(f"has {size:,} bytes, but its entries claim more")
    if infos and min(info.header_offset for info in infos) != 0:
        raise Refused("does not begin with its first entry")
    return entries


def _root(entries: dict[str, zipfile.ZipInfo]) -> str:
    """The folder that contains all entries."""
    roots = [name[: -len("/data.pkl")] for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refused(f"is a zip archive with {len(roots)} files data.pkl; torch.save writes one")
    return roots[0]


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, max_bytes: int) -> bytes:
    if entry.file_size > max_bytes:
        raise Refused(
            f"has an entry {excerpt(entry.filename)} of {entry.file_size:,} bytes, more than the "
            f"limit of {max_bytes:,}"
        )
    return archive.read(entry)


def _read_stream(file: BinaryIO, size: int) -> dict[str, NDArray[Any]]:
    file.seek(0)
    pickles = io.BytesIO(file.read(min(size, MAX_BYTES)))
    interpreter = Interpreter()
    magic = interpreter.load(pickles)
    if type(magic) is not int or magic != _MAGIC:
        raise Refused("is a pickle, but not written by torch.save")
    protocol = interpreter.load(pickles)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise Refused("has an unknown version of torch.save's old format")
    system = interpreter.load(pickles)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("was written on a big-endian machine; save it on a little-endian one")
    value = interpreter.load(pickles)
    keys = interpreter.load(pickles)
    starts = _storage_starts(file, size, pickles.tell(), keys, interpreter.storages)

    def read_storage(storage: Storage) -> bytes:
        file.seek(starts[storage.key])
        return file.read(storage.count * ITEM_SIZE[storage.dtype])

    return _arrays(value, read_storage)


def _storage_starts(
    file: BinaryIO, size: int, start: int, keys: Any, storages: dict[str, Storage]
) -> dict[str, int]:
    """The offset of the numbers of each storage in the file; they fill it to its end."""
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise Refused("has no list of storages")
    if len(set(keys)) != len(keys) or set(keys) != storages.keys():
        raise Refused("does not list exactly the storages that its tensors use")
    starts = {}
    for key in keys:
        file.seek(start)
        (count,) = struct.unpack("<q", file.read(8))
        _check_count(storages[key], count * ITEM_SIZE[storages[key].dtype])
        starts[key] = start + 8
        start += 8 + count * ITEM_SIZE[storages[key].dtype]
        if start > size:
            raise Refused(f"is cut short: it has {size:,} bytes, but its storages need {start:,}")
    if start != size:
        raise Refused(f"has {size - start:,} bytes after its last storage")
    return starts


def _check_count(storage: Storage, size: int) -> None:
    if storage.count * ITEM_SIZE[storage.dtype] != size:
        raise Refused(
            f"has {size:,} bytes in its storage {excerpt(storage.key)}, whose tensors expect "
            f"{excerpt(str(storage.count))} {storage.dtype} numbers"
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
    """The tensors by name in the saved object."""
    where, state = "it", value
    if isinstance(value, dict) and _not_a_tensor(value) is not None:
        member = next((name for name in _MEMBERS if isinstance(value.get(name), dict)), None)
        if member is not None:
            others = [key for key, inner in value.items() if _is_twin(inner, value[member])]
            if others:
                names = ", ".join(map(excerpt, [member, *others]))
                raise Refused(
                    f"has several networks of one shape ({names}): write the one you want to a "
                    f"file of its own, as in torch.save(torch.load(FILE)[{member!r}], NEW_FILE)"
                )
        if member is not None:
            where, state = f"its {member!r}", value[member]
    if not isinstance(state, dict):
        raise Refused(f"holds a {type(state).__name__}, not a dictionary of tensors")
    if not state:
        raise Refused(f"holds no tensors: {where} is an empty dictionary")
    other = _not_a_tensor(state)
    if other is not None:
        raise Refused(
            f"does not hold a dictionary of tensors only: in {where}, {excerpt(str(other))} is a "
            f"{type(state[other]).__name__}. Expected a state dict, or a dictionary with one under "
            f"{', '.join(map(repr, _MEMBERS[:-1]))} or {_MEMBERS[-1]!r}"
        )
    return state


def _is_twin(value: Any, chosen: dict[Any, Any]) -> bool:
    """Whether it is another state dict of the chosen one's network, such as its moving average."""
    if value is chosen or not isinstance(value, dict) or _not_a_tensor(value) is not None:
        return False
    if _not_a_tensor(chosen) is not None:
        return False
    (sizes, keys), (chosen_sizes, chosen_keys) = map(_sizes_and_storages, (value, chosen))
    return bool(sizes) and sizes == chosen_sizes and keys != chosen_keys


def _sizes_and_storages(state: dict[str, Tensor]) -> tuple[list[tuple[int, ...]], list[str]]:
    """Of the tensors with two dimensions or more, sorted."""
    kernels = [tensor for tensor in state.values() if len(tensor.size) > 1]
    return sorted(tuple(k.size) for k in kernels), sorted(k.storage.key for k in kernels)


def _not_a_tensor(value: dict[Any, Any]) -> Any:
    """The first key that is not a string, or whose value is not a tensor."""
    items = value.items()
    return next((k for k, v in items if type(k) is not str or not isinstance(v, Tensor)), None)


def _to_array(name: str, tensor: Tensor, numbers: NDArray[Any]) -> NDArray[Any]:
    item = numbers.dtype.itemsize
    if 0 in tensor.size:
        if math.prod(size or 1 for size in tensor.size) > _MAX_EMPTY:
            raise Refused(f"has a tensor {excerpt(name)} of an impossible shape")
        return np.zeros(tensor.size, numbers.dtype)
    _check_view(name, tensor)
    strides = [
        item * step if size > 1 else item
        for size, step in zip(tensor.size, tensor.stride, strict=True)
    ]
    return np.ndarray(tensor.size, numbers.dtype, numbers, item * tensor.offset, strides)


def _check_view(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that exceeds its storage or uses a number twice.

    Sorted by stride, each dimension must step over everything that the smaller strides reach. Some
    odd views without overlap break this rule, but no layout of PyTorch does.
    """
    reach = 0
    for step, size in sorted(zip(tensor.stride, tensor.size, strict=True)):
        if size == 1:
            continue
        if step <= reach:
            raise Refused(
                f"has a tensor {excerpt(name)} whose elements overlap, as after expand(); save a "
                "contiguous copy"
            )
        reach += step * (size - 1)
    if tensor.offset + reach >= tensor.storage.count:
        raise Refused(
            f"has a tensor {excerpt(name)} that reaches beyond the "
            f"{tensor.storage.count:,} numbers of its storage"
        )
