"""Handwritten digits: 1,797 real images without a download, for demos and tests.

They come with this package in `digits.npz`, 8x8 with values from 0 to 16; `digits.txt` beside it
has their source and licence (the test set of UCI ML hand-written digits, as scikit-learn ships it).
Here they take CIFAR-10's form: scaled to 0..255, resized to 32x32 with bilinear interpolation, and
the single channel repeated three times.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.split import split_indices

TRAIN, TEST, SIDE = 1_437, 360, 32
CLASS_NAMES = tuple("0123456789")
_TABLE = Path(__file__).with_name("digits.npz")
_TEST_SEED = 0  # the test images do not depend on the user's seed


def load_digits() -> tuple[Dataset, Dataset, str]:
    """The pool to train on (1,437 images), the test data (360, stratified) and a fingerprint.

    Raises:
        DataError: the table of this package is absent or damaged.
    """
    small, labels = _originals()
    images = np.stack([_enlarge(image) for image in np.rint(small * (255 / 16)).astype(np.uint8)])
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i4").tobytes()).hexdigest()
    everything = Dataset(images, labels)
    train, test = split_indices(labels, (TRAIN, TEST), seed=_TEST_SEED, stratified=True)
    return everything.take(train), everything.take(test), digest


def _originals() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Images `[n, 8, 8]` in 0 to 16, and labels."""
    try:
        with np.load(_TABLE, allow_pickle=False) as table:
            images, labels = table["images"], table["labels"].astype(np.int32)
        if images.shape != (TRAIN + TEST, 8, 8) or len(labels) != TRAIN + TEST:
            raise DataError(f"it holds images {list(images.shape)} and {len(labels)} labels")
    except Exception as error:  # NumPy and zipfile have their own for a damaged file
        raise DataError(
            f"the digits cannot be read from {_TABLE}, which comes with jaxcifar ({error}): "
            "install jaxcifar again"
        ) from error
    return images, labels


def _enlarge(image: np.ndarray) -> np.ndarray:
    """uint8 `[8, 8]` to uint8 `[32, 32, 3]`."""
    from PIL import Image

    big = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(big)[..., None], 3, axis=-1)
