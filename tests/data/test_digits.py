import hashlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data import digits, load_dataset
from jaxcifar.data.digits import TEST, TRAIN, load_digits

# What runs of earlier versions recorded, which read scikit-learn's table.
FINGERPRINT = "1a52699bcdf2388e377f553360ac21672826ba281d502851fd94d89bec14ba08"
COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of each digit, by scikit-learn


def test_every_digit_is_in_the_pool_or_the_test_data():
    train, test, _ = load_digits()
    assert (len(train), len(test)) == (TRAIN, TEST)
    labels = np.concatenate([train.labels, test.labels])
    assert np.bincount(labels).tolist() == COUNTS
    images = {image.tobytes() for image in np.concatenate([train.images, test.images])}
    assert len(images) == TRAIN + TEST  # all 1,797 differ, so none is in both


def test_the_originals_are_scikit_learns():
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = digits._originals()
    np.testing.assert_array_equal(images, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)


def test_images_and_fingerprint_are_those_of_earlier_versions():
    splits = load_dataset("digits")
    assert splits.fingerprint == FINGERPRINT
    # The bits of the pool and the test data, each in its order.
    train, test, _ = load_digits()
    digest = hashlib.sha256()
    for data in (train, test):
        digest.update(data.images.tobytes())
        digest.update(data.labels.astype("<i4").tobytes())
    assert digest.hexdigest() == (
        "43950a2fa835fbb8f3287e3d5a091ee137f1c0b32280c2f776c5b25b16b89e93"
    )


def test_images_are_the_originals_enlarged():
    train, test, _ = load_digits()
    images = np.concatenate([train.images, test.images])
    assert images.shape == (1_797, 32, 32, 3)
    assert (images == images[..., :1]).all()
    assert images.min() == 0
    assert images.max() > 250
    # An original pixel is in the middle of a 4x4 block, where bilinear interpolation mixes in its
    # neighbours; only the mean over a whole image is kept.
    originals = digits._originals()[0].mean(axis=(1, 2)) * (255 / 16)
    enlarged = images[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(np.sort(enlarged), np.sort(originals), atol=6)


def test_the_test_data_is_stratified_and_the_same_for_every_seed():
    one, other = (load_dataset("digits", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.test.images, other.test.images)
    # Published results depend on these images being the test data.
    assert one.test.labels[:12].tolist() == [5, 9, 2, 6, 6, 7, 9, 8, 3, 0, 7, 6]
    share = np.array(COUNTS) * (TEST / (TRAIN + TEST))
    assert np.abs(np.bincount(one.test.labels) - share).max() < 1.5
    assert one.fingerprint == other.fingerprint
    assert not np.array_equal(one.train.labels, other.train.labels)


def test_scikit_learn_is_not_needed():
    code = """
import sys
sys.modules["sklearn"] = None
from jaxcifar import load_dataset
print(len(load_dataset("digits").test))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "360"


@pytest.mark.parametrize("damage", ["absent", "cut", "empty", "other arrays", "fewer"])
def test_a_damaged_table_is_one_clear_error(tmp_path, monkeypatch, damage):
    table = tmp_path / "digits.npz"
    if damage in ("cut", "empty"):
        table.write_bytes(digits._TABLE.read_bytes()[: 1_000 if damage == "cut" else 0])
    elif damage == "other arrays":
        np.savez(table, other=np.zeros(3))
    elif damage == "fewer":
        np.savez(table, images=np.zeros((3, 8, 8), np.uint8), labels=np.zeros(3, np.uint8))
    monkeypatch.setattr(digits, "_TABLE", table)
    with pytest.raises(DataError, match=r"comes with jaxcifar .*: install jaxcifar again$"):
        load_digits()


def test_the_table_has_its_source_and_licence_beside_it():
    text = digits._TABLE.with_suffix(".txt").read_text()
    for word in ("Alpaydin", "Kaynak", "CC BY 4.0", "scikit-learn", "Changes"):
        assert word in text


@pytest.mark.slow
def test_a_wheel_holds_the_table(root, tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"
    shutil.copytree(root / "jaxcifar", source / "jaxcifar")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    (wheel,) = source.glob("*.whl")
    assert done.returncode == 0
    names = zipfile.ZipFile(wheel).namelist()
    assert {"jaxcifar/data/digits.npz", "jaxcifar/data/digits.txt"} <= set(names)
