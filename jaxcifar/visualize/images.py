"""The image to look at: found by class, index or file, and prepared for the network."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.data.image_file import make_square, read_image, read_square
from jaxcifar.inference.network import MAX_SIDE, MIN_SIDE, TrainedNetwork, check_size


class InputImage(NamedTuple):
    """An image as a person and as the network sees it."""

    name: str  # with its class, if known
    pixels: NDArray[np.uint8]  # [h, w, 3]
    inputs: jax.Array  # float32 [1, h, w, 3]


Size = int | Literal["own"] | None


def find_test_image(names: Sequence[str], labels: NDArray[np.int32], image: str | int) -> int:
    """The index of the first test image of a class, or the index itself.

    A text that is both a class name and an index means the class: digits has the classes "0" to
    "9". A number is always an index.

    Args:
        names: of the classes.
        labels: of the test images.
        image: what is asked for.

    Raises:
        RecipeError: neither a class nor an index of the test split.
    """
    if image in names:
        found = np.flatnonzero(labels == names.index(str(image)))
        if not len(found):
            raise RecipeError(f"there is no test image of the class {image}")
        return int(found[0])
    if isinstance(image, str) and not image.isdecimal():
        raise RecipeError(f"unknown class {image!r}{did_you_mean(image, names)}")
    if isinstance(image, str) and len(image) > 9:  # int() refuses thousands of digits
        raise RecipeError(f"test image {shown(image)} does not exist: {_range_of(labels)}")
    if not 0 <= int(image) < len(labels):
        raise RecipeError(f"test image {image} does not exist: {_range_of(labels)}")
    return int(image)


def as_named(image: str | int | os.PathLike[str] | np.integer[Any]) -> str | int:
    """An image as `load_image` takes it: a path is a file, and never a class or an index.

    Raises:
        RecipeError: it is of another kind.
    """
    if isinstance(image, os.PathLike):
        return os.path.abspath(image)
    if isinstance(image, str) or (isinstance(image, int) and not isinstance(image, bool)):
        return image
    if isinstance(image, np.integer):
        return int(image)
    raise RecipeError(
        f"an image is a class, an index of the test images or a file, not {shown(image)}"
    )


def load_image(network: TrainedNetwork, image: str | int, size: Size) -> InputImage:
    """Load an image and prepare it for a network.

    Args:
        network: its dataset is loaded only for a test image.
        image: a class name, the index of a test image, or an image file.
        size: height and width, pixels, of what the network is shown: the image scaled by its
            shorter side and cropped to the centre. By default that of the training images; "own"
            shows a file as it is.

    Raises:
        RecipeError: no such image, or a size out of bounds.
        ImageFileError: the image file cannot be used.
    """
    if size != "own":
        check_size(size)
    if isinstance(image, int) or image in network.dataset.class_names or image.isdecimal():
        return _test_image(network, image, None if size == "own" else size)
    if not Path(image).suffix and not os.path.exists(image):
        hint = did_you_mean(image, network.dataset.class_names)
        raise RecipeError(f"{image!r} is not a class, an index or an image file{hint}")
    if size is None:  # as `TrainedNetwork.predict` reads it
        pixels = read_square(image, network.image_size, keep=network.dataset.side)
        return InputImage(Path(image).name, pixels, network.preprocess(pixels[None]))
    if size != "own":
        pixels = read_square(image, size)
        return InputImage(Path(image).name, pixels, network.normalize(jnp.asarray(pixels)[None]))
    pixels = read_image(image)
    height, width, _ = pixels.shape
    if not (min(height, width) >= MIN_SIDE and max(height, width) <= MAX_SIDE):
        raise RecipeError(
            f"{image} has {width}x{height} pixels, and a side must have {MIN_SIDE} to {MAX_SIDE}: "
            "set --size"
        )
    return InputImage(Path(image).name, pixels, network.normalize(jnp.asarray(pixels)[None]))


def _test_image(network: TrainedNetwork, image: str | int, size: int | None) -> InputImage:
    test, names = network.split("test"), network.dataset.class_names
    index = find_test_image(names, test.labels, image)
    row = test.read(np.array([index]))
    pixels = row.images[0]
    name = f"test image {index}: {names[row.labels[0]]}"
    if size is None:
        return InputImage(name, pixels, network.preprocess(pixels[None]))
    pixels = make_square(pixels, size)
    return InputImage(name, pixels, network.normalize(jnp.asarray(pixels)[None]))


def _range_of(labels: NDArray[np.int32]) -> str:
    return f"there are {len(labels):,}, counted from 0"
