"""Seeded choices of rows: a train/validation split, and a small balanced subset.

All of it is an argsort of the raw 64-bit stream of `np.random.PCG64(seed)`. NumPy promises that
stream for all time (NEP 19), which it does not promise for `Generator.permutation`, so a split is
the same under every version of NumPy.
"""

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.data.dataset import Dataset


def split_indices(
    labels: NDArray[np.integer],
    sizes: tuple[int, int],
    *,
    seed: int,
    stratified: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Chooses disjoint rows for training and validation.

    The rows are put in a random order; the first `train` of them are the training rows, the next
    `validation` the validation rows, and what is left is used by neither. Stratified, that order
    deals out the classes evenly: where all classes are equally frequent, as in CIFAR-10, each
    class's count differs from another's by at most one within each part; where they are not, but
    within a factor of two, it stays within two of its exact share.

    Args:
      labels: integers `[n]`.
      sizes: (train, validation), both positive, their sum at most n.
      seed: a non-negative integer.
      stratified: whether to keep the class proportions.

    Returns:
      Two int64 arrays of row numbers, each in ascending order: reading a memory map forwards is
      fast, and training shuffles anyway.

    Raises:
      DataError: sizes that are not positive, exceed n, or (stratified) leave a class out; or a
        seed that is not a non-negative integer.
    """
    train, validation = check_sizes(
        sizes, len(labels), classes=len(np.unique(labels)), stratified=stratified
    )
    check_seed(seed)
    order = _dealt_order(labels, seed) if stratified else _random_order(len(labels), seed)
    return np.sort(order[:train]), np.sort(order[train : train + validation])


def check_sizes(
    sizes: tuple[int, int], pool: int, *, classes: int, stratified: bool
) -> tuple[int, int]:
    """Returns `sizes` if a pool of that many rows can be split so; needs no data.

    Raises:
      DataError: sizes that are not two positive integers, exceed the pool, or (stratified) are
        smaller than the number of classes.
    """
    if len(sizes) != 2 or not all(_is_integer(size) for size in sizes):
        raise DataError(f"A split is two integers (train, validation), got {sizes!r}.")
    train, validation = int(sizes[0]), int(sizes[1])
    if train <= 0:
        raise DataError(f"The training split must have at least one image, got {train}.")
    if validation <= 0:
        raise DataError(
            f"The validation split must have at least one image, got {validation}: it is scored "
            "after every epoch."
        )
    if train + validation > pool:
        raise DataError(
            f"A split of {train:,} + {validation:,} = {train + validation:,} images does not fit "
            f"into the {pool:,} there are to train on."
        )
    if stratified and min(train, validation) < classes:
        raise DataError(
            f"A stratified split of {train:,} + {validation:,} images cannot hold all {classes} "
            "classes in both parts; make each part larger, or do not stratify."
        )
    return train, validation


def balanced_subset(dataset: Dataset, size: int, *, seed: int) -> Dataset:
    """A random subset with as many images of each class as of any other, give or take one.

    With the same seed a smaller subset is contained in a larger one. Rows keep the order they
    have in `dataset`.

    Raises:
      DataError: a size smaller than the number of classes or larger than the images allow.
    """
    check_seed(seed)
    names, counts = np.unique(dataset.labels, return_counts=True)
    if not _is_integer(size) or size < max(len(names), 1):
        raise DataError(
            f"A balanced subset needs at least one image of each of the {len(names)} classes, "
            f"got the size {size!r}."
        )
    most = int(counts.min()) * len(names)
    if size > most:
        raise DataError(
            f"A balanced subset of {size:,} images asks for more than the {counts.min():,} images "
            f"of the rarest class ({names[counts.argmin()]}); the largest possible is {most:,}."
        )
    turn, who = _turns(dataset.labels, seed)
    return dataset.take(np.sort(np.lexsort((who, turn))[:size]))


def _random_order(n: int, seed: int) -> NDArray[np.int64]:
    # Two of n 64-bit keys are equal about once in 10^10 seeds at n = 50,000; a stable sort makes
    # even that one deterministic.
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable").astype(np.int64)


def _turns(labels: NDArray[np.integer], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row its turn within its class (0, 1, ..) and its class's place in a round."""
    order = _random_order(len(labels), seed)
    turn = np.empty(len(labels), np.int64)
    who = np.empty(len(labels), np.int64)
    # Labels in order of first appearance in a random order: a random order of the classes.
    names, first = np.unique(labels[order], return_index=True)
    for place, name in enumerate(names[np.argsort(first)]):
        members = order[labels[order] == name]
        turn[members] = np.arange(len(members))
        who[members] = place
    return turn, who


def _dealt_order(labels: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """A random order whose every stretch has the classes in proportion."""
    turn, who = _turns(labels, seed)
    # The j-th of a class of m is due at the fraction (j + 1/2) / m of the way through.
    due = (turn + 0.5) / np.bincount(who)[who]
    return np.lexsort((who, due)).astype(np.int64)


def check_seed(seed: int) -> None:
    """Raises a DataError unless the seed is a non-negative integer."""
    if not _is_integer(seed) or seed < 0:
        raise DataError(f"The seed must be a non-negative integer, got {seed!r}.")


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
