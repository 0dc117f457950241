"""Image transformations, pure: what the network sees, and random variations of it.

Random ones take a key of their own for each example (seed, epoch, index), so that a batch is
augmented alike however it is split over steps or devices. Lengths are in pixels of the image as the
network sees it: resizing comes first, then flip, rotation, shift and cutout; `make_preprocess`,
which ends in floats normalised per channel, comes last, inside the train step. Only resizing and
bilinear rotation make uint8 images floats in [0, 1]; the others keep the dtype.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxcifar.common.numbers import is_zero

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (keys [n], images) -> images
Interpolation = Literal["nearest", "bilinear"]
# Per-channel mean and standard deviation of RGB in [0, 1].
NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # Measured over CIFAR-10's 50,000 train images.
    "cifar10": ((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    # torchvision's ImageNet weights.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Maps [0, 1] to [-1, 1]; for data without published figures, such as digits.
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def make_normalize(name: str) -> Callable[[jax.Array], jax.Array]:
    """Build ``images -> float32 images``: (x - mean) / std per channel.

    The function takes uint8 [..., 3] in 0 to 255 or floats [..., 3] in [0, 1].

    Raises:
        ValueError: a name not in `NORMALIZATIONS`.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(f"unknown normalization {name!r}; choose from {', '.join(NORMALIZATIONS)}")
    mean, std = (jnp.asarray(values, jnp.float32) for values in NORMALIZATIONS[name])

    def normalize(images: jax.Array) -> jax.Array:
        return (unit_range(images) - mean) / std

    return normalize


def flip(key: jax.Array, image: jax.Array, rate: float) -> jax.Array:
    """Mirror left and right with probability `rate`. Image [h, w, c], any dtype."""
    return jnp.where(jax.random.bernoulli(key, rate), image[:, ::-1], image)


def translate(key: jax.Array, image: jax.Array, pixels: int) -> jax.Array:
    """Shift by up to `pixels` in each direction, filling with zero (pad, then crop at random)."""
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    row, column = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def unit_range(images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """uint8 in 0 to 255 to floats in [0, 1]; floats keep their values."""
    return images.astype(dtype) / 255 if images.dtype == jnp.uint8 else images.astype(dtype)


def resize(images: jax.Array, side: int, dtype: Any = jnp.float32) -> jax.Array:
    """Images [n, h, w, c] to [n, side, side, c], floats in [0, 1] where they were uint8.

    Bilinear as Pillow's `Image.resize` and torchvision's on PIL images: pixel centres at one half,
    and an image made smaller is smoothed first.
    """
    n, _, _, channels = images.shape
    shape = (n, side, side, channels)
    # In float32, then rounded: of bfloat16 images the weights would be bfloat16, too.
    resized = jax.image.resize(unit_range(images), shape, "bilinear", antialias=True)
    return resized.astype(dtype)


def rotate(
    image: jax.Array, degrees: jax.Array | float, interpolation: Interpolation = "nearest"
) -> jax.Array:
    """Turn [h, w, c] counter-clockwise about its centre, keeping its size, zero outside.

    As Pillow's `Image.rotate`, to which torchvision's `RandomRotation` comes down on PIL images
    ("nearest" is the default of both): every pixel centre is turned back, and what lies there is
    taken, or blended of the four pixels around it, those beyond the border standing for its last.

    Returns:
        [h, w, c]: "nearest" in the image's dtype; "bilinear" floats, in [0, 1] where they were
        uint8.

    Raises:
        ValueError: an unknown interpolation.
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(
            f"unknown interpolation {interpolation!r}; choose from "
            f"{', '.join(get_args(Interpolation))}"
        )
    height, width, channels = image.shape
    # In float32 whatever the image is: in bfloat16 a coordinate of 200 is a whole pixel off.
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


def cutout(key: jax.Array, image: jax.Array, pixels: int, fill: jax.Array) -> jax.Array:
    """Cover a square of `pixels` a side, centred anywhere, by the colour `fill` [c].

    DeVries and Taylor 2017 (arXiv:1708.04552): part of the square may lie outside the image. They
    cover with zero after normalising, which is the data's mean before it.

    Args:
        key: of this example.
        image: [h, w, c], any dtype.
        pixels: side of the square.
        fill: in the image's scale.
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
    normalization: str, side: int | None = None
) -> Callable[[jax.Array], jax.Array]:
    """Build ``images -> what the network sees``: resized to `side` (if given), then normalised.

    Images already of that side, as augmentation leaves them, are not resized again.

    Raises:
        ValueError: a name not in `NORMALIZATIONS`.
    """
    normalize = make_normalize(normalization)

    def preprocess(images: jax.Array) -> jax.Array:
        if side is not None and images.shape[1:3] != (side, side):
            images = resize(images, side)
        return normalize(images)

    return preprocess


def make_augment(
    *,
    side: int | None = None,
    flip_rate: float = 0.0,
    rotate_degrees: float = 0.0,
    interpolation: Interpolation = "nearest",
    translate_pixels: int = 0,
    cutout_pixels: int = 0,
    cutout_fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
    dtype: Any = jnp.float32,
) -> Augment | None:
    """Compose what is asked for into ``(keys [n], images [n, h, w, c]) -> images``.

    Args:
        side: resize to it first, so that what follows happens at the size the network sees.
        flip_rate: probability of a horizontal flip.
        rotate_degrees: rotation by a uniform angle up to this either way.
        interpolation: of the rotation.
        translate_pixels: shift by up to so many each way.
        cutout_pixels: side of a covered square.
        cutout_fill: its colour, in [0, 1].
        dtype: of images that become floats.

    Returns:
        None where nothing random is asked for, so that the epoch can leave the keys out.
    """
    amounts = (flip_rate, rotate_degrees, translate_pixels, cutout_pixels)
    if all(is_zero(amount) for amount in amounts):
        return None

    def augment_one(key: jax.Array, image: jax.Array) -> jax.Array:
        flip_key, translate_key = jax.random.split(key)
        # Not out of one split: a rotation must not change what a shift draws.
        rotate_key, cutout_key = jax.random.fold_in(key, 2), jax.random.fold_in(key, 3)
        if not is_zero(flip_rate):
            image = flip(flip_key, image, flip_rate)
        if not is_zero(rotate_degrees):
            share = jax.random.uniform(rotate_key, (), minval=-1, maxval=1)
            if interpolation == "bilinear":
                image = unit_range(image, dtype)
            image = rotate(image, share * rotate_degrees, interpolation)
        if translate_pixels:
            image = translate(translate_key, image, translate_pixels)
        if cutout_pixels:
            color = jnp.asarray(cutout_fill)
            fill = jnp.round(255 * color) if image.dtype == jnp.uint8 else color
            image = cutout(cutout_key, image, cutout_pixels, fill)
        return image

    def augment(keys: jax.Array, images: jax.Array) -> jax.Array:
        if side is not None and images.shape[1:3] != (side, side):
            images = resize(images, side, dtype)
        return jax.vmap(augment_one)(keys, images)

    return augment
