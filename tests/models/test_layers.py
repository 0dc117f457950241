import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.models.layers import BatchNorm, Conv, Dropout, Linear

# Each program runs once or twice, so optimised compiling would take most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class TestBatchNorm:
    x = np.random.default_rng(0).normal(2, 3, (4, 3, 2, 5)).astype(np.float32)
    variables = {
        "params": {"scale": np.linspace(0.5, 2, 5), "bias": np.linspace(-1, 1, 5)},
        "batch_stats": {"mean": np.linspace(-3, 3, 5), "var": np.linspace(1, 4, 5)},
    }

    def apply(self, x, train, **options):
        variables = jax.tree.map(jnp.float32, self.variables)
        module = BatchNorm(**options)
        return module.apply(variables, x, train=train, mutable=["batch_stats"])

    def expected(self, mean, var):
        scale, bias = self.variables["params"]["scale"], self.variables["params"]["bias"]
        return (np.float64(self.x) - mean) / np.sqrt(var + 1e-5) * scale + bias

    def test_normalises_with_the_biased_variance_and_stores_the_unbiased(self):
        y, updates = self.apply(self.x, train=True)
        mean, biased, unbiased = (
            np.mean(self.x, (0, 1, 2)),
            np.var(self.x, (0, 1, 2)),
            np.var(self.x, (0, 1, 2), ddof=1),
        )
        np.testing.assert_allclose(y, self.expected(mean, biased), atol=1e-5)
        old, new = self.variables["batch_stats"], updates["batch_stats"]
        np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5)
        np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * unbiased, rtol=1e-5)

    def test_evaluation_uses_the_running_statistics_and_keeps_them(self):
        y, updates = self.apply(self.x, train=False)
        old = self.variables["batch_stats"]
        np.testing.assert_allclose(y, self.expected(old["mean"], old["var"]), atol=1e-5)
        for name in ("mean", "var"):
            np.testing.assert_array_equal(updates["batch_stats"][name], np.float32(old[name]))

    def test_initialising_in_train_mode_does_not_update_the_statistics(self):
        stats = BatchNorm().init(jax.random.key(0), self.x, train=True)["batch_stats"]
        np.testing.assert_array_equal(stats["mean"], np.zeros(5))
        np.testing.assert_array_equal(stats["var"], np.ones(5))

    def test_a_mapped_axis_gives_the_statistics_of_the_whole_batch(self):
        """The gradient is taken inside of the axis, as the train step does."""

        def both(x, **axis):
            def loss(x):
                y, updates = self.apply(x, True, **axis)
                return jnp.sum(jnp.sin(y)), (y, updates)

            gradient, (y, updates) = jax.grad(loss, has_aux=True)(x)
            return y, updates, gradient

        mapped = jax.vmap(functools.partial(both, axis_name="parts"), axis_name="parts")
        y, updates, gradient = jit(mapped)(self.x.reshape(2, 2, *self.x.shape[1:]))
        expected, whole_updates, whole_gradient = jit(both)(self.x)
        y, gradient = (each.reshape(self.x.shape) for each in (y, gradient))
        np.testing.assert_allclose(y, expected, atol=1e-5)
        for name, value in whole_updates["batch_stats"].items():
            for part in updates["batch_stats"][name]:
                np.testing.assert_allclose(part, value, rtol=1e-5)
        np.testing.assert_allclose(gradient, whole_gradient, atol=1e-5)

    def test_each_group_is_normalised_separately(self):
        """As BatchNorm applied to each group, with the mean of their running statistics."""
        y, updates = self.apply(self.x, True, groups=2)
        halves = [self.apply(part, True) for part in np.split(self.x, 2)]
        np.testing.assert_allclose(y, np.concatenate([part for part, _ in halves]), atol=1e-5)
        for name in ("mean", "var"):
            mean = np.mean([u["batch_stats"][name] for _, u in halves], axis=0)
            np.testing.assert_allclose(updates["batch_stats"][name], mean, rtol=1e-5)

    @pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
    @pytest.mark.parametrize("groups", [1, 2])
    def test_the_decay_is_that_of_the_running_statistics_alone(self, decay, groups):
        y, updates = self.apply(self.x, True, decay=decay, groups=groups)
        expected, of_zero = self.apply(self.x, True, decay=0.0, groups=groups)
        np.testing.assert_array_equal(y, expected)
        for name, old in self.variables["batch_stats"].items():
            blended = decay * old + (1 - decay) * of_zero["batch_stats"][name]
            np.testing.assert_allclose(updates["batch_stats"][name], blended, rtol=1e-5)

    @pytest.mark.parametrize("decay", [0.6, 0.9])
    def test_torchs_momentum_is_one_less_the_decay(self, decay):
        torch = pytest.importorskip("torch")
        norm = torch.nn.BatchNorm2d(5, momentum=1 - decay).train()
        old = self.variables["batch_stats"]
        norm.running_mean.copy_(torch.tensor(old["mean"]))
        norm.running_var.copy_(torch.tensor(old["var"]))
        norm(torch.tensor(self.x.transpose(0, 3, 1, 2)))
        _, updates = self.apply(self.x, True, decay=decay)
        for name in ("mean", "var"):
            expected = getattr(norm, f"running_{name}").numpy()
            np.testing.assert_allclose(updates["batch_stats"][name], expected, rtol=1e-5)

    def test_the_default_decay_has_the_bits_of_a_tenth_of_each_batch(self):
        def constant(running, batch):
            return 0.9 * running + (1 - 0.9) * batch

        _, updates = self.apply(self.x, True)
        _, of_zero = self.apply(self.x, True, decay=0.0)
        for name, old in self.variables["batch_stats"].items():
            expected = constant(jnp.float32(old), of_zero["batch_stats"][name])
            np.testing.assert_array_equal(updates["batch_stats"][name], expected)

    @pytest.mark.parametrize("groups", [2, 4])
    def test_groups_on_a_mapped_axis_are_those_of_the_whole_batch(self, groups):
        mapped = jax.vmap(
            lambda x: self.apply(x, True, axis_name="parts", groups=groups), axis_name="parts"
        )
        y, updates = mapped(self.x.reshape(2, 2, *self.x.shape[1:]))
        expected, whole = self.apply(self.x, True, groups=groups)
        np.testing.assert_allclose(y.reshape(self.x.shape), expected, atol=1e-5)
        for name, value in whole["batch_stats"].items():
            for part in updates["batch_stats"][name]:
                np.testing.assert_allclose(part, value, rtol=1e-5)

    @pytest.mark.parametrize("groups", [3, 8])
    def test_groups_that_do_not_divide_the_batch_are_refused(self, groups):
        with pytest.raises(ValueError, match=f"{groups} BatchNorm groups must divide the batch"):
            self.apply(self.x, True, groups=groups)

    def test_bfloat16_has_statistics_in_float32(self):
        y, updates = self.apply(jnp.asarray(self.x, jnp.bfloat16), train=True)
        _, wide = self.apply(self.x, train=True)
        assert y.dtype == jnp.bfloat16
        for name, value in updates["batch_stats"].items():
            assert value.dtype == jnp.float32
            np.testing.assert_allclose(value, wide["batch_stats"][name], rtol=0.01, atol=0.01)


def test_training_on_one_value_per_channel_is_refused():
    norm = BatchNorm()
    x = jnp.ones((1, 1, 1, 4))
    variables = norm.init(jax.random.key(0), x, train=False)
    with pytest.raises(ValueError, match="more than one value per channel"):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])


class TestInitialValues:
    def test_convolutions_are_normal_with_a_deviation_from_fan_out(self):
        kernel = Conv(128, 3).init(jax.random.key(0), jnp.zeros((1, 3, 3, 32)))["params"]["kernel"]
        assert kernel.shape == (3, 3, 32, 128)
        deviation = np.sqrt(2 / (9 * 128))
        assert np.std(kernel) == pytest.approx(deviation, rel=0.02)
        assert abs(np.mean(kernel)) < 0.02 * deviation
        beyond_two = np.mean(np.abs(kernel) > 2 * deviation)
        assert beyond_two == pytest.approx(0.0455, rel=0.1), "a truncated normal has fewer"

    @pytest.mark.parametrize("name", ["kernel", "bias"])
    def test_linear_layers_are_uniform_with_a_bound_from_fan_in(self, name):
        layer = Linear(300).init(jax.random.key(0), jnp.zeros((1, 100)))["params"]
        bound = 0.1
        assert np.max(np.abs(layer[name])) <= bound
        assert np.max(np.abs(layer[name])) > 0.98 * bound
        assert np.std(layer[name]) == pytest.approx(bound / np.sqrt(3), rel=0.06)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_is_flaxs_bit_for_bit_and_with_a_traced_rate_up_to_rounding(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 64)), dtype)
    rngs = {"dropout": jax.random.key(1)}
    traced = jax.jit(lambda rate: Dropout(rate).apply({}, x, train=True, rngs=rngs))
    for rate in (0.0, 0.3, 0.9):
        expected = nn.Dropout(rate, deterministic=False).apply({}, x, rngs=rngs)
        found = Dropout(rate).apply({}, x, train=True, rngs=rngs)
        assert found.dtype == traced(rate).dtype == dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(traced(rate) == 0, expected == 0)
        np.testing.assert_allclose(
            np.float32(traced(rate)), np.float32(expected), rtol=4 * float(jnp.finfo(dtype).eps)
        )
        assert Dropout(rate).apply({}, x, train=False) is x
