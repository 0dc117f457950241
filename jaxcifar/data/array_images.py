"""Images given as arrays: checked, and brought to uint8 `[n, h, w, 3]`."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable
from jaxcifar.data.array_rows import list_rows

# The most images that are converted at once, and the most bytes of them: floats are copied thrice.
_AT_ONCE, _BYTES_AT_ONCE = 512, 12 << 20
_FORMS = "[n, h, w, 3], or gray [n, h, w] or [n, h, w, 1]"


def check_images(split: str, images: ArrayLike) -> NDArray[Any]:
    """The images as an array `[n, h, w, c]` of the dtype they have, not copied; c is 1 or 3.

    Args:
        split: its name, for messages.
        images: see `Splits.from_arrays`.

    Raises:
        DataError: another dtype or shape, or no image. The pixels are not looked at.
    """
    array = _as_array(split, images)
    if array.dtype == object:
        raise DataError(_objects(split, array))
    if array.ndim > 0 and len(array) == 0:
        raise DataError(f"{split} has no images; give at least one, or leave the split out")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(
            f"the images of {split} are {array.dtype}; expected uint8 in 0..255, or floats in "
            f"[0, 1]{_cast(array)}"
        )
    return _check_shape(split, array)


def _check_shape(split: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array with an axis of channels."""
    shape, gray = list(array.shape), array.ndim == 3
    if gray:
        array = array[..., None]
    if array.ndim != 4 or (shape[-1] not in (1, 3) and not gray):
        raise DataError(
            f"the images of {split} have the shape {shape}; expected {_FORMS}{_way_out(shape)}"
        )
    height, width = array.shape[1:3]
    if not height == width > 0:
        single = "; if this is a single image, use x[None]" * (gray and shape[-1] in (1, 3))
        raise DataError(
            f"the images of {split} have the shape {shape}, so each is {height} x {width} pixels; "
            f"expected square ones, {_FORMS}: crop or scale them first{single}"
        )
    return array


def _as_array(split: str, images: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(images)
    except Exception as error:  # each library has its own, such as for a tensor on a GPU
        if sizes := _several_sizes(images):
            raise DataError(f"the images of {split} have several sizes: {sizes}") from None
        raise DataError(
            f"the images of {split} ({printable(type(images).__name__)}) cannot be made a NumPy "
            f"array: {printable(str(error))}; expected {_FORMS}"
        ) from None


def _several_sizes(images: Any) -> str | None:
    """Which image first has another size than the first one, and the way out; None if none has."""
    try:
        shapes = [np.shape(image) for image in images]
    except Exception:  # what has no length, or images within which the sizes differ
        return None
    other = next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is None:
        return None
    return (
        f"row 0 is {list(shapes[0])}, row {other} is {list(shapes[other])}; expected one size: "
        "scale or crop them first, or put them into a folder of pictures (folder:PATH with a "
        "resize)"
    )


def _objects(split: str, array: NDArray[Any]) -> str:
    if array.ndim == 1 and (sizes := _several_sizes(array)):
        return f"the images of {split} have several sizes: {sizes}"
    return (
        f"the images of {split} are an array of Python objects {list(array.shape)}; expected "
        f"uint8 or floats {_FORMS}: numpy.stack makes one array of many"
    )


def _cast(array: NDArray[Any]) -> str:
    """The way out for images of another dtype."""
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
        return "; if the values are levels from 0 to 255, use x.astype(numpy.uint8)"
    if array.dtype.kind in "iub":
        return "; scale the values to that range, then use x.astype(numpy.uint8)"
    return "; use x.astype(numpy.float32) if they are real numbers"


def _way_out(shape: list[int]) -> str:
    """What may be meant by images of another shape."""
    if len(shape) == 4 and shape[-1] == 4:
        return "; these have a fourth channel (RGBA): use x[..., :3]"
    if len(shape) == 4 and shape[1] in (1, 3):
        return "; these have the channels first: use numpy.moveaxis(x, 1, -1)"
    if len(shape) == 4 and shape[1] == 4:
        return "; these have four channels (RGBA), and first: use numpy.moveaxis(x, 1, -1)[..., :3]"
    if len(shape) == 2:
        return "; these are flat: reshape them to height and width"
    return ""


def convert_images(split: str, images: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A copy of the images, as uint8 `[n, h, w, 3]`; floats are rounded to the nearest level.

    Args:
        split: its name, for messages.
        images: from `check_images`.
        rows: int64, those to take.

    Raises:
        DataError: pixels that are not numbers, or are outside [0, 1].
    """
    converted = np.empty((len(rows), *images.shape[1:3], 3), np.uint8)
    at_once = min(_AT_ONCE, max(1, _BYTES_AT_ONCE // images[0].nbytes))
    for start in range(0, len(rows), at_once):
        chosen = rows[start : start + at_once]
        chunk = images[chosen]
        # Gray ones are repeated by being assigned to three channels.
        converted[start : start + len(chosen)] = (
            chunk if chunk.dtype == np.uint8 else _levels(split, chunk, chosen)
        )
    return converted


def _levels(split: str, chunk: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Floats in [0, 1] as the nearest levels; a level k of 255 comes back as k in any dtype."""
    if not 0 <= chunk.min() <= chunk.max() <= 1:  # also if one of them is NaN
        raise DataError(_bad_pixels(split, chunk, rows))
    precise = chunk.astype(np.float32) if chunk.dtype.itemsize < 4 else chunk
    return np.rint(precise * 255).astype(np.uint8)


def _bad_pixels(split: str, chunk: NDArray[Any], rows: NDArray[np.int64]) -> str:
    flat = chunk.reshape(len(chunk), -1)
    endless = ~np.isfinite(flat)
    bad = endless if endless.any() else ~((flat >= 0) & (flat <= 1))
    at = np.flatnonzero(bad.any(axis=1))
    where = list_rows(rows[at], flat[at, bad[at].argmax(axis=1)])
    if endless.any():
        return f"{split} has pixels that are not finite: {where}; expected floats in [0, 1]"
    low, high = flat.min(), flat.max()
    if low >= 0 and high > 1.01:
        advice = "divide them by 255" if high <= 255 else "scale them to that range"
    elif low < -0.01:
        advice = "pass images that are not normalised: training normalises them"
    else:
        advice = "use numpy.clip(x, 0, 1)"
    return f"{split} has pixels outside [0, 1]: {where}; expected floats in [0, 1]: {advice}"
