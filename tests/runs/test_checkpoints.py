import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxcifar.common.errors import CheckpointError
from jaxcifar.models.resnet import ResNet
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.step.state import init_state
from tests.conftest import assert_trees_identical, with_devices
from tests.runs.made_checkpoints import TX, at, no_space


def test_only_the_two_newest_and_the_best_are_kept(directory, states):
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps() == [20, 30]
        assert checkpoints.find("last") == 30
        assert checkpoints.find("best") == 20
        assert checkpoints.validation_accuracy(20) == 0.9
        for step, kept in ((40, [20, 30, 40]), (50, [20, 40, 50]), (60, [20, 50, 60])):
            checkpoints.save(at(states[0], step), validation_accuracy=0.3)
            checkpoints.wait()
            assert checkpoints.steps() == kept
    assert sorted(path.name for path in directory.iterdir()) == ["20", "50", "60"]


def test_the_best_is_still_kept_by_a_later_process(directory, states):
    with Checkpoints(directory) as checkpoints:
        for step, accuracy in ((40, 0.6), (50, 0.1)):
            checkpoints.save(at(states[0], step), validation_accuracy=accuracy)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [20, 40, 50]


def test_the_later_of_two_equals_is_the_best(tmp_path, states):
    with Checkpoints(tmp_path) as checkpoints:
        for state in states:
            checkpoints.save(state, validation_accuracy=0.5)
        checkpoints.wait()
        assert checkpoints.find("best") == 30


def test_a_checkpoint_without_a_validation_is_not_the_best(tmp_path, states):
    with Checkpoints(tmp_path) as checkpoints:
        for state, accuracy in zip(states, (0.2, None, None), strict=True):
            checkpoints.save(state, validation_accuracy=accuracy)
        checkpoints.save(at(states[0], 40), validation_accuracy=None)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 30, 40]
        assert checkpoints.find("best") == 10
        assert checkpoints.find("last") == 40
        assert checkpoints.validation_accuracy(40) is None


def test_a_checkpoint_that_lost_its_accuracy_counts_as_damaged(directory):
    shutil.rmtree(directory / "20" / "metrics")
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="checkpoint 20 .* damaged"),
    ):
        checkpoints.find("best")


def test_a_restored_state_is_bit_identical(directory, states):
    with Checkpoints(directory) as checkpoints:
        assert_trees_identical(checkpoints.restore_state(states[0], "last"), states[2])
        assert_trees_identical(checkpoints.restore_state(states[0], 20), states[1])


def test_weights_are_restored_from_shapes_without_an_optimizer(directory, states, monkeypatch):
    monkeypatch.chdir(directory.parent)
    target = jax.eval_shape(lambda: states[0].variables)
    with Checkpoints("checkpoints", read_only=True) as checkpoints:
        weights = checkpoints.restore_weights(target, "best")
    assert_trees_identical(weights, states[1].variables)


def test_plain_orbax_restores_the_items(directory, states):
    model = ocp.StandardCheckpointer().restore(directory / "20" / "model")
    assert_trees_identical(model, states[1].variables)
    assert int(ocp.StandardCheckpointer().restore(directory / "20" / "train")["step"]) == 20


def test_another_model_is_refused_naming_a_leaf_and_its_shapes(directory):
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


def test_missing_checkpoints_are_reported(tmp_path, directory):
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
    expected = jax.tree.map(np.asarray, states[1].params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, validation_accuracy=0.5)
        jax.block_until_ready(overwrite(state))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore_weights(states[1].variables)
    assert_trees_identical(jax.tree.map(np.asarray, restored["params"]), expected)


PROGRESS = {
    "epoch": 2,
    "batches": 17,
    "sums": {"loss": 0.1 + 0.2, "tiny": 5e-324, "third": 1 / 3, "correct": 93.0},
    "seconds": [1.5, None],
}


def test_progress_is_restored_bit_identically_and_absent_at_an_epochs_end(tmp_path, states):
    progress = {**PROGRESS}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[0], validation_accuracy=None, progress=progress)
        progress["epoch"] = 3  # `save` has copied it
        checkpoints.save(states[1], validation_accuracy=0.5)
        checkpoints.wait()
        assert checkpoints.progress(10) == PROGRESS
        assert checkpoints.progress(20) is None
        with pytest.raises(TypeError, match="JSON"):
            checkpoints.save(states[2], validation_accuracy=0.5, progress={"x": np.ones(1)})


def test_an_unfinished_epoch_is_never_the_best(tmp_path, states):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[0], validation_accuracy=0.99, progress=PROGRESS)
        checkpoints.wait()
        with pytest.raises(CheckpointError, match="no checkpoint of a finished epoch.*last, 10"):
            checkpoints.find("best")
        checkpoints.save(states[1], validation_accuracy=None)
        checkpoints.wait()
        assert checkpoints.find("best") == 20
        # Unfinished epochs displace neither the best nor the newest.
        for step in (30, 40, 50):
            checkpoints.save(at(states[2], step), validation_accuracy=0.9, progress=PROGRESS)
        checkpoints.wait()
        assert checkpoints.steps() == [20, 40, 50]
        assert checkpoints.find("last") == 50


def test_an_unfinished_checkpoint_is_replaced_and_a_complete_one_is_not(tmp_path, states):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[0], validation_accuracy=0.4)
        checkpoints.save(states[1], validation_accuracy=None, progress={"images": 1})
        checkpoints.save(states[1], validation_accuracy=None, progress={"images": 2})
        checkpoints.wait()
        assert checkpoints.progress(20) == {"images": 2}
        whole = at(states[2], 20)
        checkpoints.save(whole, validation_accuracy=0.6)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 20]
        assert checkpoints.progress(20) is None
        assert checkpoints.find("best") == 20
        assert_trees_identical(checkpoints.restore_state(states[0]), whole)
        checkpoints.save(states[1], validation_accuracy=None, progress={"images": 3})
        checkpoints.save(states[1], validation_accuracy=0.1)
        checkpoints.wait()
        assert checkpoints.validation_accuracy(20) == 0.6
        assert_trees_identical(checkpoints.restore_state(states[0]), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20"]


def test_a_checkpoint_whose_replacement_was_not_written_is_put_back(tmp_path, states, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[0], validation_accuracy=None, progress={"images": 1})
    monkeypatch.setattr(manifest, "write", no_space)
    full = Checkpoints(tmp_path)
    full.save(states[0], validation_accuracy=0.5)
    with pytest.raises(CheckpointError, match="No space left"):
        full.close()
    monkeypatch.undo()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress(10) == {"images": 1}
        assert_trees_identical(checkpoints.restore_state(states[1]), states[0])


def test_a_step_before_the_last_is_refused_not_silently_skipped(directory, states):
    with Checkpoints(directory) as checkpoints:
        with pytest.raises(
            CheckpointError, match="holds a checkpoint of step 30, so one of step 10"
        ):
            checkpoints.save(states[0], validation_accuracy=0.5)


def test_every_leaf_is_restored_with_the_given_sharding(directory, states):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = checkpoints.restore_state(states[0], sharding=sharding)
        weights = checkpoints.restore_weights(states[0].variables, "last", sharding=sharding)
        plain = checkpoints.restore_weights(states[0].variables, "last")
    assert {leaf.sharding for leaf in jax.tree.leaves((restored, weights))} == {sharding}
    assert_trees_identical(restored, states[2])
    assert all(leaf.sharding != sharding for leaf in jax.tree.leaves(plain))


FOUR_DEVICES = """
import sys
import jax, numpy as np, optax
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.models.resnet import ResNet
from jaxcifar.step.state import init_state

assert jax.device_count() == 4
state = init_state(ResNet(stage_sizes=(1,), width=4), optax.adam(0.1), seed=0, image_size=8)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
with Checkpoints(sys.argv[1]) as checkpoints:
    restored = checkpoints.restore_state(state, sharding=sharding)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))
    checkpoints.save(restored.replace(step=restored.step + 10), validation_accuracy=0.5)
"""


@pytest.mark.slow
def test_one_device_to_four_and_back_changes_no_bit(root, directory, states):
    env = os.environ | {"PYTHONPATH": str(root), "XLA_FLAGS": with_devices(4)}
    subprocess.run([sys.executable, "-c", FOUR_DEVICES, str(directory)], env=env, check=True)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [20, 30, 40]
        assert_trees_identical(checkpoints.restore_state(states[0]), at(states[2], 40))
