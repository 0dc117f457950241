import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.models.resnet import ResNet
from jaxcifar.step.state import Draw, draw_key, init_state, init_variables, start_state

MODEL = ResNet(stage_sizes=(1,), width=4, stem="cifar")
TX = optax.sgd(0.1, momentum=0.9)


@pytest.fixture(scope="module")
def states():
    return [init_state(MODEL, TX, seed=seed, image_size=8) for seed in (0, 0, 1)]


def arrays(state):
    state = state.replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_the_state_is_a_function_of_the_seed(states):
    first, again, other = map(arrays, states)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    kernels = [state.params["conv1"]["kernel"] for state in states]
    assert not np.array_equal(kernels[0], kernels[2])
    assert not np.array_equal(first[-1], other[-1]), "the run's key"


def test_a_fresh_state_has_taken_no_step(states):
    state = states[0]
    assert (state.step.dtype, int(state.step)) == (jnp.int32, 0)
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    trace = state.opt_state[0].trace
    assert jax.tree.structure(trace) == jax.tree.structure(state.params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(trace))
    stats = state.batch_stats["bn1"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(4))
    np.testing.assert_array_equal(stats["var"], np.ones(4))


def test_parameters_and_statistics_are_float32_leaves_of_the_model(states):
    variables = states[0].variables
    expected = jax.eval_shape(lambda key: init_variables(MODEL, key, 8), jax.random.key(0))
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


def test_every_layer_draws_its_own_weights(states):
    block = states[0].params["layer1"]["0"]
    assert not np.array_equal(block["conv1"]["kernel"], block["conv2"]["kernel"])


def test_draws_and_counts_never_share_a_key():
    keys = {
        jax.random.key_data(draw_key(jax.random.key(seed), draw, count)).tobytes()
        for seed in range(2)
        for draw in Draw
        for count in range(10)
    }
    assert len(keys) == 2 * 3 * 10


def test_a_draw_is_the_same_inside_a_program_and_out():
    key = jax.random.key(3)
    outside = draw_key(key, Draw.AUGMENT, 7)
    inside = jax.jit(lambda key, count: draw_key(key, Draw.AUGMENT, count))(key, jnp.int32(7))
    assert outside == inside


class TestRepr:
    """A state is shown by its sizes, whatever its leaves are."""

    @pytest.fixture
    def state(self):
        params = {"conv": {"kernel": jnp.zeros((2, 3))}, "fc": {"bias": jnp.zeros(4)}}
        return start_state(
            {"params": params, "batch_stats": {"mean": jnp.zeros(5)}}, optax.sgd(0.1, 0.9), seed=0
        )

    @staticmethod
    def text(step):
        return (
            f"TrainState({step}; parameters: 10 numbers in 2 leaves, 0.0 MB;\n"
            "  BatchNorm statistics: 5 numbers in 1 leaf, 0.0 MB; "
            "optimizer: 10 numbers in 2 leaves, 0.0 MB)"
        )

    def test_of_arrays(self, state):
        assert repr(state) == self.text("step 0")
        assert repr(state.replace(step=np.int32(1200))) == self.text("step 1,200")

    def test_of_shapes_and_of_tracers(self, state):
        seen = []
        shapes = jax.eval_shape(lambda s: (seen.append(repr(s)), s)[1], state)
        assert seen == [self.text("step not known yet")]
        assert repr(shapes) == self.text("step not known")

    def test_of_many_states(self, state):
        states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
        states = states.replace(step=jnp.array([3, 7]))
        assert "steps 3 to 7 of 2 states; parameters: 20 numbers" in repr(states)

    def test_of_a_state_that_training_has_consumed(self, state):
        jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)(state)
        assert "step not readable: given to a later state" in repr(state)

    @pytest.mark.parametrize("leaf", [None, object(), "frozen", np.zeros(0)])
    def test_of_any_tree(self, state, leaf):
        text = repr(jax.tree.map(lambda _: leaf, state))
        assert text.startswith("TrainState(step")
        assert max(map(len, text.split("\n"))) <= 100

    def test_in_an_error_of_jit(self, state):
        with pytest.raises(ValueError, match="Non-hashable static arguments") as caught:
            jax.jit(lambda s: s, static_argnums=0)(state)
        assert self.text("step 0") in str(caught.value)
