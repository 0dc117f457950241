"""scikit-learn's handwritten digits: 1,797 real images that need no download, for demos and tests.

They are 8x8 with values from 0 to 16 and lie in scikit-learn's wheel (UCI ML hand-written digits
datasets, the test set). Here they become what CIFAR-10 looks like: scaled to 0..255, resized to
32x32 with bilinear interpolation, and the one channel repeated three times.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.split import split_indices

TRAIN, TEST, SIDE = 1_437, 360, 32
CLASS_NAMES = tuple("0123456789")
_TEST_SEED = 0  # the test images are the same whatever the user's seed


def load_digits() -> tuple[Dataset, Dataset, str]:
    """The pool to train on (1,437 images), the test data (360, stratified) and a fingerprint.

    Raises:
      DataError: scikit-learn or Pillow is not installed, or ships other data.
    """
    small, labels = _originals()
    if small.shape != (TRAIN + TEST, 8, 8) or set(labels) != set(range(len(CLASS_NAMES))):
        raise DataError(
            f"This scikit-learn ships digits {small.shape}; expected {TRAIN + TEST} of 8x8."
        )
    images = np.stack([_enlarge(image) for image in np.rint(small * (255 / 16)).astype(np.uint8)])
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i4").tobytes()).hexdigest()
    everything = Dataset(images, labels)
    train, test = split_indices(labels, (TRAIN, TEST), seed=_TEST_SEED, stratified=True)
    return everything.take(train), everything.take(test), digest


def _originals() -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Images [n, 8, 8] in 0 to 16, and labels."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("The dataset 'digits' comes with scikit-learn: pip install scikit-learn.")
    table = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if table.is_file():
        # Not by scikit-learn, whose import takes 1.4 s: a fifth of a warm start.
        rows = np.loadtxt(table, delimiter=",")
        return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int32)
    from sklearn.datasets import load_digits as load

    raw = load()
    return raw.images, raw.target.astype(np.int32)


def _enlarge(image: np.ndarray) -> np.ndarray:
    """uint8 `[8, 8]` to uint8 `[32, 32, 3]`."""
    from PIL import Image

    big = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(big)[..., None], 3, axis=-1)
