"""Which image is shown, and how the network sees it."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.data import Splits
from jaxcifar.data.image_file import make_square, read_image
from jaxcifar.visualize.network import Subject

SIDES = (8, 1024)  # pixels of an image: under 8 no map is left, 1024 take a gigabyte of activations


def find_test_image(splits: Splits, image: str | int) -> int:
    """The index of the first test image of a class, or the index itself.

    A class name wins over the same text as an index: the digits' are "0" to "9". A number is always
    an index.

    Raises:
        RecipeError: neither a class nor an index of the test split.
    """
    if image in splits.class_names:
        return int(np.flatnonzero(splits.test.labels == splits.class_names.index(image))[0])
    if isinstance(image, str) and not image.isdecimal():
        raise RecipeError(f"unknown class {image!r}{did_you_mean(image, splits.class_names)}")
    if isinstance(image, str) and len(image) > 9:  # int() refuses thousands of digits
        raise RecipeError(f"test image {shown(image)} does not exist: {len(splits.test):,} do")
    if not 0 <= int(image) < len(splits.test):
        raise RecipeError(f"test image {image} does not exist: there are {len(splits.test):,}")
    return int(image)


class _View(NamedTuple):
    """An image as a person and as the network sees it."""

    name: str  # with its class, where that is known
    pixels: NDArray[np.uint8]  # [h, w, 3]
    inputs: jax.Array  # float32 [1, h, w, 3]


def _see(subject: Subject, image: str | int, size: int | None) -> _View:
    _check_size(size)
    if isinstance(image, int) or image in subject.dataset.class_names or image.isdecimal():
        splits = subject.load()
        index = find_test_image(splits, image)
        name = f"test image {index}: {splits.class_names[splits.test.labels[index]]}"
        pixels = splits.test.read(np.array([index])).images[0]
        if size is None:
            return _View(name, pixels, subject.preprocess(jnp.asarray(pixels)[None]))
    elif Path(image).suffix or os.path.exists(image):
        name, pixels = Path(image).name, read_image(image)
    else:
        hint = did_you_mean(image, subject.dataset.class_names)
        raise RecipeError(f"{image!r} is no class, index or image file{hint}")
    if size is not None:
        pixels = make_square(pixels, size)
    height, width, _ = pixels.shape
    if not (SIDES[0] <= min(height, width) and max(height, width) <= SIDES[1]):
        raise RecipeError(
            f"{image} is {width}x{height} pixels, and the network is shown {SIDES[0]} to "
            f"{SIDES[1]} a side: give a --size"
        )
    return _View(name, pixels, subject.normalize(jnp.asarray(pixels)[None]))


def _check_size(size: int | None) -> None:
    if size is not None and not SIDES[0] <= size <= SIDES[1]:
        raise RecipeError(f"size must lie between {SIDES[0]} and {SIDES[1]} pixels, not {size}")
