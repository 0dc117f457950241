"""The image to look at: found by class, index or file, and prepared for the network."""

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
from jaxcifar.visualize.network import TrainedNetwork

# Sides of an image, pixels: below 8 no map is left, and 1024 need a gigabyte of activations.
MIN_SIDE, MAX_SIDE = 8, 1024


class InputImage(NamedTuple):
    """An image as a person and as the network sees it."""

    name: str  # with its class, if known
    pixels: NDArray[np.uint8]  # [h, w, 3]
    inputs: jax.Array  # float32 [1, h, w, 3]


def find_test_image(splits: Splits, image: str | int) -> int:
    """The index of the first test image of a class, or the index itself.

    A text that is both a class name and an index means the class: digits has the classes "0" to
    "9". A number is always an index.

    Raises:
        RecipeError: neither a class nor an index of the test split.
    """
    if image in splits.class_names:
        return int(np.flatnonzero(splits.test.labels == splits.class_names.index(image))[0])
    if isinstance(image, str) and not image.isdecimal():
        raise RecipeError(f"unknown class {image!r}{did_you_mean(image, splits.class_names)}")
    if isinstance(image, str) and len(image) > 9:  # int() refuses thousands of digits
        raise RecipeError(f"test image {shown(image)} does not exist: {_range_of(splits)}")
    if not 0 <= int(image) < len(splits.test):
        raise RecipeError(f"test image {image} does not exist: {_range_of(splits)}")
    return int(image)


def load_image(network: TrainedNetwork, image: str | int, size: int | None) -> InputImage:
    """Load an image and prepare it for a network.

    Args:
        network: its dataset is loaded only for a test image.
        image: a class name, the index of a test image, or an image file.
        size: cut out the central square and resize it to this height and width; without it a file
            keeps its size and a test image gets the size of the training images.

    Raises:
        RecipeError: no such image, or a size out of bounds.
        ImageFileError: the image file cannot be used.
    """
    check_size(size)
    if isinstance(image, int) or image in network.dataset.class_names or image.isdecimal():
        splits = network.load()
        index = find_test_image(splits, image)
        name = f"test image {index}: {splits.class_names[splits.test.labels[index]]}"
        pixels = splits.test.read(np.array([index])).images[0]
        if size is None:
            return InputImage(name, pixels, network.preprocess(jnp.asarray(pixels)[None]))
    elif Path(image).suffix or os.path.exists(image):
        name, pixels = Path(image).name, read_image(image)
    else:
        hint = did_you_mean(image, network.dataset.class_names)
        raise RecipeError(f"{image!r} is not a class, an index or an image file{hint}")
    if size is not None:
        pixels = make_square(pixels, size)
    height, width, _ = pixels.shape
    if not (min(height, width) >= MIN_SIDE and max(height, width) <= MAX_SIDE):
        raise RecipeError(
            f"{image} has {width}x{height} pixels, and a side must have {MIN_SIDE} to {MAX_SIDE}: "
            "set --size"
        )
    return InputImage(name, pixels, network.normalize(jnp.asarray(pixels)[None]))


def check_size(size: int | None) -> None:
    """Refuse a size out of bounds.

    Raises:
        RecipeError: naming the bounds.
    """
    if size is not None and not MIN_SIDE <= size <= MAX_SIDE:
        raise RecipeError(f"size must lie between {MIN_SIDE} and {MAX_SIDE} pixels, not {size}")


def _range_of(splits: Splits) -> str:
    return f"there are {len(splits.test):,}, counted from 0"
