from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from jaxcifar.models.winograd import F4, WHOLE_MAP, winograd

compiling = settings(max_examples=8, deadline=None, derandomize=True)


def reference(images, kernel):
    return lax.conv_general_dilated(
        images, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# Each shape is compiled and run once, so optimised compiling would take most of the time.
@partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def passes(conv, images, kernel, cotangent):
    output, pull = jax.vjp(conv, images, kernel)
    return output, *pull(cotangent)


def errors(images_shape, c_out, dtype):
    """The largest error of each pass, relative to the pass's largest number."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=images_shape), dtype)
    kernel = jnp.asarray(rng.normal(size=(3, 3, images_shape[3], c_out)), dtype)
    cotangent = jnp.asarray(rng.normal(size=(*images_shape[:3], c_out)), dtype)
    ours = passes(winograd, images, kernel, cotangent)
    theirs = passes(reference, images, kernel, cotangent)
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    assert {a.dtype for a in ours} == {jnp.dtype(dtype)}
    return [
        float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(ours, theirs, strict=True)
    ]


@compiling
@given(
    n=st.integers(1, 3),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    c_in=st.integers(1, 4),
    c_out=st.integers(1, 4),
)
def test_it_is_the_convolution_for_maps_of_any_size(n, height, width, c_in, c_out):
    with jax.enable_x64(True):
        assert max(errors((n, height, width, c_in), c_out, jnp.float64)) < 1e-12


@pytest.mark.parametrize(
    ("images", "bound"),
    [((4, 8, 8, 64), 2e-5), ((4, 4, 4, 128), 2e-5), ((4, 2, 2, 256), 2e-6)],
    ids=["8x8x64", "4x4x128", "2x2x256"],
)
def test_its_rounding_error_in_float32_is_far_below_one_in_ten_thousand(images, bound):
    assert max(errors(images, images[3], jnp.float32)) < bound


@pytest.mark.parametrize("scheme", [F4, WHOLE_MAP], ids=["F4", "whole map"])
def test_a_scheme_correlates_exactly(scheme):
    taps = np.array([3.0, -1.0, 2.0])
    pixels = np.arange(scheme.inputs.shape[1]) ** 2 - 5.0
    outputs = scheme.outputs @ ((scheme.kernel @ taps) * (scheme.inputs @ pixels))
    # A tile without padding is the whole map, which is surrounded by zeros.
    padded = np.pad(pixels, 1 - scheme.padding)
    np.testing.assert_allclose(outputs, np.correlate(padded, taps, "valid"), atol=1e-12)


def test_the_rest_of_a_partial_tile_does_not_affect_the_map():
    images = jnp.zeros((1, 5, 6, 1)).at[0, 4, 5, 0].set(1.0)
    kernel = jnp.ones((3, 3, 1, 1))
    expected = np.zeros((5, 6))
    expected[3:, 4:] = 1.0
    np.testing.assert_allclose(winograd(images, kernel)[0, :, :, 0], expected, atol=1e-6)


def test_an_image_that_is_not_finite_does_not_affect_the_others():
    images = jnp.ones((2, 4, 4, 2)).at[0, 1, 1, 0].set(jnp.nan)
    outputs = winograd(images, jnp.ones((3, 3, 2, 2)))
    assert bool(jnp.isnan(outputs[0]).any())
    np.testing.assert_allclose(outputs[1], reference(images, jnp.ones((3, 3, 2, 2)))[1], rtol=1e-5)
