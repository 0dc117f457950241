"""Labels and class names given as arrays: checked, and brought to int32 `[n]`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable, shown
from jaxcifar.data.array_rows import list_rows

_MOST_CLASSES = 100_000  # as many as the description of a run may have


def check_class_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The class names as text; None if there are none.

    Raises:
        DataError: they are not text, empty, repeated or absent.
    """
    if names is None:
        return None
    expected = 'expected a list of different texts in label order, such as ["cat", "dog"]'
    if isinstance(names, str | bytes) or not hasattr(names, "__iter__"):
        raise DataError(f"class_names is {shown(names)}; {expected}")
    names = list(names)
    for label, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise DataError(f"class_names has {shown(name)} for label {label}; {expected}")
    texts = tuple(map(str, names))
    if not texts:
        raise DataError(f"class_names is empty; {expected}")
    if len(texts) > _MOST_CLASSES:
        raise DataError(f"class_names has {len(texts):,} names; at most {_MOST_CLASSES:,} can be")
    first: dict[str, int] = {}
    for label, text in enumerate(texts):
        if text in first:
            raise DataError(
                f"class_names has {shown(text)} for the labels {first[text]} and {label}; "
                f"{expected}"
            )
        first[text] = label
    return texts


def check_labels(
    split: str, labels: ArrayLike, images: int, class_names: tuple[str, ...] | None
) -> NDArray[np.int32]:
    """The labels as a new array, int32 `[n]`.

    Args:
        split: its name, for messages.
        labels: see `Splits.from_arrays`.
        images: how many images there are.
        class_names: from `check_class_names`.

    Raises:
        DataError: another dtype, shape or number, or values that are no labels.
    """
    array = _as_array(split, labels)
    expected = f"expected one whole number for each image, [{images}]"
    if array.ndim != 1:
        raise DataError(
            f"the labels of {split} have the shape {list(array.shape)}; {expected}"
            f"{_way_out(array.shape)}"
        )
    if len(array) != images:
        raise DataError(f"{split} has {images:,} images, but {len(array):,} labels; {expected}")
    objects = array.dtype == object
    if array.dtype.kind == "U" or (objects and all(isinstance(each, str) for each in array)):
        return _look_up(split, array, class_names)
    if array.dtype.kind not in "iu":
        kind = "Python objects" if objects else str(array.dtype)
        raise DataError(
            f"the labels of {split} are {kind}: {list_rows(np.arange(images), array)}; {expected}: "
            "use y.astype(int) if they are whole numbers"
        )
    return _check_range(split, array, class_names)


def _as_array(split: str, labels: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(labels)
    except Exception as error:  # each library has its own, such as for a tensor on a GPU
        raise DataError(
            f"the labels of {split} ({printable(type(labels).__name__)}) cannot be made a NumPy "
            f"array: {printable(str(error))}; expected whole numbers [n]"
        ) from None


def _way_out(shape: tuple[int, ...]) -> str:
    if len(shape) == 2 and shape[1] == 1:
        return ": use y[:, 0]"
    if len(shape) == 2:
        return ": if they are one-hot, use y.argmax(axis=1)"
    return ""


def _look_up(
    split: str, names: NDArray[Any], class_names: tuple[str, ...] | None
) -> NDArray[np.int32]:
    """The labels of class names."""
    if class_names is None:
        raise DataError(
            f"the labels of {split} are names: {list_rows(np.arange(len(names)), names)}; list the "
            "names in label order in class_names, or give whole numbers"
        )
    known = {name: label for label, name in enumerate(class_names)}
    labels = np.array([known.get(str(name), -1) for name in names], np.int32)
    wrong = np.flatnonzero(labels < 0)
    if len(wrong):
        raise DataError(
            f"{split} has labels that class_names does not list: {list_rows(wrong, names[wrong])}; "
            f"expected one of its {len(class_names)} names, {_some(class_names)}"
        )
    return labels


def _check_range(
    split: str, labels: NDArray[Any], class_names: tuple[str, ...] | None
) -> NDArray[np.int32]:
    most = _MOST_CLASSES if class_names is None else len(class_names)
    wrong = np.flatnonzero((labels < 0) | (labels >= most))
    if len(wrong):
        why = (
            f"the limit of {most:,} classes"
            if class_names is None
            else f"the {most} class_names {_some(class_names)}"
        )
        raise DataError(
            f"{split} has labels out of range: {list_rows(wrong, labels[wrong])}; expected 0 to "
            f"{most - 1}, by {why}"
        )
    return labels.astype(np.int32)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(map(shown, names[:5])) + (", ..." if len(names) > 5 else "")
