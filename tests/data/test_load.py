import subprocess
import sys

import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data import DATASETS, Dataset, Rows, check_split, dataset_info, load_dataset
from jaxcifar.data import load as load_module
from jaxcifar.data.cifar10 import load_cifar10, prepare_cifar10


def test_built_in_datasets_are_described_without_loading():
    cifar10 = DATASETS["cifar10"]
    assert (cifar10.pool, cifar10.test, cifar10.num_classes) == (50_000, 10_000, 10)
    assert cifar10.default_split == (40_000, 10_000)
    assert dataset_info("digits") is DATASETS["digits"]
    assert check_split("cifar10") == (40_000, 10_000)
    assert check_split("digits", (1_000, 437)) == (1_000, 437)


def test_digits_are_as_described():
    info, splits = DATASETS["digits"], load_dataset("digits")
    assert (len(splits.train), len(splits.validation)) == info.default_split
    assert len(splits.test) == info.test
    assert splits.test.images.shape[1:] == (info.side, info.side, 3)
    assert splits.class_names == info.class_names
    assert splits.name == "digits"
    assert len(splits.fingerprint) == 64


def test_a_split_is_chosen_by_size_seed_and_stratification():
    splits = load_dataset("digits", split=(200, 100), stratified=True, seed=5)
    assert (len(splits.train), len(splits.validation)) == (200, 100)
    again = load_dataset("digits", split=(200, 100), stratified=True, seed=5)
    np.testing.assert_array_equal(splits.train.images, again.train.images)
    counts = np.bincount(splits.train.labels)
    assert counts.max() - counts.min() <= 2
    parts = [{i.tobytes() for i in part.images} for part in (splits.train, splits.validation)]
    assert not parts[0] & parts[1]


@pytest.mark.parametrize("stratified", [False, True])
def test_lazy_images_are_the_same_in_the_same_order(stratified):
    eager = load_dataset("digits", stratified=stratified, seed=4)
    lazy = load_dataset("digits", stratified=stratified, seed=4, lazy=True)
    assert lazy.fingerprint == eager.fingerprint
    for name in ("train", "validation", "test"):
        mine, theirs = getattr(lazy, name), getattr(eager, name)
        assert isinstance(mine, Rows)
        assert (len(mine), mine.side) == (len(theirs), theirs.side)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        rows = np.array([5, 0, 5, len(mine) - 1])
        for actual, expected in (
            (mine.load(), theirs.load()),
            (mine.read(rows), theirs.read(rows)),
            (Rows(mine, rows).load(), theirs.take(rows)),
        ):
            np.testing.assert_array_equal(actual.images, expected.images)
            np.testing.assert_array_equal(actual.labels, expected.labels)


def test_cifar10_is_loaded_by_name(data_dir, archives, source, images, monkeypatch):
    prepare_cifar10(data_dir, from_archive=archives["binary"], source=source)
    monkeypatch.setattr(
        load_module.cifar10,
        "load_cifar10",
        lambda data_dir, download: load_cifar10(data_dir, download=download, source=source),
    )
    monkeypatch.setattr(load_module, "_check_split", lambda *_, **__: (60, 30))
    splits = load_dataset("cifar10", data_dir=data_dir, download=False)
    lazy = load_dataset("cifar10", data_dir=data_dir, download=False, lazy=True)
    assert isinstance(lazy.train.source.images, np.memmap)  # so only the requested rows are read
    for mine, theirs in ((lazy.train, splits.train), (lazy.test, splits.test)):
        np.testing.assert_array_equal(mine.load().images, theirs.images)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [60, 30, 20]
    pool = {image.tobytes(): label for image, label in zip(*vars(images[0]).values(), strict=True)}
    for part in (splits.train, splits.validation):
        for image, label in zip(part.images, part.labels, strict=True):
            assert pool.pop(image.tobytes()) == label  # popped: no image twice
    assert splits.class_names[3] == "cat"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "cifar",
            {},
            "unknown dataset 'cifar'; did you mean 'cifar10'? (name your own data folder:PATH, ",
        ),
        ("CIFAR-10", {}, "did you mean 'cifar10'?"),
        ("digit", {}, "did you mean 'digits'?"),
        ("imagenet", {}, "choose from cifar10, cifar100, cifar100:coarse, digits"),
        ("", {}, "choose from cifar10, cifar100, cifar100:coarse, digits"),
        ("cifar10", {"split": (45_000, 10_000)}, "45,000 + 10,000 = 55,000 images does not fit"),
        ("cifar10", {"split": (50_000, 0)}, "must have at least one image, not 0"),
        ("cifar10", {"split": (0, 10_000)}, "must have at least one image, not 0"),
        ("cifar10", {"split": (40_000, -1)}, "must have at least one image, not -1"),
        ("cifar10", {"split": (5, 10_000), "stratified": True}, "cannot hold all 10 classes"),
        ("cifar10", {"seed": -1}, "seed must be a non-negative integer, not -1"),
        ("cifar10", {"data_dir": "/no/where"}, "/no/where does not exist"),
        ("cifar10", {"download": False}, "is not prepared under"),
    ],
)
def test_an_impossible_request_is_refused_before_anything_is_written(
    tmp_path, name, arguments, message
):
    with pytest.raises(DataError) as caught:
        load_dataset(name, **arguments)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tfds_data_dir_that_does_not_exist_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"TFDS_DATA_DIR names .*none, which does not exist"):
        load_dataset("cifar10")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32)),
    ],
)
def test_a_dataset_is_uint8_images_and_int32_labels(images, labels):
    with pytest.raises(DataError, match=r"must be (uint8|int32) \["):
        Dataset(images, labels)


def test_importing_the_data_folder_imports_nothing_heavy():
    code = """
import sys
import jaxcifar.data.reading
heavy = {"tensorflow_datasets", "sklearn", "PIL", "tqdm", "jax", "array_record", "grain"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
