import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from jaxcifar.data import digits, load_dataset
from jaxcifar.data.digits import TEST, TRAIN, load_digits


def test_every_digit_is_in_the_pool_or_the_test_data():
    train, test, _ = load_digits()
    assert (len(train), len(test)) == (TRAIN, TEST)
    labels = np.concatenate([train.labels, test.labels])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(sklearn_digits().target))
    images = {image.tobytes() for image in np.concatenate([train.images, test.images])}
    assert len(images) == TRAIN + TEST  # all 1,797 differ, so none is in both


@pytest.mark.parametrize("moved", [False, True], ids=["from the file", "from scikit-learn"])
def test_the_originals_are_scikit_learns(moved, monkeypatch):
    if moved:
        monkeypatch.setattr(digits.Path, "is_file", lambda path: False)
    images, labels = digits._originals()
    np.testing.assert_array_equal(images, sklearn_digits().images)
    np.testing.assert_array_equal(labels, sklearn_digits().target)


def test_images_are_the_originals_enlarged():
    train, test, _ = load_digits()
    images = np.concatenate([train.images, test.images])
    assert images.shape == (1_797, 32, 32, 3)
    assert (images == images[..., :1]).all()
    assert images.min() == 0
    assert images.max() > 250
    # An original pixel is in the middle of a 4x4 block, where bilinear interpolation mixes in its
    # neighbours; only the mean over a whole image is kept.
    originals = sklearn_digits().images.mean(axis=(1, 2)) * (255 / 16)
    enlarged = images[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(np.sort(enlarged), np.sort(originals), atol=6)


def test_the_test_data_is_stratified_and_the_same_for_every_seed():
    one, other = (load_dataset("digits", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.test.images, other.test.images)
    # Published results depend on these images being the test data.
    assert one.test.labels[:12].tolist() == [5, 9, 2, 6, 6, 7, 9, 8, 3, 0, 7, 6]
    share = np.bincount(sklearn_digits().target) * (TEST / (TRAIN + TEST))
    assert np.abs(np.bincount(one.test.labels) - share).max() < 1.5
    assert one.fingerprint == other.fingerprint
    assert not np.array_equal(one.train.labels, other.train.labels)
