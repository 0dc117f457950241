"""Pure image transformations, each ``(key, image) -> image`` for one image.

Random ones take a key of their own for each example (seed, epoch, index), so that a batch is
augmented alike however it is split over steps or devices. The flip and the shift keep the dtype
(uint8 stays uint8); `normalize` comes last, inside the train step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (keys [n], images) -> images

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
        scale = 255.0 if images.dtype == jnp.uint8 else 1.0
        return (images.astype(jnp.float32) / scale - mean) / std

    return normalize


def flip(key: jax.Array, image: jax.Array, rate: float) -> jax.Array:
    """Mirror left and right with probability `rate`. Image [h, w, c], any dtype."""
    return jnp.where(jax.random.bernoulli(key, rate), image[:, ::-1], image)


def translate(key: jax.Array, image: jax.Array, pixels: int) -> jax.Array:
    """Shift by up to `pixels` in each direction, filling with zero (pad, then crop at random)."""
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    row, column = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def make_augment(*, flip_rate: float = 0.0, translate_pixels: int = 0) -> Augment | None:
    """Compose the transformations asked for into ``(keys [n], images [n, h, w, c]) -> images``.

    Returns None where nothing is asked for, so that the epoch can leave the keys out.
    """
    if not flip_rate and not translate_pixels:
        return None

    def augment_one(key: jax.Array, image: jax.Array) -> jax.Array:
        flip_key, translate_key = jax.random.split(key)
        if flip_rate:
            image = flip(flip_key, image, flip_rate)
        if translate_pixels:
            image = translate(translate_key, image, translate_pixels)
        return image

    return jax.vmap(augment_one)
