import errno
import functools
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.common.errors import CheckpointError
from jaxcifar.models.resnet import ResNet
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoints import Checkpoints, CheckpointWarning
from jaxcifar.step.state import init_state
from tests.conftest import assert_trees_identical, with_devices

TX = optax.adam(0.1)


@pytest.fixture(scope="module")
def states():
    """Three states of one run, each with other weights."""
    model = ResNet(stage_sizes=(1,), width=4)
    state = init_state(model, TX, seed=0, image_size=8)
    noisy = [
        at(state, step, params=jax.tree.map(lambda x, s=step: x + s, state.params))
        for step in (10, 20, 30)
    ]
    return noisy


def at(state, step, **changes):
    return state.replace(step=jnp.asarray(step, jnp.int32), **changes)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, states):
    directory = tmp_path_factory.mktemp("stored") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for state, accuracy in zip(states, (0.2, 0.9, 0.5), strict=True):
            checkpoints.save(state, validation_accuracy=accuracy)
    return directory


@pytest.fixture
def directory(tmp_path, stored):
    """Steps 20 and 30, of which 20 is the best."""
    return shutil.copytree(stored, tmp_path / "checkpoints")


def flip(path, bit=0):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    path.write_bytes(data)


def arrays(directory, step):
    """The largest file of a step: parameters."""
    files = [path for path in (directory / str(step) / "model").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_the_two_newest_and_the_best_are_kept_and_only_they(directory, states):
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
        checkpoints.save(at(states[0], 40), validation_accuracy=None)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 30, 40]
        assert checkpoints.find("best") == 10
        assert checkpoints.find("last") == 40
        assert checkpoints.validation_accuracy(40) is None


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


PROGRESS = {
    "epoch": 2,
    "batches": 17,
    "sums": {"loss": 0.1 + 0.2, "tiny": 5e-324, "third": 1 / 3, "correct": 93.0},
    "seconds": [1.5, None],
}


def test_progress_comes_back_to_the_bit_and_is_not_there_at_an_epochs_end(tmp_path, states):
    progress = {**PROGRESS}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[0], validation_accuracy=None, progress=progress)
        progress["epoch"] = 3  # it has been copied
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
        # Unfinished ones push out neither the best nor the newest.
        for step in (30, 40, 50):
            checkpoints.save(at(states[2], step), validation_accuracy=0.9, progress=PROGRESS)
        checkpoints.wait()
        assert checkpoints.steps() == [20, 40, 50]
        assert checkpoints.find("last") == 50


def test_an_interrupted_validation_is_replaced_and_a_whole_checkpoint_is_not(tmp_path, states):
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


def test_what_was_being_replaced_comes_back_where_its_successor_was_not_written(
    tmp_path, states, monkeypatch
):
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


def test_a_step_before_the_last_is_refused_and_not_silently_left_out(directory, states):
    with Checkpoints(directory) as checkpoints:
        with pytest.raises(CheckpointError, match="holds a checkpoint of step 30: one of step 10"):
            checkpoints.save(states[0], validation_accuracy=0.5)


# Damage.

DAMAGES = {
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "a bit flipped": flip,
    "deleted": lambda path: path.unlink(),
}


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_no_damaged_file_is_ever_restored_from(directory, states, damage):
    refused = 0
    for path in files_of(directory / "30"):
        whole = path.read_bytes()
        name = path.relative_to(directory / "30").as_posix()
        damage(path)
        with Checkpoints(directory, read_only=True) as checkpoints:
            if name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
                assert_trees_identical(checkpoints.restore_state(states[0]), states[2])
            else:
                with pytest.raises(CheckpointError) as raised:
                    checkpoints.restore_state(states[0])
                assert f"checkpoint 30 in {directory} is damaged: " in str(raised.value)
                assert "name a good one, 20" in str(raised.value)
                # A flipped bit of the manifest may be in what it says of another file.
                assert f"damaged: {name} " in str(raised.value) or name == manifest.NAME
                refused += 1
        path.write_bytes(whole)
    assert refused > 20
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert_trees_identical(checkpoints.restore_state(states[0]), states[2])


def test_resuming_falls_back_whichever_file_is_damaged(directory, states, tmp_path):
    for path in files_of(directory / "30"):
        name = path.relative_to(directory / "30").as_posix()
        copy = shutil.copytree(directory, tmp_path / "copy" / "checkpoints")
        flip(copy / "30" / name)
        with Checkpoints(copy) as checkpoints:
            if name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
                assert checkpoints.set_damaged_aside() == []
                assert checkpoints.find("last") == 30
            else:
                said = "" if name == manifest.NAME else re.escape(name)
                with pytest.warns(CheckpointWarning, match=f"checkpoint 30 .*{said}"):
                    assert checkpoints.set_damaged_aside() == [30]
                assert_trees_identical(checkpoints.restore_state(states[0]), states[1])
        shutil.rmtree(copy.parent)


@pytest.mark.parametrize(
    "part", ["model", "train", "metrics", "model/d", "model/ocdbt.process_0", "train/_METADATA"]
)
def test_half_a_checkpoint_is_refused(directory, states, part):
    path = directory / "20" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with Checkpoints(directory, read_only=True) as checkpoints:
        for which in (20, "best"):
            with pytest.raises(CheckpointError, match="checkpoint 20 .* damaged"):
                checkpoints.restore_weights(states[0].variables, which)
        assert_trees_identical(
            checkpoints.restore_weights(states[0].variables, "last"), states[2].variables
        )


def test_a_step_is_refused_whole_even_for_an_item_that_is_not_damaged(directory, states):
    flip(max(files_of(directory / "20" / "train"), key=lambda path: path.stat().st_size))
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match=r"train/\S+ has other contents"):
            checkpoints.restore_weights(states[0].variables, "best")


def test_the_best_is_found_beside_a_damaged_last_one_and_not_beside_lost_accuracies(
    directory, states
):
    flip(arrays(directory, 30))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.find("best") == 20
    flip(directory / "30" / "metrics" / "metrics")
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"checkpoint 30 .*metrics/metrics.* good one, 20"
        ):
            checkpoints.find("best")


def test_a_step_is_read_once_to_verify_it(directory, states, monkeypatch):
    verified = []
    verify = manifest.verify

    def counted(path, below=""):
        verified.append((path.name, below))
        return verify(path, below)

    monkeypatch.setattr(manifest, "verify", counted)
    with Checkpoints(directory) as checkpoints:
        checkpoints.set_damaged_aside()
        for _ in range(2):
            checkpoints.restore_weights(states[0].variables, "best")
            checkpoints.restore_state(states[0], "last")
            checkpoints.validation_accuracy(20)
    assert sorted(verified) == [("20", ""), ("20", "metrics/"), ("30", ""), ("30", "metrics/")]


def test_a_checkpoint_from_before_manifests_is_used_with_a_warning(directory, states):
    (directory / "30" / manifest.NAME).unlink()
    (directory / "30" / "metrics" / "metrics").write_text('{"validation_accuracy": 0.5}')
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.warns(CheckpointWarning, match="checkpoint 30 .* older .* cannot be told"):
            restored = checkpoints.restore_state(states[0])
        assert checkpoints.find("best") == 20
    assert_trees_identical(restored, states[2])


def test_damaged_checkpoints_go_aside_and_their_numbers_are_free_again(directory, states):
    for again in ("30", "30.2"):
        flip(arrays(directory, 30))
        damaged = arrays(directory, 30).read_bytes()
        with Checkpoints(directory) as checkpoints:
            with pytest.warns(CheckpointWarning) as warned:
                assert checkpoints.set_damaged_aside() == [30]
            (warning,) = warned
            for said in ("checkpoint 30", "has other contents", "the last good one is 20"):
                assert said in str(warning.message)
            assert checkpoints.steps() == [20]
            assert checkpoints.find("last") == 20
            assert checkpoints.set_damaged_aside() == []
            checkpoints.save(states[2], validation_accuracy=0.5)
        with Checkpoints(directory, read_only=True) as checkpoints:
            assert_trees_identical(checkpoints.restore_state(states[0]), states[2])
        moved = directory.parent / "damaged" / again
        assert damaged in [path.read_bytes() for path in files_of(moved)]


def test_where_every_checkpoint_is_damaged_nothing_is_moved(directory):
    for step in (20, 30):
        arrays(directory, step).unlink()
    with Checkpoints(directory) as checkpoints:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="every checkpoint .* missing.*--overwrite"):
                checkpoints.set_damaged_aside()
        assert checkpoints.steps() == [20, 30]


def test_what_a_killed_save_left_is_no_checkpoint_and_goes(directory, states):
    left = directory / "40.orbax-checkpoint-tmp"
    shutil.copytree(directory / "30", left)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [20, 30]
    assert left.exists()
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.set_damaged_aside() == []
        assert checkpoints.find("last") == 30
    assert not left.exists()


# Errors while writing.


def no_space(directory):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("comes_up_in", ["wait", "close", "the next save"])
def test_an_error_of_a_background_save_is_told(directory, states, monkeypatch, comes_up_in):
    checkpoints = Checkpoints(directory)
    monkeypatch.setattr(manifest, "write", no_space)
    checkpoints.save(at(states[0], 40), validation_accuracy=0.5)
    save_next = functools.partial(checkpoints.save, at(states[0], 50), validation_accuracy=0.5)
    calls = {"wait": checkpoints.wait, "close": checkpoints.close, "the next save": save_next}
    with pytest.raises(CheckpointError) as raised:
        calls[comes_up_in]()
    assert str(raised.value) == (
        f"checkpoint 40 could not be written to {directory} (No space left on device); the "
        "earlier ones, [20, 30], are intact: free some space there, then go on with --resume"
    )
    assert checkpoints.steps() == [20, 30]
    monkeypatch.undo()
    checkpoints.close()  # told once
    with Checkpoints(directory) as again:  # there is room again
        again.save(at(states[0], 40), validation_accuracy=0.5)
    assert again.find("last") == 40


def test_a_failed_save_does_not_mask_why_the_run_ended(directory, states, monkeypatch):
    monkeypatch.setattr(manifest, "write", no_space)

    def run():
        with Checkpoints(directory) as checkpoints:
            checkpoints.save(at(states[0], 40), validation_accuracy=0.5)
            raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError, match="not finite") as raised:
        run()
    assert "checkpoint 40 could not be written" in raised.value.__notes__[0]


def test_a_step_appears_with_its_manifest_or_not_at_all(tmp_path, states, monkeypatch):
    seen = []
    write = manifest.write

    def looking(directory):
        seen.append((directory.name, (tmp_path / "10").exists()))
        write(directory)

    monkeypatch.setattr(manifest, "write", looking)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[0], validation_accuracy=0.5)
    assert seen == [("10.orbax-checkpoint-tmp", False)]
    assert manifest.verify(tmp_path / "10") == []


def test_a_directory_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written to .*Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints")


# Saves steps 10 and 20 in argv[1], 20 after `limit`; then what argv[2] says.
SAVER = """
import resource, subprocess, sys
from pathlib import Path
import jax, optax
from jaxcifar.common.errors import CheckpointError
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.models.resnet import ResNet
from jaxcifar.step.state import init_state

directory, how = Path(sys.argv[1]), sys.argv[2]
state = init_state(ResNet(stage_sizes=(1,), width=4), optax.adam(0.1), seed=0, image_size=8)
with Checkpoints(directory) as checkpoints:
    checkpoints.save(state.replace(step=state.step + 10), validation_accuracy=0.5)
if how == "file size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
elif how == "full":
    with (directory / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(file.tell() - 4 * 4096)
elif how == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
try:
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(state.replace(step=state.step + 20), validation_accuracy=0.5)
except CheckpointError as error:
    print(error)
with Checkpoints(directory, read_only=True) as checkpoints:
    assert checkpoints.steps() == [10], checkpoints.steps()
    restored = checkpoints.restore_state(state)
assert int(restored.step) == 10
same = jax.tree.map(lambda a, b: bool((a == b).all()), restored.variables, state.variables)
assert all(jax.tree.leaves(same))
print("restored")
"""
IN_TMPFS = 'mount -t tmpfs -o size=400k tmpfs "$1" && exec "$0" -c "$4" "$1" "$2"'


def run_saver(root, directory, how, *, mounted):
    """Lines printed by `SAVER`, in a small file system of its own if `mounted`."""
    env = os.environ | {"PYTHONPATH": str(root)}
    if not mounted:
        command = [sys.executable, "-c", SAVER, str(directory), how]
    else:
        # A mount in a name space of its own, which ends with the process.
        shell = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c"]
        try:
            subprocess.run([*shell, 'mount -t tmpfs tmpfs "$0"', str(directory)], check=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this system does not let us mount a small file system")
        command = [*shell, IN_TMPFS, sys.executable, str(directory), how, "", SAVER]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("how", "mounted", "said"),
    [
        ("file size", False, r"checkpoint 20 could .*File too large.*\[10\], are intact.*ulimit"),
        ("full", True, r"checkpoint 20 could .*No space left on device.*\[10\], are intact.*free"),
        ("read-only", True, r"checkpoints cannot .*Read-only file system.*make it writable"),
    ],
    ids=["file size limit", "full disk", "read-only disk"],
)
def test_a_disk_that_fails_is_one_line_and_the_earlier_checkpoint_restores(
    root, tmp_path, how, mounted, said
):
    error, restored = run_saver(root, tmp_path, how, mounted=mounted)
    assert re.match(said, error), error
    assert restored == "restored"


# Devices.


def test_a_sharding_is_put_on_every_leaf(directory, states):
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


def test_one_device_to_four_and_back_changes_no_bit(root, directory, states):
    env = os.environ | {"PYTHONPATH": str(root), "XLA_FLAGS": with_devices(4)}
    subprocess.run([sys.executable, "-c", FOUR_DEVICES, str(directory)], env=env, check=True)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [20, 30, 40]
        assert_trees_identical(checkpoints.restore_state(states[0]), at(states[2], 40))
