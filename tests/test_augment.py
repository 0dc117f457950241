import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.augment import NORMALIZATIONS, flip, make_augment, make_normalize, translate


def images(n, height=6, width=7, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(1, 256, (n, height, width, 3)), dtype)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def shift_of(original, shifted, pixels):
    """The (row, column) where `shifted` lies in the zero-padded original; there must be one."""
    height, width, _ = original.shape
    padded = np.pad(original, ((pixels, pixels), (pixels, pixels), (0, 0)))
    (found,) = [
        (row, column)
        for row in range(2 * pixels + 1)
        for column in range(2 * pixels + 1)
        if np.array_equal(padded[row : row + height, column : column + width], shifted)
    ]
    return found


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalize_subtracts_the_mean_and_divides_by_the_deviation(name):
    mean, std = np.float64(NORMALIZATIONS[name])
    raw = images(2)
    expected = (np.asarray(raw) / 255.0 - mean) / std
    normalize = make_normalize(name)
    of_bytes, of_floats = normalize(raw), normalize(raw.astype(jnp.float32) / 255)
    assert of_bytes.dtype == of_floats.dtype == jnp.float32
    np.testing.assert_allclose(of_bytes, expected, atol=1e-5)
    np.testing.assert_allclose(of_floats, expected, atol=1e-5)


def test_an_unknown_normalization_is_named():
    with pytest.raises(ValueError, match="'mnist'.*cifar10, imagenet, half"):
        make_normalize("mnist")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flip_is_exact_at_the_ends_of_its_range(dtype):
    batch = images(20, dtype=dtype)
    never = jax.vmap(lambda k, x: flip(k, x, 0.0))(keys(20), batch)
    always = jax.vmap(lambda k, x: flip(k, x, 1.0))(keys(20), batch)
    assert never.dtype == always.dtype == dtype
    np.testing.assert_array_equal(never, batch)
    np.testing.assert_array_equal(always, np.asarray(batch)[:, :, ::-1])


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_flip_has_its_frequency_and_mirrors_whole_images(rate):
    n = 2000
    batch = images(n, 2, 3)
    flipped = np.asarray(jax.vmap(lambda k, x: flip(k, x, rate))(keys(n), batch))
    mirrored = np.all(flipped == np.asarray(batch)[:, :, ::-1], axis=(1, 2, 3))
    kept = np.all(flipped == np.asarray(batch), axis=(1, 2, 3))
    assert np.all(mirrored | kept)
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs(mirrored.mean() - rate) < 4 * deviation


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("pixels", [1, 2])
def test_translate_takes_every_window_of_the_padded_image(pixels, dtype):
    image = images(1, dtype=dtype)[0]
    shifted = jax.jit(jax.vmap(lambda k: translate(k, image, pixels)))(keys(400))
    assert shifted.dtype == dtype
    shifts = [shift_of(np.asarray(image), np.asarray(x), pixels) for x in shifted]
    assert len(set(shifts)) == (2 * pixels + 1) ** 2


def test_nothing_asked_for_is_none():
    assert make_augment() is None
    assert make_augment(flip_rate=0.0, translate_pixels=0) is None


def test_flip_and_shift_are_drawn_apart():
    augment = make_augment(flip_rate=0.5, translate_pixels=1)
    image = np.asarray(images(1)[0])
    found = set()
    for x in np.asarray(jax.jit(augment)(keys(400), jnp.stack([image] * 400))):
        for mirrored, source in ((False, image), (True, image[:, ::-1])):
            padded = np.pad(source, ((1, 1), (1, 1), (0, 0)))
            found |= {
                (mirrored, row, column)
                for row in range(3)
                for column in range(3)
                if np.array_equal(padded[row : row + 6, column : column + 7], x)
            }
    assert len(found) == 18


@pytest.mark.parametrize(
    "settings",
    [{"flip_rate": 0.5}, {"translate_pixels": 2}, {"flip_rate": 0.5, "translate_pixels": 2}],
)
class TestAugment:
    def test_the_same_key_gives_the_same_image(self, settings):
        augment, batch = make_augment(**settings), images(8)
        np.testing.assert_array_equal(augment(keys(8), batch), augment(keys(8), batch))
        assert not np.array_equal(augment(keys(8), batch), augment(keys(8, seed=1), batch))

    def test_an_image_does_not_depend_on_its_batch(self, settings):
        augment, batch = make_augment(**settings), images(8)
        whole = augment(keys(8), batch)
        order = np.array([5, 0, 7])
        np.testing.assert_array_equal(augment(keys(8)[order], batch[order]), whole[order])

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_shape_and_dtype_are_kept(self, settings, dtype):
        batch = images(3, dtype=dtype)
        out = make_augment(**settings)(keys(3), batch)
        assert (out.shape, out.dtype) == (batch.shape, batch.dtype)
