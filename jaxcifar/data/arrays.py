"""Images and labels that are in memory: checked, converted and split. See `Splits.from_arrays`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable, shown
from jaxcifar.data.array_images import check_images, convert_images
from jaxcifar.data.array_labels import check_class_names, check_labels
from jaxcifar.data.info import DatasetInfo
from jaxcifar.data.split import check_seed, check_sizes, split_indices

NAME = "arrays"
PREFIX = f"{NAME}:"
_SPLITS: tuple[str, ...] = ("train", "validation", "test")
Pair = tuple[ArrayLike, ArrayLike]  # images and labels


class Part(NamedTuple):
    """One split: images uint8 `[n, h, w, 3]`, labels int32 `[n]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]


class Arrays(NamedTuple):
    """What was read.

    Attributes:
        info: name, class names, and the sizes of the splits as its default split.
        parts: "train", "validation", and "test" if it was given.
        fingerprint: SHA-256 (hex) of the class names and the parts.
    """

    info: DatasetInfo
    parts: Mapping[str, Part]
    fingerprint: str


def is_arrays(name: str) -> bool:
    """Whether a dataset's name is that of arrays, which no name leads to."""
    return name == NAME or name.startswith(PREFIX)


def not_by_name(name: str) -> DataError:
    """The error for whoever looks arrays up by their name."""
    return DataError(
        f"the data {name!r} are arrays in memory, which cannot be found by name: pass what "
        "Splits.from_arrays returned, as in fit(recipe, splits) or splits=splits"
    )


def read_arrays(
    given: Mapping[str, Any],
    *,
    class_names: Sequence[str] | None,
    name: str | None,
    seed: int,
    stratified: bool,
) -> Arrays:
    """Check everything, then convert the images.

    Args:
        given: "train": a pair; "validation": a pair, a number or None; "test": a pair or None.
        class_names, name, seed, stratified: as in `Splits.from_arrays`.

    Raises:
        DataError: see there.
    """
    full_name, names = _check_name(name), check_class_names(class_names)
    check_seed(seed)
    pairs = _check_pairs(given)
    images = {split: check_images(split, pair[0]) for split, pair in pairs.items()}
    _check_one_size(images)
    labels = {
        split: check_labels(split, pair[1], len(images[split]), names)
        for split, pair in pairs.items()
    }
    if names is None:
        names = tuple(map(str, range(1 + max(int(each.max()) for each in labels.values()))))
    rows = {split: np.arange(len(each)) for split, each in labels.items()}
    source = {split: split for split in pairs}
    if "validation" not in pairs:
        sizes = _check_taken(given["validation"], len(rows["train"]), len(names), stratified)
        rows["train"], rows["validation"] = split_indices(
            labels["train"], sizes, seed=seed, stratified=stratified
        )
        source["validation"] = "train"
    parts = {
        split: Part(
            convert_images(source[split], images[source[split]], rows[split]),
            labels[source[split]][rows[split]],
        )
        for split in _SPLITS
        if split in source
    }
    return Arrays(_describe(full_name, names, parts), parts, _fingerprint(names, parts))


def _check_name(name: str | None) -> str:
    if name is None:
        return NAME
    if not isinstance(name, str) or not name or not name.isprintable():
        raise DataError(f"name is {shown(name)}; expected a printable text, such as 'mnist'")
    return f"{PREFIX}{name}"


def _check_pairs(given: Mapping[str, Any]) -> dict[str, Pair]:
    """The splits that are given as images and labels."""
    pairs = {}
    for split, value in given.items():
        if split == "validation" and (value is None or _is_number(value)):
            continue
        if split == "test" and value is None:
            continue
        if not isinstance(value, tuple | list) or len(value) != 2:
            number = ", or a number of training images" * (split == "validation")
            what = printable(type(value).__name__)
            if isinstance(value, tuple | list):
                what += f" and length {len(value)}"
            raise DataError(f"{split} is of type {what}; expected a pair (images, labels){number}")
        pairs[split] = (value[0], value[1])
    return pairs


def _is_number(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_one_size(images: Mapping[str, NDArray[Any]]) -> None:
    side = images["train"].shape[1]
    for split, each in images.items():
        if each.shape[1] != side:
            raise DataError(
                f"the images of {split} are {each.shape[1]} pixels high and wide, those of train "
                f"{side}; expected one size: scale or crop them first"
            )


def _check_taken(
    validation: int | None, pool: int, classes: int, stratified: bool
) -> tuple[int, int]:
    """The sizes of train and validation, if validation images are taken from those of train."""
    taken = max(1, pool // 5) if validation is None else int(validation)
    if not 1 <= taken < pool:
        raise DataError(
            f"validation takes {taken:,} of the {pool:,} training images; expected 1 to "
            f"{pool - 1:,}, or a pair (images, labels) of its own"
        )
    return check_sizes((pool - taken, taken), pool, classes=classes, stratified=stratified)


def _describe(name: str, names: tuple[str, ...], parts: Mapping[str, Part]) -> DatasetInfo:
    """With a validation split of its own, whether it was given or taken: the split is made."""
    train, validation = parts["train"], parts["validation"]
    return DatasetInfo(
        name,
        names,
        pool=len(train.labels),
        test=len(parts.get("test", validation).labels),
        side=train.images.shape[1],
        default_split=(len(train.labels), len(validation.labels)),
        validation=len(validation.labels),
    )


def _fingerprint(names: tuple[str, ...], parts: Mapping[str, Part]) -> str:
    """SHA-256 (hex) of the class names and of the shape, images and labels of each split."""
    whole = hashlib.sha256(json.dumps(names).encode())
    for split in _SPLITS:
        images, labels = parts.get(split, parts["validation"])
        whole.update(f"\n{split} {list(images.shape)}\n".encode())
        whole.update(images.data)
        whole.update(labels.astype("<i4").tobytes())
    return whole.hexdigest()
