"""Seeded choices of rows: a train/validation split, and a small balanced subset.

Both are an argsort of the raw 64-bit stream of `np.random.PCG64(seed)`. NumPy guarantees that
stream forever (NEP 19), but not `Generator.permutation`, so a split is the same under every NumPy
version.
"""

from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError


class _Labelled(Protocol):
    """Rows with labels that can be chosen from, such as a `Dataset`."""

    @property
    def labels(self) -> NDArray[np.int32]: ...

    def take(self, rows: NDArray[np.int64], /) -> Self: ...


_AnyLabelled = TypeVar("_AnyLabelled", bound=_Labelled)


def split_indices(
    labels: NDArray[np.integer],
    sizes: tuple[int, int],
    *,
    seed: int,
    stratified: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose disjoint rows for training and validation.

    The rows are put in a random order: the first `train` rows are for training, the next
    `validation` rows for validation, and the rest is not used. A stratified order deals out the
    classes evenly. If all classes are equally frequent, as in CIFAR-10, their counts within a split
    differ by at most one; if they are not, but within a factor of two, each count stays within two
    of its exact share.

    Args:
        labels: integers `[n]`.
        sizes: (train, validation), both positive, their sum at most n.
        seed: a non-negative integer.
        stratified: whether to keep the class proportions.

    Returns:
        Two int64 arrays of row numbers, each in ascending order: reading a memory map forwards is
        fast, and training shuffles anyway.

    Raises:
        DataError: the sizes are not positive, exceed n, or (stratified) leave a class out; or the
            seed is not a non-negative integer.
    """
    train, validation = check_sizes(
        sizes, len(labels), classes=len(np.unique(labels)), stratified=stratified
    )
    check_seed(seed)
    order = _order(labels, seed, stratified)
    return np.sort(order[:train]), np.sort(order[train : train + validation])


def choose_indices(
    labels: NDArray[np.integer], size: int, *, seed: int, stratified: bool
) -> NDArray[np.int64]:
    """Choose `size` rows of a split of its own, as `split_indices` chooses those for training.

    Returns:
        int64 row numbers in ascending order.
    """
    return np.sort(_order(labels, seed, stratified)[:size])


def _order(labels: NDArray[np.integer], seed: int, stratified: bool) -> NDArray[np.int64]:
    return _stratified_order(labels, seed) if stratified else _random_order(len(labels), seed)


def check_sizes(
    sizes: tuple[int, int],
    pool: int,
    *,
    classes: int,
    stratified: bool,
    own_validation: int | None = None,
) -> tuple[int, int]:
    """Return `sizes` if a pool of `pool` rows can be split this way; needs no data.

    Args:
        sizes: (train, validation).
        pool: rows to train on, and to validate on unless these are a split of their own.
        classes: number of classes.
        stratified: whether both must hold all classes.
        own_validation: rows of the validation split, if it is one of its own.

    Raises:
        DataError: the sizes are not two positive integers, exceed the rows, or (stratified) are
            smaller than the number of classes.
    """
    if len(sizes) != 2 or not all(_is_integer(size) for size in sizes):
        raise DataError(f"a split must be two integers (train, validation), not {sizes!r}")
    train, validation = int(sizes[0]), int(sizes[1])
    if train <= 0:
        raise DataError(f"the training split must have at least one image, not {train}")
    if validation <= 0:
        raise DataError(
            f"the validation split must have at least one image, not {validation}: it is scored "
            "after every epoch"
        )
    if own_validation is not None and (train > pool or validation > own_validation):
        raise DataError(
            f"a split of {train:,} + {validation:,} images does not fit: there are {pool:,} images "
            f"to train on and {own_validation:,} in the validation split"
        )
    if own_validation is None and train + validation > pool:
        raise DataError(
            f"a split of {train:,} + {validation:,} = {train + validation:,} images does not fit "
            f"into the {pool:,} training images"
        )
    if stratified and min(train, validation) < classes:
        raise DataError(
            f"a stratified split of {train:,} + {validation:,} images cannot hold all {classes} "
            "classes in both splits; make them larger, or do not stratify"
        )
    return train, validation


def balanced_subset(dataset: _AnyLabelled, size: int, *, seed: int) -> _AnyLabelled:
    """A random subset with equally many images of each class, give or take one.

    With the same seed, a smaller subset is contained in a larger one. Rows keep their order in
    `dataset`.

    Raises:
        DataError: the size is smaller than the number of classes, or larger than the images allow.

    Example:
        >>> import numpy as np
        >>> from jaxcifar import balanced_subset, load_dataset
        >>> train = load_dataset("digits", split=(120, 40)).train
        >>> np.bincount(balanced_subset(train, 20, seed=0).labels).tolist()
        [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    check_seed(seed)
    classes, counts = np.unique(dataset.labels, return_counts=True)
    if not _is_integer(size) or size < max(len(classes), 1):
        raise DataError(
            f"a balanced subset needs at least one image of each of the {len(classes)} classes, "
            f"so its size cannot be {size!r}"
        )
    largest = int(counts.min()) * len(classes)
    if size > largest:
        raise DataError(
            f"a balanced subset of {size:,} images needs more than the {counts.min():,} images "
            f"of the rarest class ({classes[counts.argmin()]}); the largest possible is {largest:,}"
        )
    turn, rank = _turns(dataset.labels, seed)
    return dataset.take(np.sort(np.lexsort((rank, turn))[:size]))


def _random_order(n: int, seed: int) -> NDArray[np.int64]:
    # Two of n 64-bit keys are equal about once in 10^10 seeds at n = 50,000; a stable sort makes
    # even that case deterministic.
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable").astype(np.int64)


def _turns(labels: NDArray[np.integer], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row, its turn within its class (0, 1, ...) and the rank of its class in a round."""
    order = _random_order(len(labels), seed)
    _, first, kind, counts = np.unique(
        labels[order], return_index=True, return_inverse=True, return_counts=True
    )
    # The order in which classes first appear in a random order is a random order of the classes.
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.argsort(np.argsort(first))[kind]
    # Sorted by class, the rows of each keep their random order.
    by_class = order[np.argsort(kind, kind="stable")]
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turn, rank


def _stratified_order(labels: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """A random order in which every stretch has the classes in proportion."""
    turn, rank = _turns(labels, seed)
    # Image j of a class with m images is due at the fraction (j + 1/2) / m of the way through.
    due = (turn + 0.5) / np.bincount(rank)[rank]
    return np.lexsort((rank, due)).astype(np.int64)


def check_seed(seed: int) -> None:
    """Check the seed.

    Raises:
        DataError: it is not a non-negative integer.
    """
    if not _is_integer(seed) or seed < 0:
        raise DataError(f"the seed must be a non-negative integer, not {seed!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
