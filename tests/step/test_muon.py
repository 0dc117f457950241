import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.models.names import named_leaves
from jaxcifar.step.muon import is_state_of_optax, muon, orthogonalize
from jaxcifar.step.optimizer import make_optimizer
from tests.step.airbench import (
    BFLOAT16,
    STEPS,
    airbench,
    orthogonalized_by_hand,
    p,
    schedule,
    trained,
)

# Three of them have matrices of one shape, (18, 4), and the last two are wide.
SHAPES = {
    "a": (3, 3, 2, 4),
    "b": (3, 3, 2, 4),
    "c": (1, 1, 18, 4),
    "d": (3, 3, 4, 5),
    "e": (1, 1, 3, 7),
    "f": (2, 2, 1, 6),
}


def drawn(seed=0, dtype=np.float32, shapes=SHAPES):
    """Kernels, and gradients for each step."""
    rng = np.random.default_rng(seed)

    def draw():
        return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}

    return draw(), [draw() for _ in range(STEPS)]


class TestAgainstAirbench:
    @pytest.mark.parametrize("momentum", [0.0, 0.6, 0.95])
    def test_float64_is_the_loop_by_hand(self, momentum):
        with jax.enable_x64(True):
            params, gradients = drawn(dtype=np.float64)
            found, state = trained(muon(schedule, momentum), params, gradients)
        for one, other in zip(found, airbench(params, gradients, momentum), strict=True):
            for name in one:
                assert one[name].dtype == np.float64
                np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-7)
        assert int(state.step) == STEPS

    def test_float32_is_within_the_rounding_of_bfloat16(self):
        params, gradients = drawn()
        found, _ = trained(muon(schedule, 0.9), params, gradients)
        moved = sum(schedule(step) for step in range(STEPS))
        for one, other in zip(found, airbench(params, gradients, 0.9), strict=True):
            for name in one:
                assert one[name].dtype == np.float32
                np.testing.assert_allclose(one[name], other[name], atol=moved * BFLOAT16)

    def test_the_momentum_is_a_sum_and_not_a_mean(self):
        params, gradients = drawn()
        _, state = trained(muon(schedule, 0.5), params, gradients[:2])
        for name, buffer in state.momentum.items():
            expected = 0.5 * gradients[0][name] + gradients[1][name]
            np.testing.assert_allclose(buffer, expected, rtol=1e-6, atol=1e-6)

    def test_a_kernel_has_the_norm_of_airbench_before_it_moves(self):
        params, gradients = drawn()
        tx = muon(lambda step: 0.0)
        for scale in (1e-6, 1.0, 30.0):
            scaled = jax.tree.map(lambda leaf, scale=scale: jnp.float32(scale * leaf), params)
            updates, _ = tx.update(gradients[0], tx.init(scaled), scaled)
            for name, leaf in optax.apply_updates(scaled, updates).items():
                norm = np.linalg.norm(np.float64(leaf))
                assert norm == pytest.approx(leaf.shape[-1] ** 0.5, rel=1e-4), name


class TestOrthogonalize:
    @settings(deadline=None, max_examples=20)
    @given(
        rows=st.sampled_from([1, 3, 8]),
        columns=st.sampled_from([1, 3, 8]),
        seed=st.integers(0, 2**16),
        scale=st.sampled_from([1e-3, 1.0, 1e8]),
    )
    def test_singular_vectors_stay_and_values_are_the_polynomials(self, rows, columns, seed, scale):
        matrix = scale * np.random.default_rng(seed).normal(size=(rows, columns))
        expected = orthogonalized_by_hand(matrix)
        found = orthogonalize(jnp.asarray(matrix[None], jnp.float32))[0]
        np.testing.assert_allclose(found, expected, atol=BFLOAT16)
        with jax.enable_x64(True):
            found = orthogonalize(jnp.asarray(matrix[None]))[0]
        np.testing.assert_allclose(found, expected, atol=1e-10)

    @pytest.mark.parametrize("shape", [(144, 16), (16, 144), (32, 32), (1, 9)])
    def test_singular_values_are_about_one(self, shape):
        """The polynomial's extremes between 0.02 and 1: 0.6818 and 1.2024."""
        grid = np.linspace(0.02, 1, 10_001)
        lowest, highest = p(p(p(grid))).min(), p(p(p(grid))).max()
        assert (lowest, highest) == (pytest.approx(0.6818, abs=1e-3), pytest.approx(1.2024, 1e-3))
        rng = np.random.default_rng(1)
        left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        values = np.geomspace(1, 0.2, len(right))
        matrix = np.float32(left @ np.diag(values) @ right)
        found = np.linalg.svd(np.float64(orthogonalize(matrix[None])[0]), compute_uv=False)
        assert found.min() > lowest - BFLOAT16
        assert found.max() < highest + BFLOAT16

    def test_matrices_of_a_stack_do_not_meet(self):
        rng = np.random.default_rng(2)
        stack = rng.normal(size=(3, 12, 5)).astype(np.float32) * np.float32([[[1]], [[1e4]], [[9]]])
        whole = orthogonalize(stack)
        for one, matrix in zip(whole, stack, strict=True):
            np.testing.assert_allclose(one, orthogonalize(matrix[None])[0], atol=BFLOAT16)

    def test_products_are_bfloat16_with_float32_sums_and_float64_for_float64(self):
        def products(dtype):
            made = jax.make_jaxpr(orthogonalize)(jnp.zeros((2, 9, 4), dtype))
            dots = [e for e in made.jaxpr.eqns if e.primitive.name == "dot_general"]
            return {(str(e.invars[0].aval.dtype), str(e.outvars[0].aval.dtype)) for e in dots}

        assert products(jnp.float32) == {("bfloat16", "bfloat16"), ("bfloat16", "float32")}
        with jax.enable_x64(True):
            assert products(jnp.float64) == {("float64", "float64")}


class TestFaultyNumbers:
    def updated(self, gradient, params=None):
        drawn_params, _ = drawn()
        params = drawn_params if params is None else params
        tx = muon(schedule)
        updates, _ = tx.update(gradient, tx.init(params), params)
        return params, updates

    def test_a_zero_gradient_only_normalises(self):
        params, updates = self.updated(jax.tree.map(np.zeros_like, drawn()[0]))
        for name, leaf in optax.apply_updates(params, updates).items():
            scale = leaf.shape[-1] ** 0.5 / np.linalg.norm(params[name])
            np.testing.assert_allclose(leaf, scale * params[name], rtol=1e-5)

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_a_gradient_that_is_not_finite_stays_visible_in_its_kernel_alone(self, wrong):
        gradient = drawn()[1][0]
        gradient["a"][0, 0, 0, 0] = wrong
        _, updates = self.updated(gradient)
        assert np.isnan(updates["a"]).all()
        # "b" is in the same stack.
        assert all(np.isfinite(updates[name]).all() for name in updates if name != "a")

    def test_a_kernel_of_zeros_moves(self):
        params, gradients = drawn()
        params["a"] = np.zeros_like(params["a"])
        _, updates = self.updated(gradients[0], params)
        assert np.isfinite(updates["a"]).all()
        assert np.linalg.norm(updates["a"]) > 0.05

    def test_a_kernel_that_is_not_finite_stays_visible(self):
        params, gradients = drawn()
        params["b"][0, 0, 0, 0] = np.nan
        _, updates = self.updated(gradients[0], params)
        assert np.isnan(updates["b"]).all()

    def test_what_is_no_kernel_is_refused(self):
        with pytest.raises(ValueError, match=r"not for a leaf of shape \(4,\)"):
            muon(schedule).init({"bias": jnp.zeros(4)})
        params, gradients = drawn()
        with pytest.raises(ValueError, match="give them to update as params"):
            muon(schedule).update(gradients[0], muon(schedule).init(params))


class TestTransformed:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_kernels_of_one_shape_are_updated_as_alone(self, dtype):
        """A product of another size sums in another order, which may round bfloat16 otherwise."""
        error = sum(schedule(step) for step in range(STEPS)) * BFLOAT16
        with jax.enable_x64(dtype == np.float64):
            params, gradients = drawn(dtype=dtype)
            whole, _ = trained(muon(schedule), params, gradients)
            for name in params:
                of_leaf = [{name: gradient[name]} for gradient in gradients]
                alone, _ = trained(muon(schedule), {name: params[name]}, of_leaf)
                for one, other in zip(whole, alone, strict=True):
                    np.testing.assert_allclose(
                        one[name], other[name], atol=error if dtype == np.float32 else 1e-10
                    )

    def test_kernels_of_one_matrix_shape_share_their_products(self):
        params, gradients = drawn()
        tx = muon(schedule)
        program = jax.jit(tx.update).lower(gradients[0], tx.init(params), params).as_text()
        shapes = {(leaf.size // leaf.shape[-1], leaf.shape[-1]) for leaf in params.values()}
        assert len(shapes) == 4
        assert program.count("stablehlo.dot_general") == 3 * 3 * len(shapes)

    def test_vmap_is_a_loop_over_rates_and_momenta(self):
        rates, momenta = jnp.float32([0.1, 0.02]), jnp.float32([0.0, 0.9])
        params, gradients = drawn()

        def moved(rate, momentum):
            tx = muon(lambda step: rate, momentum)
            state, kernels = tx.init(params), params
            for gradient in gradients[:2]:
                updates, state = tx.update(gradient, state, kernels)
                kernels = optax.apply_updates(kernels, updates)
            return kernels

        together = jax.jit(jax.vmap(moved))(rates, momenta)
        for i in range(2):
            alone = moved(float(rates[i]), float(momenta[i]))
            for name in params:
                np.testing.assert_allclose(
                    together[name][i], alone[name], atol=0.1 * BFLOAT16, err_msg=name
                )

    def test_a_traced_momentum_keeps_the_dtype_of_the_state(self):
        params, gradients = drawn()
        narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), (params, gradients[0]))

        def update(momentum):
            tx = muon(schedule, momentum)
            return tx.update(narrow[1], tx.init(narrow[0]), narrow[0])

        updates, state = jax.jit(update)(jnp.float32(0.9))
        assert {leaf.dtype for leaf in jax.tree.leaves((updates, state.momentum))} == {
            jnp.dtype(jnp.bfloat16)
        }

    def test_masked_leaves_are_left_out(self):
        params, gradients = drawn()
        mask = {name: name in "ad" for name in params}
        tx = optax.masked(muon(schedule), mask)
        updates, state = tx.update(gradients[0], tx.init(params), params)
        whole, _ = muon(schedule).update(gradients[0], muon(schedule).init(params), params)
        for name in params:
            expected = whole[name] if mask[name] else gradients[0][name]
            np.testing.assert_allclose(updates[name], expected, atol=schedule(0) * BFLOAT16)
        assert len(jax.tree.leaves(state)) == 1 + 2


def test_a_state_of_optax_is_told_by_its_leaves():
    params, _ = drawn()
    old = optax.contrib.scale_by_muon().init({"kernel": jnp.ones((3, 2))})
    assert is_state_of_optax(named_leaves(old))
    for name in ("adam", "sgd", "muon"):
        state = make_optimizer(name, schedule).init(params)
        assert not is_state_of_optax(named_leaves(state))
