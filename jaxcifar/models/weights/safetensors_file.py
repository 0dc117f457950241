"""safetensors files (https://github.com/huggingface/safetensors), by way of their own library."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from jaxcifar.common.errors import WeightsError
from jaxcifar.common.messages import printable
from jaxcifar.common.writing import write_atomically
from jaxcifar.models.weights.dtypes import decode

_NUMPY_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_BFLOAT16 = "BF16"
_MAX_HEADER = 4 << 20  # bytes; ResNet-152's has 0.1 MB, and parsing takes 20 times as much
_METADATA = "__metadata__"  # a key reserved by the format


def read_safetensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The tensors by name, and the metadata; bfloat16 becomes float32.

    Raises:
        WeightsError: the file is damaged, is not a safetensors file, or has numbers of a type that
            NumPy lacks.
    """
    try:
        _check_header(path)
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            for name, kind in kinds.items():
                if kind not in _NUMPY_NAMES and kind != _BFLOAT16:
                    raise WeightsError(
                        f"{path} holds {name!a} as {kind} numbers, which cannot be read here; "
                        "save it as float32."
                    )
            metadata = dict(file.metadata() or {})
            plain = {name: file.get_tensor(name) for name in names if kinds[name] != _BFLOAT16}
        # NumPy has no bfloat16, so the library only returns bytes, and only for all tensors.
        raw = dict(deserialize(path.read_bytes())) if _BFLOAT16 in kinds.values() else {}
        halves = {
            name: decode(raw[name]["data"], "bfloat16").reshape(raw[name]["shape"])
            for name in names
            if kinds[name] == _BFLOAT16
        }
    except WeightsError:
        raise
    except Exception as error:  # of the library, and of NumPy for impossible shapes
        raise WeightsError(
            f"{path} cannot be read as a safetensors file ({printable(str(error))}); it is damaged "
            "or not such a file, so download it again."
        ) from error
    tensors = plain | halves
    return {name: tensors[name] for name in names}, metadata


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > _MAX_HEADER:
        raise ValueError(f"header too large, {size:,} bytes")


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write arrays by name; the file appears complete or not at all.

    The same arguments give the same bytes.

    Raises:
        WeightsError: the file exists and `overwrite` is not set, or an argument cannot be stored.
            Nothing is changed.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a directory: give the path of a file in it.")
    if path.exists() and not overwrite:
        raise WeightsError(
            f"{path} exists: choose another path, or replace it with overwrite=True (--overwrite)"
        )
    if not path.parent.is_dir():
        raise WeightsError(f"there is no folder {path.parent}: make it, or choose another path")
    texts = dict(metadata or {})
    if not all(isinstance(text, str) for item in texts.items() for text in item):
        raise WeightsError(f"{path}: keys and values of metadata must be strings, not {texts!r}.")
    arrays = {name: _storable(path, name, array) for name, array in tensors.items()}
    try:
        data = _with_sorted_metadata(save(arrays, texts))
    except (SafetensorError, UnicodeError) as error:
        raise WeightsError(f"{path}: the tensors cannot be stored ({error}).") from error
    write_atomically(path, data)


def _with_sorted_metadata(data: bytes) -> bytes:
    """The file with its metadata by name.

    The library writes them in another order each time, so that the same weights, exported twice,
    would be taken for two files.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    if _METADATA in header:
        header[_METADATA] = dict(sorted(header[_METADATA].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[start:]


def _storable(path: Path, name: Any, array: Any) -> NDArray[Any]:
    """The array in C order and little-endian: the library ignores strides and byte order."""
    if not isinstance(name, str) or name == _METADATA:
        raise WeightsError(f"{path}: a tensor cannot be named {name!r}.")
    array = np.asarray(array)
    if array.dtype.name not in _NUMPY_NAMES.values():
        raise WeightsError(
            f"{path}: {name!r} has dtype {array.dtype.name}, which cannot be stored; use float32."
        )
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")
