"""Image transformations as pure functions: preprocessing and random augmentation.

Random transformations take one key per example (from seed, epoch and index), so that augmentation
does not depend on how a batch is split over steps or devices. The order is: resizing, flip,
rotation, shift and cutout; then, inside the train step, `make_preprocess`, which normalises. So
lengths are in pixels of the network's input. Resizing and bilinear rotation turn uint8 images into
floats in [0, 1]; the other transformations keep the dtype.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.numbers import is_zero

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (keys [n], images) -> images
Interpolation = Literal["nearest", "bilinear"]
TranslateFill = Literal["zero", "reflect"]
# Per-channel mean and standard deviation of RGB in [0, 1].
NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # Measured on CIFAR-10's 50,000 train images.
    "cifar10": ((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    # Of CIFAR-100's 50,000 train images: the values that are usual in published code.
    "cifar100": ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
    # Those of torchvision's ImageNet weights.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Maps [0, 1] to [-1, 1]; for data without published values, such as digits.
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def make_normalize(name: str) -> Callable[[jax.Array], jax.Array]:
    """Build ``images -> float32 images``: (x - mean) / std per channel.

    The images are uint8 [..., 3] in 0 to 255, or floats [..., 3] in [0, 1].

    Raises:
        ValueError: `name` is not in `NORMALIZATIONS`.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(f"unknown normalization {name!r}; choose from {', '.join(NORMALIZATIONS)}")
    mean, std = (jnp.asarray(values, jnp.float32) for values in NORMALIZATIONS[name])

    def normalize(images: jax.Array) -> jax.Array:
        return (unit_range(images) - mean) / std

    return normalize


def flip(key: jax.Array, image: jax.Array, rate: float) -> jax.Array:
    """Mirror the image horizontally with probability `rate`; [h, w, c], any dtype."""
    return jnp.where(jax.random.bernoulli(key, rate), image[:, ::-1], image)


def translate(
    key: jax.Array, image: jax.Array, pixels: int | jax.Array, fill: TranslateFill = "zero"
) -> jax.Array:
    """Shift the image [h, w, c] at random by up to `pixels` in each direction; any dtype.

    Args:
        key: of this example. The draw does not depend on `fill`.
        image: the image.
        pixels: may be traced.
        fill: what the border becomes: zero, or the image reflected at its outermost pixels, as in
            NumPy's ``pad(mode="reflect")``.

    Raises:
        ValueError: an unknown fill.
    """
    if fill not in get_args(TranslateFill):
        raise ValueError(f"unknown fill {fill!r}; choose from {', '.join(get_args(TranslateFill))}")
    height, width, _ = image.shape
    down, right = jax.random.randint(key, (2,), 0, 2 * pixels + 1) - pixels
    rows, columns = jnp.arange(height) + down, jnp.arange(width) + right
    if fill == "reflect":
        return image[_reflected(rows, height)][:, _reflected(columns, width)]
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    # A gather instead of a slice of the padded image, whose size would depend on a traced number.
    shifted = image[jnp.clip(rows, 0, height - 1)][:, jnp.clip(columns, 0, width - 1)]
    return jnp.where(inside[..., None], shifted, 0)


def _reflected(positions: jax.Array, size: int) -> jax.Array:
    """The positions inside 0 to `size` - 1 of which those outside are the reflections."""
    period = max(1, 2 * (size - 1))  # there and back; the outermost pixels are not repeated
    inside = positions % period
    return jnp.minimum(inside, period - inside)


def shifted_views(images: jax.Array, pixels: int) -> tuple[jax.Array, jax.Array]:
    """Images [n, h, w, c] shifted by `pixels` up and left, and down and right; any dtype.

    The border is filled by reflection, see `translate`.
    """
    _, height, width, _ = images.shape

    def shifted(by: int) -> jax.Array:
        rows = _reflected(jnp.arange(height) + by, height)
        return images[:, rows][:, :, _reflected(jnp.arange(width) + by, width)]

    return shifted(pixels), shifted(-pixels)


def unit_range(images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """uint8 images in 0 to 255 as floats in [0, 1]; floats keep their values."""
    return images.astype(dtype) / 255 if images.dtype == jnp.uint8 else images.astype(dtype)


def resize(images: jax.Array, side: int, dtype: Any = jnp.float32) -> jax.Array:
    """Resize images [n, h, w, c] to [n, side, side, c]; uint8 becomes floats in [0, 1].

    Bilinear, as Pillow's `Image.resize` and as torchvision on PIL images: pixel centres are at one
    half, and shrinking smooths the image (antialiasing).
    """
    # In float32, then rounded: for bfloat16 images, the weights would also be bfloat16.
    images = unit_range(images)
    for axis in (1, 2):
        if images.shape[axis] != side:
            images = _resize_axis(images, axis, side)
    return images.astype(dtype)


def _resize_axis(images: jax.Array, axis: int, side: int) -> jax.Array:
    """One axis of float32 images [n, h, w, c] resized to `side`.

    A weighted sum of gathered rows. `jax.image.resize` is a product with a matrix that is mostly
    zeros, which XLA's Triton path on GPUs refuses to compile without autotuning. On one core, 128
    images from 32 to 224 pixels take 47 ms in this form and 115 ms as a matrix product.
    """
    rows, weights = (jnp.asarray(table) for table in _windows(images.shape[axis], side))
    along = tuple(side if i == axis else 1 for i in range(4))

    def add(k: jax.Array, total: jax.Array) -> jax.Array:
        return total + jnp.take(images, rows[k], axis, mode="clip") * weights[k].reshape(along)

    shape = (*images.shape[:axis], side, *images.shape[axis + 1 :])
    terms = len(rows)
    unroll = terms if terms <= _MOST_UNROLLED else 1
    return jax.lax.fori_loop(0, terms, add, jnp.zeros(shape, jnp.float32), unroll=unroll)


# Terms of a sum that become one kernel: two when enlarging, 14 from 224 to 32 pixels. A kernel of
# the 64 from 512 to 16 pixels did not compile for a GPU within 100 s; as a loop, it takes 0.2 s.
_MOST_UNROLLED = 16


@lru_cache(maxsize=64)
def _windows(size: int, side: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(rows, weights), each [terms, side]: the source rows of each row, and their shares of it.

    A triangle around the row's centre, whose half is a row of the larger of the two grids. Up to
    rounding, these are the weights of `jax.image.resize`; here they are exact fractions.
    """
    # Distances in units of 1 / (2 * side) of a source row, so that all are whole numbers.
    reach, step = 2 * max(size, side), 2 * side
    centre = (2 * np.arange(side, dtype=np.int64) + 1) * size - side
    first = np.maximum((centre - reach) // step + 1, 0)
    last = np.minimum((centre + reach - 1) // step, size - 1)
    terms = int((last - first).max()) + 1
    rows = np.minimum(first, size - terms)[:, None] + np.arange(terms)
    triangle = np.maximum(0, reach - np.abs(centre[:, None] - step * rows))
    shares = triangle / triangle.sum(1, keepdims=True)
    return rows.T.astype(np.int32), shares.T.astype(np.float32)


def rotate(
    image: jax.Array, degrees: jax.Array | float, interpolation: Interpolation = "nearest"
) -> jax.Array:
    """Rotate [h, w, c] counter-clockwise about its centre; the size stays, the corners become zero.

    As Pillow's `Image.rotate`, which torchvision's `RandomRotation` calls on PIL images ("nearest"
    is the default of both): each output pixel centre is rotated back into the image. "nearest"
    takes the pixel there; "bilinear" blends the four pixels around it, and repeats the border.

    Returns:
        [h, w, c]: the image's dtype for "nearest"; floats for "bilinear", in [0, 1] for uint8
        images.

    Raises:
        ValueError: an unknown interpolation.
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(
            f"unknown interpolation {interpolation!r}; choose from "
            f"{', '.join(get_args(Interpolation))}"
        )
    height, width, channels = image.shape
    # In float32 for every image dtype: in bfloat16, a coordinate of 200 is a whole pixel off.
    angle = jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    right = jnp.arange(width, dtype=jnp.float32) + 0.5 - width / 2
    down = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5 - height / 2
    x = jnp.cos(angle) * right - jnp.sin(angle) * down + width / 2
    y = jnp.sin(angle) * right + jnp.cos(angle) * down + height / 2
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[..., None]
    pixels = image.reshape(height * width, channels)

    def pixel(row: jax.Array, column: jax.Array) -> jax.Array:
        row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
        column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
        return pixels[row * width + column]

    if interpolation == "nearest":
        return jnp.where(inside, pixel(jnp.floor(y), jnp.floor(x)), 0)

    pixels = pixels if jnp.issubdtype(pixels.dtype, jnp.floating) else unit_range(pixels)
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    across, along = ((x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None])
    upper = pixel(top, left) * (1 - across) + pixel(top, left + 1) * across
    lower = pixel(top + 1, left) * (1 - across) + pixel(top + 1, left + 1) * across
    return jnp.where(inside, upper * (1 - along) + lower * along, 0).astype(pixels.dtype)


def cutout(key: jax.Array, image: jax.Array, pixels: int | jax.Array, fill: jax.Array) -> jax.Array:
    """Cover a square with a random centre in the image by a colour.

    As DeVries and Taylor 2017 (arXiv:1708.04552): part of the square may lie outside the image.
    They fill with zero after normalising, which is the data's mean before it.

    Args:
        key: of this example.
        image: [h, w, c], any dtype.
        pixels: side of the square.
        fill: the colour [c], in the image's scale.
    """
    height, width, _ = image.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (), 0, height) - pixels // 2
    left = jax.random.randint(column_key, (), 0, width) - pixels // 2
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= top) & (rows < top + pixels)
    in_columns = (columns >= left) & (columns < left + pixels)
    covered = (in_rows[:, None] & in_columns)[..., None]
    return jnp.where(covered, fill.astype(image.dtype), image)


def make_preprocess(
    normalization: str, side: int | None = None, shrink_to: int | None = None
) -> Callable[[jax.Array], jax.Array]:
    """Build ``images -> input of the network``: resize to `side`, if given, and normalise.

    Images that already have this side, such as augmented ones, are not resized again.

    Args:
        normalization: see `make_normalize`.
        side: the full size.
        shrink_to: a smaller side, to which the images of the full size are then resized.

    Raises:
        ValueError: `normalization` is not in `NORMALIZATIONS`.
    """
    normalize = make_normalize(normalization)

    def preprocess(images: jax.Array) -> jax.Array:
        if side is not None and images.shape[1:3] != (side, side):
            images = resize(images, side)
        if shrink_to is not None:
            images = resize(images, shrink_to)
        return normalize(images)

    return preprocess


def make_augment(
    *,
    side: int | None = None,
    flip_rate: float = 0.0,
    rotate_degrees: float = 0.0,
    interpolation: Interpolation = "nearest",
    translate_pixels: int = 0,
    translate_fill: TranslateFill = "zero",
    cutout_pixels: int = 0,
    cutout_fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
    dtype: Any = jnp.float32,
) -> Augment | None:
    """Build ``(keys [n], images [n, h, w, c]) -> images`` from the transformations asked for.

    Args:
        side: resize to it first, so that the others work at the size of the network's input.
        flip_rate: probability of a horizontal flip.
        rotate_degrees: largest angle of a uniform rotation in either direction.
        interpolation: of the rotation.
        translate_pixels: largest shift in each direction.
        translate_fill: what it brings in, see `translate`.
        cutout_pixels: side of the square that is covered.
        cutout_fill: colour of the square, in [0, 1].
        dtype: of images that become floats.

    Returns:
        The function, or None if nothing random is asked for: then the epoch needs no keys.
    """
    amounts = (flip_rate, rotate_degrees, translate_pixels, cutout_pixels)
    if all(is_zero(amount) for amount in amounts):
        return None

    def augment_one(key: jax.Array, image: jax.Array) -> jax.Array:
        flip_key, translate_key = jax.random.split(key)
        # Not from the same split: a rotation must not change the draw of the shift.
        rotate_key, cutout_key = jax.random.fold_in(key, 2), jax.random.fold_in(key, 3)
        if not is_zero(flip_rate):
            image = flip(flip_key, image, flip_rate)
        if not is_zero(rotate_degrees):
            share = jax.random.uniform(rotate_key, (), minval=-1, maxval=1)
            if interpolation == "bilinear":
                image = unit_range(image, dtype)
            image = rotate(image, share * rotate_degrees, interpolation)
        if not is_zero(translate_pixels):
            image = translate(translate_key, image, translate_pixels, translate_fill)
        if not is_zero(cutout_pixels):
            color = jnp.asarray(cutout_fill)
            fill = jnp.round(255 * color) if image.dtype == jnp.uint8 else color
            image = cutout(cutout_key, image, cutout_pixels, fill)
        return image

    def augment(keys: jax.Array, images: jax.Array) -> jax.Array:
        if side is not None and images.shape[1:3] != (side, side):
            images = resize(images, side, dtype)
        return jax.vmap(augment_one)(keys, images)

    return augment
