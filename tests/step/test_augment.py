import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcifar.step.augment import (
    NORMALIZATIONS,
    _windows,
    cutout,
    flip,
    make_augment,
    make_normalize,
    make_preprocess,
    resize,
    rotate,
    shifted_views,
    translate,
)

PILLOW = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


def images(n, height=6, width=7, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(1, 256, (n, height, width, 3)), dtype)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def shift_of(original, shifted, pixels):
    """The only (row, column) of `shifted` in the zero-padded original."""
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
    with pytest.raises(ValueError, match="'mnist'.*cifar10, cifar100, imagenet, half"):
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


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (6, 7)])
def test_a_reflecting_shift_is_a_window_of_numpys_reflected_image(height, width, dtype):
    image = images(1, height, width)[0].astype(dtype)
    # The amount is traced, as in a run.
    shift = jax.jit(lambda key, amount: translate(key, image, amount, "reflect"))

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1), pixels=st.integers(0, min(height, width) - 1))
    def check(seed, pixels):
        key = jax.random.key(seed)
        found = shift(key, pixels)
        assert found.dtype == dtype
        # The draw is that of a shift with zeros.
        down, right = np.asarray(jax.random.randint(key, (2,), 0, 2 * pixels + 1))
        edge = (pixels, pixels)
        padded = np.pad(np.asarray(image, np.float32), (edge, edge, (0, 0)), mode="reflect")
        expected = padded[down : down + height, right : right + width]
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected)

    check()


def test_reflecting_shifts_take_every_window_and_fill_only_the_border():
    batch = images(400)
    zero, reflect = (
        np.asarray(make_augment(translate_pixels=2, translate_fill=fill)(keys(400), batch))
        for fill in ("zero", "reflect")
    )
    inside = zero != 0  # the images have no zero
    np.testing.assert_array_equal(zero[inside], reflect[inside])
    assert (reflect != 0).all()
    assert not inside.all()
    np.testing.assert_array_equal(make_augment(translate_pixels=2)(keys(400), batch), zero)


def test_an_unknown_fill_is_named():
    with pytest.raises(ValueError, match="'mirror'; choose from zero, reflect"):
        translate(keys(1)[0], images(1)[0], 1, "mirror")


@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_shifted_views_are_the_corners_of_numpys_reflected_images(pixels):
    batch = np.asarray(images(3, 6, 7))
    edge = (pixels, pixels)
    padded = np.pad(batch, ((0, 0), edge, edge, (0, 0)), mode="reflect")
    up_left, down_right = shifted_views(jnp.asarray(batch), pixels)
    np.testing.assert_array_equal(up_left, padded[:, 2 * pixels :, 2 * pixels :])
    np.testing.assert_array_equal(down_right, padded[:, :6, :7])
    # Inside, the pixels have moved up and to the left.
    np.testing.assert_array_equal(up_left[:, 0, 0], batch[:, pixels, pixels])


def photograph(digits, side=24):
    """A real image with many grey levels, uint8 [side, side, 3]."""
    rows = np.concatenate(list(digits.test.images[:3]), axis=0)
    return np.asarray(Image.fromarray(rows).resize((side, side), PILLOW["bilinear"]))


def grey_levels(images):
    """Images in uint8, or in floats in [0, 1], as floats in 0 to 255."""
    scale = 1 if images.dtype == jnp.uint8 else 255
    return np.asarray(images.astype(jnp.float32), np.float64) * scale


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("side", [56, 24, 17, 8])
def test_resize_is_pillows(digits, side, dtype):
    image = photograph(digits)
    found = resize(jnp.asarray(image)[None], side, dtype)
    assert (found.shape, found.dtype) == ((1, side, side, 3), dtype)
    expected = np.asarray(Image.fromarray(image).resize((side, side), PILLOW["bilinear"]))
    errors = np.abs(grey_levels(found)[0] - expected)
    assert errors.mean() < 0.5  # Pillow rounds to whole grey levels, twice
    assert errors.max() < 2


# (40, 2): a sum of 40 terms, which is a loop; (7, 7): nothing to do.
@pytest.mark.parametrize(
    ("size", "side"), [(8, 32), (9, 20), (32, 24), (20, 6), (40, 2), (1, 5), (7, 7)]
)
def test_resize_is_jaxs(size, side):
    batch = images(2, size, size)
    found = resize(batch, side)
    expected = jax.image.resize(batch / 255, (2, side, side, 3), "bilinear", antialias=True)
    np.testing.assert_allclose(found, expected, atol=5e-6)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 300), side=st.integers(1, 300))
def test_the_weights_of_resizing_are_a_triangle_around_each_centre(size, side):
    rows, weights = _windows(size, side)
    assert rows.min() >= 0
    assert rows.max() < size
    assert len(rows) <= max(2, 2 * -(-size // side))
    matrix = np.zeros((side, size))
    np.add.at(matrix, (np.arange(side), rows), weights)
    centre, half = (np.arange(side) + 0.5) * size / side - 0.5, max(size / side, 1)
    triangle = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(size)) / half)
    np.testing.assert_allclose(matrix, triangle / triangle.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("height", "width", "side"), [(6, 7, 16), (12, 5, 6), (9, 30, 9)])
def test_resize_is_torchs(height, width, side):
    torch = pytest.importorskip("torch")
    batch = images(2, height, width)
    channels_first = torch.tensor(np.asarray(batch / 255)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        channels_first, (side, side), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(resize(batch, side), expected.permute(0, 2, 3, 1), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("size", "side"), [(8, 32), (32, 224), (32, 16), (512, 16)])
def test_resize_has_no_matrix_product_which_gpus_did_not_compile(size, side, dtype):
    """XLA refused the one of `jax.image.resize` with --xla_gpu_autotune_level=0."""
    batch = jax.ShapeDtypeStruct((4, 2, size, size, 3), jnp.uint8)
    many = jax.vmap(lambda images: resize(images, side, dtype))
    assert "dot_general" not in jax.jit(many).lower(batch).as_text()


def test_resize_under_vmap_is_each_by_itself():
    batches = jnp.stack([images(2, 6, 6), images(2, 6, 6)[::-1]])
    each = jnp.stack([resize(batch, 9) for batch in batches])
    np.testing.assert_allclose(jax.vmap(lambda x: resize(x, 9))(batches), each, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_rotate_is_pillows(digits, interpolation):
    image = photograph(digits)
    turn = jax.jit(lambda degrees: rotate(jnp.asarray(image), degrees, interpolation))
    for degrees in (-30.0, 0.0, 11.5, 30.0, 45.0, 90.0, 123.0, 180.0):
        expected = Image.fromarray(image).rotate(degrees, PILLOW[interpolation])
        errors = np.abs(grey_levels(turn(degrees)) - np.asarray(expected))
        # Up to the border, which both handle alike. Pillow's rounding is one grey level; a sample
        # point on the edge between two pixels may take either.
        assert errors.mean() < (0.01 if interpolation == "nearest" else 0.6), degrees
        assert np.mean(errors > 1.01) < 0.01, degrees


@pytest.mark.parametrize("side", [7, 8])
def test_rotation_by_zero_changes_nothing_and_by_a_right_angle_is_exact(side):
    image = images(1, side, side)[0]
    for interpolation in PILLOW:
        np.testing.assert_allclose(grey_levels(rotate(image, 0.0, interpolation)), image, atol=1e-4)
    np.testing.assert_array_equal(rotate(image, 0.0), image)
    np.testing.assert_array_equal(rotate(image, 90.0), np.rot90(image))
    assert rotate(image, 10.0).dtype == jnp.uint8


def test_an_unknown_interpolation_is_named():
    with pytest.raises(ValueError, match="'cubic'; choose from nearest, bilinear"):
        rotate(images(1)[0], 10.0, "cubic")


def test_random_rotations_are_uniform():
    """A pixel far to the right of the centre shows the angle of its image."""
    n, side = 300, 65
    image = np.zeros((side, side, 1), np.float32)
    image[side // 2, -4:] = 1.0
    augment = make_augment(rotate_degrees=30.0, interpolation="bilinear")
    rotated = np.asarray(augment(keys(n), jnp.stack([image] * n)))[..., 0]
    down, right = np.mgrid[:side, :side] - side // 2
    angles = np.arctan2(-(rotated * down).sum((1, 2)), (rotated * right).sum((1, 2)))
    degrees = np.sort(np.rad2deg(angles))
    assert np.abs(degrees).max() < 30.5
    # The Kolmogorov-Smirnov test at a level of one in a thousand.
    assert np.abs(degrees / 60 + 0.5 - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), pixels=st.sampled_from([1, 3, 4]))
def test_cutout_covers_one_square_around_a_pixel_of_the_image(seed, pixels):
    image = images(1, 6, 7)[0]
    found = np.asarray(cutout(jax.random.key(seed), image, pixels, jnp.asarray([0.0, 0.0, 0.0])))
    rows, columns = np.nonzero((found == 0).all(axis=-1))  # the image itself has no zero
    assert (found[(found != 0)] == np.asarray(image)[found != 0]).all()
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert rows.size == height * width, "it is a rectangle"
    assert height <= pixels
    assert width <= pixels
    assert height == pixels or rows.min() == 0 or rows.max() == 5, "cut off only at the border"
    assert width == pixels or columns.min() == 0 or columns.max() == 6


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_square_of_cutout_is_zero_after_normalising(dtype):
    mean, _ = NORMALIZATIONS["imagenet"]
    batch = jnp.full((4, 8, 8, 3), 1 if dtype == np.float32 else 255, dtype)
    augment = make_augment(cutout_pixels=3, cutout_fill=mean)
    seen = np.asarray(make_preprocess("imagenet")(augment(keys(4), batch)))
    least = np.abs(seen).max(axis=-1).min(axis=(1, 2))
    assert (least < (1e-6 if dtype == np.float32 else 0.5 / 255 / 0.224 * 1.01)).all()
    assert np.median(np.abs(seen)) > 1


def test_preprocess_resizes_images_of_another_size_and_normalises():
    batch = images(2, 6, 6)
    expected = make_normalize("half")(resize(batch, 12))
    np.testing.assert_array_equal(make_preprocess("half", 12)(batch), expected)
    np.testing.assert_array_equal(make_preprocess("half", 6)(batch), make_normalize("half")(batch))
    np.testing.assert_array_equal(make_preprocess("half")(batch), make_normalize("half")(batch))


def test_preprocess_shrinks_images_of_the_full_size():
    batch = images(2, 6, 6)
    full = make_preprocess("half", 12)(batch)
    shrunk = make_preprocess("half", 12, 5)(batch)
    np.testing.assert_allclose(shrunk, resize(full, 5), atol=1e-6)
    np.testing.assert_array_equal(
        make_preprocess("half", None, 5)(batch), make_normalize("half")(resize(batch, 5))
    )


def test_images_are_rotated_at_the_size_of_the_networks_input():
    batch = images(3, 6, 6)
    augment = make_augment(side=12, rotate_degrees=40.0, interpolation="bilinear")
    large = make_augment(rotate_degrees=40.0, interpolation="bilinear")
    found = augment(keys(3), batch)
    assert (found.shape, found.dtype) == ((3, 12, 12, 3), jnp.float32)
    np.testing.assert_array_equal(found, large(keys(3), resize(batch, 12)))
    half = make_augment(side=12, rotate_degrees=40.0, dtype=jnp.bfloat16)
    assert half(keys(3), batch).dtype == jnp.bfloat16


def test_a_transformation_does_not_change_the_draws_of_another():
    batch = images(20, 8, 8)
    shifted = make_augment(translate_pixels=2)(keys(20), batch)
    both = make_augment(translate_pixels=2, rotate_degrees=1e-6)(keys(20), batch)
    np.testing.assert_array_equal(shifted, both)


def test_without_random_transformations_it_is_none():
    assert make_augment() is None
    assert make_augment(side=64) is None
    assert make_augment(flip_rate=0.0, translate_pixels=0) is None
    assert make_augment(translate_fill="reflect") is None


def test_flip_and_shift_are_drawn_independently():
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
    [
        {"flip_rate": 0.5},
        {"translate_pixels": 2},
        {"flip_rate": 0.5, "translate_pixels": 2},
        {"translate_pixels": 2, "translate_fill": "reflect"},
        {"rotate_degrees": 30.0, "cutout_pixels": 3},
    ],
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
