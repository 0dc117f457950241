import jax
import jax.numpy as jnp
import pytest

from jaxcifar.step.precision import computed_at


def products(f, *arguments):
    """The lines of a lowered program that multiply matrices or convolve."""
    text = jax.jit(f).lower(*arguments).as_text()
    return [line for line in text.splitlines() if "dot_general" in line or "convolution" in line]


def layer(images, kernel):
    y = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(jnp.square(jnp.einsum("nhwc,kc->nhwk", y, kernel[0, 0])))


ARGUMENTS = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 3))


@pytest.mark.parametrize(
    "f", [layer, jax.grad(layer, (0, 1)), jax.jit(layer), jax.checkpoint(layer)]
)
def test_everything_traced_inside_is_exact_and_its_gradients_are(f):
    with jax.default_matmul_precision(None):
        exact, plain = (products(computed_at(p)(f), *ARGUMENTS) for p in ("highest", "default"))
    assert len(exact) == len(plain) >= 2
    assert all(line.count("HIGHEST") == 2 for line in exact)
    assert not any("HIGHEST" in line for line in plain)


def test_the_default_is_what_jax_was_told():
    with jax.default_matmul_precision("high"):
        (line, *_) = products(computed_at("default")(layer), *ARGUMENTS)
    assert line.count("HIGH>") == 2


def test_it_ends_with_its_block_also_by_an_error():
    with jax.default_matmul_precision(None):
        with computed_at("highest"):
            assert jax.config.jax_default_matmul_precision == "highest"
        with pytest.raises(ZeroDivisionError):
            computed_at("highest")(lambda: 1 / 0)()
        assert jax.config.jax_default_matmul_precision is None


def test_a_function_that_was_compiled_before_is_compiled_anew():
    f = jax.jit(layer)
    with jax.default_matmul_precision(None):
        f(*ARGUMENTS)
        before = f._cache_size()
        with computed_at("highest"):
            f(*ARGUMENTS)
        assert f._cache_size() == before + 1
