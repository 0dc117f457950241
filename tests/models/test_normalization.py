"""Both arithmetics against the formulas written plainly, in float64 and by JAX's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.common.target import built_for
from jaxcifar.models.layers import BatchNorm
from jaxcifar.models.normalization import (
    Over,
    normalize,
    normalize_batch,
    relu_of_sum,
)
from jaxcifar.models.resnet import ResNet

WHOLE = Over(None, grouped=False)


def maps(seed=0, *, shape=(6, 4, 5, 3), mean=0.0, std=1.0):
    rng = np.random.default_rng(seed)
    return np.asarray(mean + std * rng.normal(size=shape), np.float32)


def pulled(platform, x, scale, bias, near, cotangent, over=WHOLE):
    """Output, statistics and gradients of x, scale and bias."""
    with built_for(platform):

        def f(x, scale, bias):
            y, mean, var = normalize_batch(x, scale, bias, near, over)
            return y, (mean, var)

        y, pull, statistics = jax.vjp(f, x, scale, bias, has_aux=True)
        return y, statistics, pull(cotangent)


def plainly(x, scale, bias, cotangent, over=WHOLE):
    """What `pulled` returns, by NumPy's formulas and JAX's own gradient, in float64."""
    axes = tuple(range(1 if over.grouped else 0, x.ndim - 1))

    def f(x, scale, bias):
        mean, var = (s(x, axes, keepdims=over.grouped) for s in (jnp.mean, jnp.var))
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, (mean, var)

    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in (x, scale, bias, cotangent)]
        y, pull, statistics = jax.vjp(f, *wide[:3], has_aux=True)
        return jax.tree.map(np.asarray, (y, statistics, pull(wide[3])))


def close(actual, expected, tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b)
        assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("grouped", [False, True])
def test_statistics_and_gradients_are_those_of_the_plain_formulas(grouped, platform, dtype):
    shape = (2, 3, 4, 5, 3) if grouped else (6, 4, 5, 3)
    x, cotangent = maps(shape=shape, mean=2.0), maps(1, shape=shape)
    scale, bias = np.float32([0.5, 2.0, -1.0]), np.float32([0.0, 1.0, 3.0])
    near = np.float32([1.5, 2.0, 2.5])
    over = Over(None, grouped)
    x, cotangent = (jnp.asarray(each, dtype) for each in (x, cotangent))
    actual = pulled(platform, x, *map(jnp.asarray, (scale, bias, near)), cotangent, over)
    # The output and the gradient of x are rounded to bfloat16, and nothing else.
    close(actual, plainly(x, scale, bias, cotangent, over), 2e-6 if dtype == "float32" else 4e-3)
    close(actual[2][1:], plainly(x, scale, bias, cotangent, over)[2][1:], 2e-6)
    assert actual[1][0].shape == ((2, 1, 1, 1, 3) if grouped else (3,))
    assert [each.dtype for each in (actual[0], *actual[2])] == [dtype] * 2 + ["float32"] * 2


def test_float64_maps_have_gradients_in_the_dtypes_of_their_arguments():
    x, cotangent = maps(mean=2.0).astype(np.float64), maps(1).astype(np.float64)
    scale, bias = np.float32([0.5, 2.0, -1.0]), np.float32([0.0, 1.0, 3.0])
    with jax.enable_x64(True):
        actual = pulled("cpu", *map(jnp.asarray, (x, scale, bias, bias, cotangent)))
    close(actual[2], plainly(x, scale, bias, cotangent)[2], 1e-7)
    close(actual[2][0], plainly(x, scale, bias, cotangent)[2][0], 1e-13)
    assert [each.dtype for each in actual[2]] == ["float64", "float32", "float32"]


@settings(deadline=None, max_examples=25)
@given(
    mean=st.floats(-300, 300),
    off=st.floats(-1, 1),
    std=st.floats(0.1, 10),
    seed=st.integers(0, 99),
)
def test_a_mean_far_from_zero_cancels_no_digits(mean, off, std, seed):
    x = maps(seed, shape=(64, 4, 4, 1), mean=mean, std=std)
    near = np.float32([mean + off * std])
    with built_for("gpu"):
        one, zero = jnp.ones(1), jnp.zeros(1)
        _, found_mean, found_var = normalize_batch(jnp.asarray(x), one, zero, near, WHOLE)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found_var, wide.var(), rtol=1e-5)
    np.testing.assert_allclose(found_mean, wide.mean(), rtol=1e-5, atol=1e-5 * std)


def test_alike_values_have_no_negative_variance():
    x = jnp.full((8, 4, 4, 2), 1 / 3)
    with built_for("gpu"):
        y, _, var = normalize_batch(x, jnp.ones(2), jnp.zeros(2), jnp.full(2, 7.7), WHOLE)
    assert (np.asarray(var) >= 0).all()
    assert np.isfinite(y).all()


def test_a_number_that_is_not_finite_stays_visible():
    x = jnp.asarray(maps()).at[0, 0, 0, 1].set(jnp.nan)
    with built_for("gpu"):
        y, _, var = normalize_batch(x, jnp.ones(3), jnp.zeros(3), jnp.zeros(3), WHOLE)
    assert np.isnan(var).tolist() == [False, True, False]
    assert np.isnan(y[..., 1]).all()
    assert np.isfinite(y[..., 0]).all()


def test_bfloat16_maps_are_measured_in_float32():
    x = jnp.asarray(maps(mean=5.0), jnp.bfloat16)
    with built_for("gpu"):
        y, mean, var = normalize_batch(x, jnp.ones(3), jnp.zeros(3), jnp.zeros(3), WHOLE)
    assert (y.dtype, mean.dtype, var.dtype) == ("bfloat16", "float32", "float32")
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(var, wide.var((0, 1, 2)), rtol=1e-5)


def test_a_single_value_is_refused_on_every_platform():
    zeros = jnp.zeros(3)
    for platform in ("cpu", "gpu"):
        with built_for(platform), pytest.raises(ValueError, match="more than one value"):
            normalize_batch(jnp.zeros((1, 1, 1, 3)), zeros, zeros, zeros, WHOLE)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_running_statistics_get_no_gradient_and_give_none(platform):
    x = jnp.asarray(maps())

    def through_statistics(x, near):
        with built_for(platform):
            _, mean, var = normalize_batch(x, jnp.ones(3), jnp.zeros(3), near, WHOLE)
        return jnp.sum(mean) + jnp.sum(var)

    for gradient in jax.grad(through_statistics, argnums=(0, 1))(x, jnp.zeros(3)):
        assert not np.any(gradient)


def test_a_batch_over_two_devices_has_the_gradients_of_one():
    x, cotangent = (jnp.asarray(maps(seed, shape=(8, 4, 4, 3), mean=2.0)) for seed in range(2))
    scale, bias, near = jnp.float32([1.0, 2.0, -1.0]), jnp.zeros(3), jnp.full(3, 1.5)

    def gradients(x, cotangent, axis_name="devices"):
        over = Over(axis_name, False)

        def normalized(x, scale, bias):
            return normalize_batch(x, scale, bias, near, over)[0]

        return jax.vjp(normalized, x, scale, bias)[1](cotangent)

    with built_for("gpu"):
        one = gradients(x, cotangent, None)
        halves = (values.reshape(2, 4, *x.shape[1:]) for values in (x, cotangent))
        of_x, *of_params = jax.vmap(gradients, axis_name="devices")(*halves)
    np.testing.assert_allclose(of_x.reshape(x.shape), one[0], rtol=1e-5, atol=1e-5)
    for actual, expected in zip(of_params, one[1:], strict=True):
        np.testing.assert_allclose(actual.sum(0), expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_on_an_accelerator_updates_its_running_statistics_alike():
    x = jnp.asarray(maps(mean=3.0))
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=True)

    def updated(platform):
        with built_for(platform):
            return module.apply(variables, x, train=True, mutable=["batch_stats"])

    close(updated("gpu"), updated("cpu"), 2e-6)


def test_relu_of_a_sum_has_jaxs_gradient_bit_for_bit():
    y, shortcut, cotangent = (jnp.asarray(maps(seed)) for seed in range(3))
    y = y.at[0].set(-shortcut[0])  # exactly zero: no gradient

    def pulled(platform):
        with built_for(platform):
            result, pull = jax.vjp(relu_of_sum, y, shortcut)
            return result, *pull(cotangent)

    for actual, expected in zip(pulled("gpu"), pulled("cpu"), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_network_built_for_a_gpu_has_the_gradients_of_the_cpus():
    model = ResNet(stage_sizes=(1, 1), width=4, stem="imagenet")
    images = jnp.asarray(maps(shape=(4, 16, 16, 3)))
    variables = model.init(jax.random.key(0), images, train=True)

    def gradient(platform):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(logits))

        with built_for(platform):
            return jax.jit(jax.grad(loss))(variables["params"])

    close(gradient("gpu"), gradient("cpu"), 1e-4)


def test_normalize_is_torchs_formula():
    torch = pytest.importorskip("torch")
    x = maps()
    mean, var = np.float32([0.1, 0.2, 0.3]), np.float32([1.0, 2.0, 0.5])
    scale, bias = np.float32([2.0, 1.0, -1.0]), np.float32([0.0, 1.0, 2.0])
    expected = torch.nn.functional.batch_norm(
        torch.tensor(x).permute(0, 3, 1, 2), *map(torch.tensor, (mean, var, scale, bias))
    )
    np.testing.assert_allclose(
        normalize(*map(jnp.asarray, (x, mean, var, scale, bias))),
        expected.permute(0, 2, 3, 1).numpy(),
        atol=2e-6,
    )
