"""scikit-learn's handwritten digits: 1,797 real images without a download, for demos and tests.

They are 8x8 with values from 0 to 16 and come with scikit-learn's wheel (the test set of UCI ML
hand-written digits). Here they take CIFAR-10's form: scaled to 0..255, resized to 32x32 with
bilinear interpolation, and the single channel repeated three times.
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
_TEST_SEED = 0  # the test images do not depend on the user's seed


def load_digits() -> tuple[Dataset, Dataset, str]:
    """The pool to train on (1,437 images), the test data (360, stratified) and a fingerprint.

    Raises:
        DataError: scikit-learn or Pillow is not installed, or ships other data.
    """
    small, labels = _originals()
    if small.shape != (TRAIN + TEST, 8, 8) or set(labels) != set(range(len(CLASS_NAMES))):
        raise DataError(
            f"this scikit-learn ships digits {small.shape}, not {TRAIN + TEST} images of 8x8"
        )
    images = np.stack([_enlarge(image) for image in np.rint(small * (255 / 16)).astype(np.uint8)])
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i4").tobytes()).hexdigest()
    everything = Dataset(images, labels)
    train, test = split_indices(labels, (TRAIN, TEST), seed=_TEST_SEED, stratified=True)
    return everything.take(train), everything.take(test), digest


def _originals() -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Images `[n, 8, 8]` in 0 to 16, and labels."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("the dataset 'digits' comes with scikit-learn: pip install scikit-learn")
    table = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if table.is_file():
        # Read here, as importing scikit-learn takes 1.4 s: a fifth of a warm start.
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
