"""The pickles of a python CIFAR archive, read without running code or trusting a size.

An original batch is a Python 2 pickle of a dictionary with bytes as keys. The unpickler below knows
dictionaries, lists, numbers, strings and uint8 arrays, and refuses everything else.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable

_MAX_TUPLES = 20  # in the pickle of a batch; the originals have 7
_MAX_INT = 1 << 32


def unpickle(name: str, data: bytes) -> dict[Any, Any]:
    """The dictionary in a pickle, with a `PickledArray` for each array.

    Args:
        name: what errors call the pickle.
        data: the pickle.

    Raises:
        DataError: it holds anything else, asks for code, or would take much time or memory.
    """
    try:
        _check_opcodes(data)
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a hostile pickle can raise anything
        raise DataError(
            f"{name} is not the pickle of a CIFAR batch ({printable(str(error))}); refused"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{name} is not the pickle of a dictionary; refused")
    return value


class PickledArray:
    """Stands in for `numpy.ndarray` in a pickle: NumPy never sees a pickle's arguments."""

    shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, self._fortran, self._bytes = state
        if not isinstance(dtype, _Dtype) or dtype.code not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array that is not of uint8")
        # A number times a string is a long string.
        if type(shape) is not tuple or not all(type(size) is int for size in shape):
            raise pickle.UnpicklingError("an array whose shape is not made of numbers")
        if type(self._bytes) is not bytes or len(self._bytes) != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of {shape} with another number of bytes")
        self.shape = tuple(shape)

    def values(self) -> NDArray[np.uint8]:
        """The array, of `shape`."""
        flat = np.frombuffer(self._bytes, np.uint8)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")


class _Dtype:
    """Stands in for `numpy.dtype` in a pickle: remembers the name only."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass  # byte order and the like, which one-byte pixels do not have


def _reconstruct(*_: object) -> PickledArray:
    return PickledArray()


# Python 2 wrote numpy.core into the original batches; NumPy 2 writes numpy._core.
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): PickledArray,
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
    """Refuse a pickle that would cost the unpickler much more memory or time than its size.

    - The unpickler allocates its memo up to the highest index: ten bytes took 2 GB and 9 s.
    - A deeply nested tuple used as a key is hashed until the stack overflows (a crash), or forever.
    - A dictionary can have a million long integers with the same hash as keys.

    This costs 0.1 s a batch.
    """
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if not 0 <= int(argument or 0) <= len(data):
                raise pickle.UnpicklingError(f"a memo of {argument:,} entries")
        elif isinstance(argument, int) and abs(argument) > max(_MAX_INT, len(data)):
            raise pickle.UnpicklingError("a huge number")
        tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
        if tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError(f"more than {_MAX_TUPLES} tuples")
