"""Decoding the bytes of a weight file into NumPy arrays. Both formats are little-endian."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEM_SIZE = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


def decode(raw: bytes | bytearray, dtype: str) -> NDArray[Any]:
    """The numbers in `raw` as a flat array; bfloat16 becomes float32.

    The array is read-only, because several tensors may be views of it.
    """
    if dtype == "bfloat16":  # the upper half of a float32, so the conversion is exact
        numbers: NDArray[Any] = np.left_shift(np.frombuffer(raw, "<u2"), 16, dtype="<u4")
        numbers = numbers.view("<f4")
    elif dtype == "bool":  # a forged file may hold bytes other than 0 and 1
        numbers = np.frombuffer(raw, np.uint8) != 0
    else:
        numbers = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"))
    numbers = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
    numbers.flags.writeable = False
    return numbers
