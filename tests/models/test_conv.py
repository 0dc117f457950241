import math
from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from jax import lax

from jaxcifar.models import layers
from jaxcifar.models.conv import FORMS, PART_NUMBERS, _in_parts, conv2d, cpu_forms
from jaxcifar.models.resnet import resnet18

compiling = settings(max_examples=6, deadline=None, derandomize=True)
# Each shape is compiled and run once, so optimised compiling would take most of the time.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def reference(images, kernel, stride, padding):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def operands(images, kernel, dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in (images, kernel))


def three_passes(conv, images, kernel):
    """Output, gradient of the images, gradient of the kernel, for one random cotangent."""

    @once
    def passes(images, kernel, cotangent):
        output, pull = jax.vjp(conv, images, kernel)
        return output, *pull(cotangent)

    output = jax.eval_shape(conv, images, kernel)
    cotangent = np.random.default_rng(1).normal(size=output.shape)
    return passes(images, kernel, jnp.asarray(cotangent, output.dtype))


def assert_equal_passes(images_shape, kernel_shape, stride, padding, lowering):
    images, kernel = operands(images_shape, kernel_shape)
    ours = three_passes(
        lambda x, w: conv2d(x, w, stride=stride, padding=padding, lowering=lowering), images, kernel
    )
    theirs = three_passes(lambda x, w: reference(x, w, stride, padding), images, kernel)
    for name, a, b in zip(("output", "images", "kernel"), ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        error, size = np.max(np.abs(a - b)), np.max(np.abs(b))
        assert error <= 1e-4 * size, f"{name} of {images_shape} * {kernel_shape} / {stride}"


@st.composite
def convolutions(draw, largest, channels):
    """(images, kernel, stride, padding) that fit."""
    size = draw(st.sampled_from((1, 3, 5, 7)))
    padding = draw(st.integers(0, 3))
    least = max(1, size - 2 * padding)
    side = st.integers(least, max(least, largest))
    c_in, c_out = draw(st.sampled_from(channels)), draw(st.integers(1, 5))
    images = (draw(st.integers(1, 3)), draw(side), draw(side), c_in)
    return images, (size, size, c_in, c_out), draw(st.integers(1, 2)), padding


@pytest.mark.parametrize("form", ["xla", "patches"])
@compiling
@given(case=convolutions(largest=8, channels=(1, 3, 6)))
def test_every_form_is_the_convolution(form, case):
    assert_equal_passes(*case, form)


@compiling
@given(case=convolutions(largest=4, channels=(1, 3, 6)))
def test_the_dense_form_is_the_convolution(case):
    assert_equal_passes(*case, "dense")


@settings(compiling, max_examples=10)
@given(case=convolutions(largest=10, channels=(2, 5, 130)))
@example(case=((6, 12, 12, 3), (7, 7, 3, 4), 2, 3))  # the stem's weight gradient, in parts
def test_auto_is_the_convolution(case):
    assert_equal_passes(*case, "auto")


def convolutions_of_resnet18(stem, monkeypatch):
    cases = set()

    def record(images, kernel, *, stride, padding, lowering):
        cases.add(((2, *images.shape[1:]), kernel.shape, stride, padding))
        return conv2d(images, kernel, stride=stride, padding=padding, lowering=lowering)

    monkeypatch.setattr(layers, "conv2d", record)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = resnet18(stem=stem)
    jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
    return sorted(cases)


@pytest.mark.parametrize(
    ("stem", "distinct"), [("imagenet", 11), pytest.param("cifar", 11, marks=pytest.mark.slow)]
)
def test_auto_is_the_convolution_in_every_layer_of_resnet18(stem, distinct, monkeypatch):
    cases = convolutions_of_resnet18(stem, monkeypatch)
    assert len(cases) == distinct
    for case in cases:
        assert_equal_passes(*case, "auto")


@pytest.mark.parametrize("channels", [5, 40])
def test_wide_maps_of_few_channels_use_winograd_only_for_the_weight_gradient(channels):
    shapes = (2, 12, 9, channels), (3, 3, channels, channels)
    forms = cpu_forms(*shapes, 1, 1)[:3]
    assert (forms == ("xla", "winograd", "xla")) == (channels == 5)
    assert_equal_passes(*shapes, 1, 1, "auto")


def test_a_batch_of_500_is_done_at_once_and_an_enormous_one_in_parts(monkeypatch):
    cases = [case for case in convolutions_of_resnet18("cifar", monkeypatch) if case[1][0] == 3]
    assert len(cases) == 8
    for (_, *shape), *rest in cases:
        assert cpu_forms((500, *shape), *rest).images >= 500
        part = cpu_forms((10**6, *shape), *rest).images
        assert 1 < part < 10**6
        assert part * math.prod(shape) < PART_NUMBERS


def test_resnet18_uses_every_combination_of_forms(monkeypatch):
    used = {
        cpu_forms(*case)[:3]
        for stem in ("imagenet", "cifar")
        for case in convolutions_of_resnet18(stem, monkeypatch)
    }
    assert used == {
        ("patches", "patches", "patches"),
        ("dense", "dense", "dense"),
        ("xla", "patches", "patches"),
        ("winograd", "winograd", "winograd"),
    }


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_auto_is_only_xlas_convolution_off_the_cpu(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jaxpr = jax.make_jaxpr(lambda x, w: conv2d(x, w, stride=2, padding=1))(
        *operands((2, 8, 8, 64), (3, 3, 64, 128))
    )
    assert [e.primitive.name for e in jaxpr.eqns] == ["conv_general_dilated"]


@pytest.mark.parametrize("lowering", ["auto", *FORMS])
def test_bfloat16_stays_bfloat16(lowering):
    images, kernel = operands((2, 4, 4, 8), (3, 3, 8, 16), jnp.bfloat16)
    stride = 1 if lowering in ("auto", "winograd") else 2
    ours = three_passes(
        lambda x, w: conv2d(x, w, stride=stride, padding=1, lowering=lowering), images, kernel
    )
    wide = (images.astype(jnp.float32), kernel.astype(jnp.float32))
    expected = reference(*wide, stride, 1)
    assert {a.dtype for a in ours} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(
        ours[0].astype(jnp.float32), expected, atol=0.03 * np.max(np.abs(expected))
    )


# A case for each path through `conv2d` on the CPU: one form per pass, and one form for all.
by_pass = pytest.mark.parametrize("channels", [3, 8])


@by_pass
def test_it_works_under_vmap_over_kernels(channels):
    images, kernel = operands((2, 6, 6, channels), (3, 3, channels, 4))
    kernels = jnp.stack([kernel, 2 * kernel, kernel**2])

    def gradient(conv):
        return jax.grad(lambda w: jnp.sum(jnp.sin(conv(images, w))))

    batched = jax.jit(jax.vmap(gradient(lambda x, w: conv2d(x, w, padding=1))))(kernels)
    looped = [gradient(lambda x, w: reference(x, w, 1, 1))(w) for w in kernels]
    for a, b in zip(batched, looped, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.max(np.abs(b)))


@by_pass
def test_it_works_in_the_gradient_of_a_jitted_function(channels):
    images, kernel = operands((2, 6, 6, channels), (3, 3, channels, 4))
    ours = jax.grad(jax.jit(lambda w: jnp.sum(jnp.sin(conv2d(images, w, padding=1)))))(kernel)
    theirs = jax.grad(lambda w: jnp.sum(jnp.sin(reference(images, w, 1, 1))))(kernel)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.max(np.abs(theirs)))


def test_an_unknown_lowering_is_named():
    with pytest.raises(ValueError, match=f"'fft'; choose from auto, {', '.join(FORMS)}"):
        conv2d(*operands((1, 4, 4, 2), (3, 3, 2, 2)), lowering="fft")


def test_channels_that_differ_are_named():
    with pytest.raises(ValueError, match="images have 3 channels, but the kernel takes 2"):
        conv2d(*operands((1, 4, 4, 3), (3, 3, 2, 2)))


def test_winograd_refuses_other_convolutions():
    with pytest.raises(ValueError, match="3x3 kernel .* not 3x3 with stride 2 and padding 1"):
        conv2d(*operands((1, 4, 4, 2), (3, 3, 2, 2)), stride=2, padding=1, lowering="winograd")


@pytest.mark.parametrize("summed", [False, True])
@settings(deadline=None, derandomize=True, max_examples=30)
@given(n=st.integers(1, 13), most=st.integers(1, 15))
def test_the_parts_add_up_to_the_whole(summed, n, most):
    x = jnp.arange(3.0 * n).reshape(n, 3)

    def f(x):
        return jnp.sum(x**2, axis=0) if summed else x**2

    whole = _in_parts(f, most, x, summed=summed)
    np.testing.assert_allclose(whole, f(x), rtol=1e-6)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(n=st.integers(1, 40), most=st.integers(1, 12))
def test_no_part_is_larger_than_the_limit(n, most):
    sizes = []

    def f(x):
        sizes.append(len(x))
        return x

    _in_parts(f, most, jnp.zeros((n, 2)))
    assert max(sizes) <= most


def test_parts_are_summed_in_float32():
    x = jnp.ones((4096, 1), jnp.bfloat16)  # added one by one in bfloat16, the sum stops at 256
    total = _in_parts(lambda x: jnp.sum(x, axis=0), 1, x, summed=True)
    assert total.dtype == jnp.bfloat16
    assert total[0] == 4096


@pytest.mark.parametrize("lowering", ["auto", *FORMS])
def test_a_kernel_larger_than_the_padded_map_is_named(lowering):
    with pytest.raises(ValueError, match="7x7 kernel does not fit a map of 8x4 with padding 1"):
        conv2d(*operands((1, 8, 4, 2), (7, 7, 2, 2)), padding=1, lowering=lowering)
