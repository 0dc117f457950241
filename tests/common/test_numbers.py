import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.common.numbers import at_least_float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_narrow_floats_become_float32_and_keep_their_values(dtype):
    x = jnp.asarray([1 / 3, -2.0, 6e4], dtype)
    assert at_least_float32(x).dtype == "float32"
    np.testing.assert_array_equal(
        np.asarray(at_least_float32(x), np.float64), np.asarray(x, np.float64)
    )


def test_float64_is_kept():
    with jax.enable_x64(True):
        assert at_least_float32(jnp.ones(1, "float64")).dtype == "float64"
