import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.models.pooling import max_pool


@pytest.mark.parametrize("shape", [(16, 16), (5, 7), (3, 4), (2, 2), (1, 1)])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_the_gradient_of_max_pool_is_xlas_own(shape, ties):
    rng = np.random.default_rng(0)
    x = rng.permutation(np.arange(2.0 * 3 * shape[0] * shape[1])).reshape(2, *shape, 3)
    x = jnp.asarray(np.maximum(x // 9 - 3, 0) if ties else x, jnp.float32)

    def theirs(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    y, pull = jax.vjp(max_pool, x)
    expected, their_pull = jax.vjp(theirs, x)
    np.testing.assert_array_equal(y, expected)
    cotangent = jnp.asarray(rng.integers(-5, 5, y.shape), jnp.float32)
    np.testing.assert_array_equal(pull(cotangent)[0], their_pull(cotangent)[0])


def test_the_gradient_of_max_pool_is_torchs_where_values_are_equal():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = np.maximum(rng.integers(-3, 3, (2, 9, 8, 3)), 0).astype(np.float32)
    y, pull = jax.vjp(max_pool, jnp.asarray(x))
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    torch.nn.functional.max_pool2d(theirs, 3, 2, 1).backward(
        torch.tensor(cotangent.transpose(0, 3, 1, 2))
    )
    ours = np.asarray(pull(jnp.asarray(cotangent))[0]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-6, atol=1e-6)


def test_max_pool_pads_with_minus_infinity():
    x = np.random.default_rng(0).normal(-5, 1, (2, 7, 6, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.stack(
        [
            np.stack([padded[:, i : i + 3, j : j + 3].max((1, 2)) for j in range(0, 6, 2)], axis=1)
            for i in range(0, 7, 2)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(max_pool(x), expected)
