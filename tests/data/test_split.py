import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.common.errors import DataError
from jaxcifar.data import Dataset, balanced_subset, split_indices
from jaxcifar.data.split import _turns

SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int], bool]:
    """Labels of 1 to 10 classes, sizes that fit them, and whether to stratify."""
    labels = np.array(draw(st.lists(st.integers(0, 9), min_size=20, max_size=200)), np.int32)
    stratified = draw(st.booleans())
    least = len(np.unique(labels)) if stratified else 1
    train = draw(st.integers(least, len(labels) - least))
    return labels, (train, draw(st.integers(least, len(labels) - train))), stratified


@given(requests(), SEEDS)
def test_splits_are_disjoint_sorted_and_of_the_requested_size(request_, seed):
    labels, sizes, stratified = request_
    train, validation = split_indices(labels, sizes, seed=seed, stratified=stratified)
    assert (len(train), len(validation)) == sizes
    assert train.dtype == validation.dtype == np.int64
    both = np.concatenate([train, validation])
    assert len(np.unique(both)) == len(both)
    assert both.min() >= 0
    assert both.max() < len(labels)
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


@given(requests(), SEEDS)
def test_the_seed_decides_everything(request_, seed):
    labels, sizes, stratified = request_
    once = split_indices(labels, sizes, seed=seed, stratified=stratified)
    again = split_indices(labels, sizes, seed=seed, stratified=stratified)
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])


@pytest.mark.parametrize("stratified", [False, True])
def test_another_seed_gives_another_split(stratified):
    labels = np.repeat(np.arange(10), 100)
    one, _ = split_indices(labels, (500, 100), seed=0, stratified=stratified)
    other, _ = split_indices(labels, (500, 100), seed=1, stratified=stratified)
    assert 200 < len(np.intersect1d(one, other)) < 300  # 250 expected by chance


@given(st.integers(1, 10), st.integers(2, 30), st.data(), SEEDS)
def test_stratified_counts_of_equally_frequent_classes_differ_by_at_most_one(
    classes, each, data, seed
):
    n = classes * each
    train = data.draw(st.integers(classes, n - classes))
    validation = data.draw(st.integers(classes, n - train))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), each))
    for rows in split_indices(labels, (train, validation), seed=seed, stratified=True):
        counts = np.bincount(labels[rows], minlength=classes)
        assert counts.max() - counts.min() <= 1


@given(st.lists(st.integers(10, 20), min_size=2, max_size=10), st.data(), SEEDS)
def test_stratified_counts_stay_within_two_of_the_exact_share(counts, data, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    train = data.draw(st.integers(len(counts), len(labels) - len(counts)))
    validation = data.draw(st.integers(len(counts), len(labels) - train))
    for rows in split_indices(labels, (train, validation), seed=seed, stratified=True):
        split_counts = np.bincount(labels[rows], minlength=len(counts))
        share = np.array(counts) * len(rows) / len(labels)
        assert np.abs(split_counts - share).max() <= 2


def test_a_split_is_the_same_under_every_numpy():
    # Recorded with NumPy 2.4; a change here would change every user's validation data.
    labels = np.tile(np.arange(10), 5)
    train, validation = split_indices(labels, (10, 5), seed=0, stratified=False)
    assert train.tolist() == [2, 3, 11, 13, 15, 20, 21, 32, 46, 48]
    assert validation.tolist() == [1, 18, 35, 41, 43]
    train, validation = split_indices(labels, (10, 10), seed=0, stratified=True)
    assert train.tolist() == [2, 3, 11, 15, 17, 20, 39, 44, 46, 48]
    assert validation.tolist() == [13, 18, 19, 21, 32, 34, 35, 36, 40, 47]


@pytest.mark.parametrize(
    ("sizes", "stratified", "message"),
    [
        ((90, 11), False, r"90 \+ 11 = 101 images does not fit into the 100"),
        ((0, 10), False, "training split must have at least one image, not 0"),
        ((-5, 10), False, "training split must have at least one image, not -5"),
        ((90, 0), False, "validation split must have at least one image, not 0"),
        ((90, -1), False, "validation split must have at least one image, not -1"),
        ((90, 9), True, r"cannot hold all 10 classes"),
        ((90.0, 10), False, "two integers"),
        ((True, 10), False, "two integers"),
        ((90,), False, "two integers"),
    ],
)
def test_impossible_sizes_are_refused(sizes, stratified, message):
    with pytest.raises(DataError, match=message):
        split_indices(np.tile(np.arange(10), 10), sizes, seed=0, stratified=stratified)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None])
def test_a_seed_is_a_non_negative_integer(seed):
    with pytest.raises(DataError, match="seed must be a non-negative integer"):
        split_indices(np.zeros(10, int), (5, 5), seed=seed, stratified=False)


def numbered(labels: np.ndarray) -> Dataset:
    """The first two pixels of each image hold its row number."""
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(len(labels)), 256)
    return Dataset(images, labels.astype(np.int32))


def row_numbers(dataset: Dataset) -> list[int]:
    return (dataset.images[:, 0, 0, 0].astype(int) * 256 + dataset.images[:, 0, 1, 0]).tolist()


@given(st.lists(st.integers(0, 4), min_size=5, max_size=100), st.data(), SEEDS)
def test_a_balanced_subset_has_each_class_equally_often(labels, data, seed):
    dataset = numbered(np.array(labels))
    classes, counts = np.unique(labels, return_counts=True)
    size = data.draw(st.integers(len(classes), counts.min() * len(classes)))
    subset = balanced_subset(dataset, size, seed=seed)
    subset_counts = np.bincount(subset.labels, minlength=5)[classes]
    assert len(subset) == size
    assert subset_counts.max() - subset_counts.min() <= 1
    assert len(set(row_numbers(subset))) == size
    np.testing.assert_array_equal(dataset.labels[row_numbers(subset)], subset.labels)


def test_a_smaller_balanced_subset_is_contained_in_a_larger():
    dataset = numbered(np.tile(np.arange(10), 30))
    small, large = (balanced_subset(dataset, size, seed=3) for size in (25, 118))
    assert set(row_numbers(small)) < set(row_numbers(large))
    assert set(row_numbers(small)) != set(row_numbers(balanced_subset(dataset, 25, seed=4)))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (9, "at least one image of each of the 10 classes"),
        (41, r"4 images of the rarest class \(3\)"),
    ],
)
def test_an_impossible_balanced_subset_is_refused(size, message):
    labels = np.tile(np.arange(10), 5)[np.arange(50) != 3]
    with pytest.raises(DataError, match=message):
        balanced_subset(numbered(labels), size, seed=0)


def turns_class_by_class(labels, seed):
    """As `split._turns` says it, slowly."""
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    turn, rank = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    classes, first = np.unique(labels[order], return_index=True)
    for class_rank, label in enumerate(classes[np.argsort(first)]):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
        rank[members] = class_rank
    return turn, rank


@given(st.lists(st.integers(-3, 20), max_size=200), SEEDS)
def test_turns_are_those_of_each_class_by_itself(labels, seed):
    labels = np.array(labels, np.int32)
    for mine, theirs in zip(_turns(labels, seed), turns_class_by_class(labels, seed), strict=True):
        assert mine.dtype == np.int64
        np.testing.assert_array_equal(mine, theirs)


def test_many_classes_are_stratified_quickly():
    labels = np.arange(200_000) % 20_000
    start = time.process_time()
    train, _ = split_indices(labels, (160_000, 40_000), seed=0, stratified=True)
    assert time.process_time() - start < 2  # class by class it would be many
    assert np.bincount(labels[train]).tolist() == [8] * 20_000
