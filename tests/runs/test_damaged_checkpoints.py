import re
import shutil

import pytest

from jaxcifar.common.errors import CheckpointError
from jaxcifar.common.messages import escaped
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoints import Checkpoints, CheckpointWarning
from tests.conftest import assert_trees_identical
from tests.hostile_names import NAMES
from tests.runs.made_checkpoints import files_of, flip, largest_file

DAMAGES = {
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "a bit flipped": flip,
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_nothing_is_restored_from_a_checkpoint_with_a_damaged_file(directory, states, damage):
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
                assert "choose a good one, 20" in str(raised.value)
                # A flipped bit of the manifest may be in its entry for another file.
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
                damaged = "" if name == manifest.NAME else re.escape(name)
                with pytest.warns(CheckpointWarning, match=f"checkpoint 30 .*{damaged}"):
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


def test_a_damaged_item_makes_the_whole_step_unusable(directory, states):
    flip(largest_file(directory / "20" / "train"))
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match=r"train/\S+ has other contents"):
            checkpoints.restore_weights(states[0].variables, "best")


def test_the_best_is_found_if_the_last_is_damaged_unless_its_metrics_are(directory, states):
    flip(largest_file(directory / "30" / "model"))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.find("best") == 20
    flip(directory / "30" / "metrics" / "metrics")
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"checkpoint 30 .*metrics/metrics.* good one, 20"
        ):
            checkpoints.find("best")


def test_a_step_is_verified_only_once(directory, states, monkeypatch):
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


def test_an_old_checkpoint_without_a_manifest_is_used_with_a_warning(directory, states):
    (directory / "30" / manifest.NAME).unlink()
    (directory / "30" / "metrics" / "metrics").write_text('{"validation_accuracy": 0.5}')
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.warns(CheckpointWarning, match="checkpoint 30 .* older .* cannot be checked"):
            restored = checkpoints.restore_state(states[0])
        assert checkpoints.find("best") == 20
    assert_trees_identical(restored, states[2])


def test_damaged_checkpoints_are_moved_and_their_numbers_can_be_saved_again(directory, states):
    for again in ("30", "30.2"):
        flip(largest_file(directory / "30" / "model"))
        damaged = largest_file(directory / "30" / "model").read_bytes()
        with Checkpoints(directory) as checkpoints:
            with pytest.warns(CheckpointWarning) as warned:
                assert checkpoints.set_damaged_aside() == [30]
            (warning,) = warned
            for part in ("checkpoint 30", "has other contents", "the last good one is 20"):
                assert part in str(warning.message)
            assert checkpoints.steps() == [20]
            assert checkpoints.find("last") == 20
            assert checkpoints.set_damaged_aside() == []
            checkpoints.save(states[2], validation_accuracy=0.5)
        with Checkpoints(directory, read_only=True) as checkpoints:
            assert_trees_identical(checkpoints.restore_state(states[0]), states[2])
        moved = directory.parent / "damaged" / again
        assert damaged in [path.read_bytes() for path in files_of(moved)]


def test_if_every_checkpoint_is_damaged_nothing_is_moved(directory):
    for step in (20, 30):
        largest_file(directory / str(step) / "model").unlink()
    with Checkpoints(directory) as checkpoints:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="every checkpoint .* missing.*--overwrite"):
                checkpoints.set_damaged_aside()
        assert checkpoints.steps() == [20, 30]


def test_what_a_killed_save_left_is_ignored_and_later_removed(directory, states):
    left = directory / "40.orbax-checkpoint-tmp"
    shutil.copytree(directory / "30", left)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [20, 30]
    assert left.exists()
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.set_damaged_aside() == []
        assert checkpoints.find("last") == 30
    assert not left.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_warning_about_a_folder_of_any_name_is_one_line(directory, name, tmp_path):
    name = name.removesuffix("\udcff")  # which Orbax cannot read
    directory = shutil.move(directory, tmp_path / name / "checkpoints")
    flip(largest_file(directory / "30" / "model"))
    (directory / "20" / manifest.NAME).unlink()
    (directory / "20" / "metrics" / "metrics").write_text('{"validation_accuracy": 0.5}')
    with Checkpoints(directory) as checkpoints, pytest.warns(CheckpointWarning) as warned:
        checkpoints.set_damaged_aside()
    old, damaged = sorted(str(warning.message) for warning in warned)
    assert old.startswith(f"checkpoint 20 in {escaped(directory)} was written by an older")
    assert damaged.startswith(f"checkpoint 30 in {escaped(directory)} is damaged")
    assert (old + damaged).isprintable()
