import functools
import os
import re
import subprocess
import sys

import pytest

from jaxcifar.common.errors import CheckpointError
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoints import Checkpoints
from tests.runs.made_checkpoints import at, no_space


@pytest.mark.parametrize("comes_up_in", ["wait", "close", "the next save"])
def test_an_error_of_a_background_save_is_raised_once(directory, states, monkeypatch, comes_up_in):
    checkpoints = Checkpoints(directory)
    monkeypatch.setattr(manifest, "write", no_space)
    checkpoints.save(at(states[0], 40), validation_accuracy=0.5)
    save_next = functools.partial(checkpoints.save, at(states[0], 50), validation_accuracy=0.5)
    calls = {"wait": checkpoints.wait, "close": checkpoints.close, "the next save": save_next}
    with pytest.raises(CheckpointError) as raised:
        calls[comes_up_in]()
    assert str(raised.value) == (
        f"checkpoint 40 could not be written to {directory} (No space left on device); the "
        "earlier ones, [20, 30], are intact: free some space there, then continue with --resume"
    )
    assert checkpoints.steps() == [20, 30]
    monkeypatch.undo()
    checkpoints.close()  # raised once
    with Checkpoints(directory) as again:  # there is space again
        again.save(at(states[0], 40), validation_accuracy=0.5)
    assert again.find("last") == 40


def test_a_failed_save_does_not_hide_why_the_run_ended(directory, states, monkeypatch):
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


# Saves step 10 in argv[1], limits the disk as argv[2] says, and tries to save step 20.
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
elif how.startswith("folders"):  # as many files or folders as the rest of it says
    fillers = []
    try:
        while True:
            fillers.append(directory / f"filler{len(fillers)}")
            fillers[-1].touch()
    except OSError:
        for filler in fillers[-1 - int(how.split()[1]) : -1]:
            filler.unlink()
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
IN_TMPFS = 'mount -t tmpfs -o size=400k,nr_inodes=200 tmpfs "$1" && exec "$0" -c "$4" "$1" "$2"'


def run_saver(root, directory, how, *, mounted):
    """Lines printed by `SAVER`, in a small file system of its own if `mounted`."""
    env = os.environ | {"PYTHONPATH": str(root)}
    if not mounted:
        command = [sys.executable, "-c", SAVER, str(directory), how]
    else:
        # A mount in its own namespace, which ends with the process.
        shell = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c"]
        try:
            subprocess.run([*shell, 'mount -t tmpfs tmpfs "$0"', str(directory)], check=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this system does not allow mounting a small file system")
        command = [*shell, IN_TMPFS, sys.executable, str(directory), how, "", SAVER]
    # Threads of a save that failed must neither be waited for nor report anything.
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("how", "mounted", "message"),
    [
        pytest.param(
            "file size",
            False,
            r"checkpoint 20 could .*File too large.*\[10\], are intact.*ulimit",
            marks=pytest.mark.slow,
        ),
        ("full", True, r"checkpoint 20 could .*No space left on device.*\[10\], are intact.*free"),
        pytest.param(
            "folders 1",
            True,
            r"checkpoint 20 could .*No space left on device.*\[10\], are intact",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "folders 3",
            True,
            r"checkpoint 20 could .*No space left on device.*\[10\], are intact",
            marks=pytest.mark.slow,
        ),
        ("read-only", True, r"checkpoints cannot .*Read-only file system.*make it writable"),
    ],
    ids=["file size limit", "full disk", "a folder", "a folder later", "read-only disk"],
)
def test_a_failing_disk_gives_one_line_and_the_earlier_checkpoint_restores(
    root, tmp_path, how, mounted, message
):
    error, restored = run_saver(root, tmp_path, how, mounted=mounted)
    assert re.match(message, error), error
    assert restored == "restored"
