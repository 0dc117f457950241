import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.checkpoint import CheckpointError, Checkpoints
from jaxcifar.resnet import ResNet
from jaxcifar.state import init_state
from tests.conftest import assert_trees_identical

TX = optax.adam(0.1)


@pytest.fixture(scope="module")
def states():
    """Three states of one run, each with other weights."""
    model = ResNet(stage_sizes=(1,), width=4)
    state = init_state(model, TX, seed=0, image_size=8)
    noisy = [
        state.replace(
            step=jnp.asarray(step, jnp.int32),
            params=jax.tree.map(lambda x, s=step: x + s, state.params),
        )
        for step in (10, 20, 30)
    ]
    return noisy


@pytest.fixture
def directory(tmp_path, states):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for state, accuracy in zip(states, (0.2, 0.9, 0.5), strict=True):
            checkpoints.save(state, validation_accuracy=accuracy)
    return tmp_path / "checkpoints"


def test_last_and_best_are_kept_and_only_they(directory):
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [20, 30]
        assert checkpoints.find("last") == 30
        assert checkpoints.find("best") == 20
        assert checkpoints.validation_accuracy(20) == 0.9


def test_the_best_is_still_kept_by_a_later_process(directory, states):
    with Checkpoints(directory) as checkpoints:
        for step, accuracy in ((40, 0.6), (50, 0.1)):
            state = states[0].replace(step=jnp.asarray(step, jnp.int32))
            checkpoints.save(state, validation_accuracy=accuracy)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [20, 50]


def test_of_equals_the_later_is_the_best(tmp_path, states):
    with Checkpoints(tmp_path) as checkpoints:
        for state in states:
            checkpoints.save(state, validation_accuracy=0.5)
        checkpoints.wait()
        assert checkpoints.find("best") == 30


def test_a_checkpoint_without_a_validation_is_the_last_at_most(tmp_path, states):
    with Checkpoints(tmp_path) as checkpoints:
        for state, accuracy in zip(states, (0.2, None, None), strict=True):
            checkpoints.save(state, validation_accuracy=accuracy)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 30]
        assert checkpoints.find("best") == 10
        assert checkpoints.find("last") == 30
        assert checkpoints.validation_accuracy(30) is None


def test_a_checkpoint_that_lost_its_accuracy_is_damaged_and_not_merely_second(directory):
    shutil.rmtree(directory / "20" / "metrics")
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="checkpoint 20 .* damaged"),
    ):
        checkpoints.find("best")


def test_a_state_comes_back_to_the_bit(directory, states):
    with Checkpoints(directory) as checkpoints:
        assert_trees_identical(checkpoints.restore_state(states[0], "last"), states[2])
        assert_trees_identical(checkpoints.restore_state(states[0], 20), states[1])


def test_weights_need_no_optimizer_and_shapes_are_enough(directory, states, monkeypatch):
    monkeypatch.chdir(directory.parent)
    target = jax.eval_shape(lambda: states[0].variables)
    with Checkpoints("checkpoints", read_only=True) as checkpoints:
        weights = checkpoints.restore_weights(target, "best")
    assert_trees_identical(weights, states[1].variables)


def test_another_model_is_refused_by_leaf_and_shape(directory):
    wider = init_state(ResNet(stage_sizes=(1,), width=8), TX, seed=0, image_size=8)
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match=r"bn1\.mean is \(4,\).*and \(8,\)"):
            checkpoints.restore_weights(wider.variables)
        deeper = init_state(ResNet(stage_sizes=(2,), width=4), TX, seed=0, image_size=8)
        with pytest.raises(CheckpointError, match=r"layer1\.1\.\S+ is absent in the checkpoint"):
            checkpoints.restore_weights(deeper.variables)


def test_another_optimizer_is_refused(directory, states):
    other = states[0].replace(opt_state=optax.sgd(0.1, momentum=0.9).init(states[0].params))
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="does not fit the optimizer"),
    ):
        checkpoints.restore_state(other)


def test_missing_checkpoints_are_named(tmp_path, directory):
    with pytest.raises(CheckpointError, match="there are no checkpoints"):
        Checkpoints(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="step 25: choose best, last, 20 or 30"):
            checkpoints.find(25)
    with Checkpoints(tmp_path / "new") as checkpoints:
        with pytest.raises(CheckpointError, match="no complete checkpoint"):
            checkpoints.find("last")


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path, states):
    overwrite = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s.params), donate_argnums=0)
    state = jax.tree.map(jnp.copy, states[1])
    wanted = jax.tree.map(np.asarray, states[1].params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, validation_accuracy=0.5)
        jax.block_until_ready(overwrite(state))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore_weights(states[1].variables)
    assert_trees_identical(jax.tree.map(np.asarray, restored["params"]), wanted)
