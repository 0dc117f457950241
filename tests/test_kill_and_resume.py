"""A short form of benchmarks/kill_and_resume.py, with a network small enough for the tests."""

import random
import signal
import sys

import numpy as np
import pytest

from benchmarks import kill_and_resume
from tests.test_end_to_end import RUN_TINY


@pytest.fixture
def run_with_kills(root, tmp_path, tiny, monkeypatch):
    command = [sys.executable, "-c", RUN_TINY, str(root / "scripts" / "train.py")]
    monkeypatch.setattr(
        kill_and_resume, "SETTINGS", ["--architecture", "tiny", *kill_and_resume.SETTINGS]
    )

    def run_with_kills(number, kills, epochs):
        return kill_and_resume.run_with_kills(
            tmp_path,
            kills=kills,
            runs=1,
            epochs=epochs,
            number=number,
            rng=random.Random(0),
            command=command,
        )

    return run_with_kills


@pytest.mark.slow  # a minute each; tests/training/test_fit.py stops runs in its own process
@pytest.mark.parametrize(
    ("number", "kills"), [(signal.SIGKILL, 2), (signal.SIGTERM, 3), (signal.SIGINT, 3)]
)
def test_a_run_killed_at_random_and_during_saves_ends_bit_identical(run_with_kills, number, kills):
    counts = run_with_kills(number, kills, epochs=40)
    assert counts["identical"] == counts["runs"] == 1
    assert counts["kills"] == kills, "the run ended before it could be killed"


def test_a_single_bit_changes_the_digest():
    tree = {"a": np.zeros(3, np.float32), "b": [np.ones(2)]}
    before = kill_and_resume.digest(tree)
    assert kill_and_resume.digest({**tree}) == before
    tree["a"].view(np.uint32)[1] ^= 1
    assert kill_and_resume.digest(tree) != before


@pytest.mark.slow
def test_a_run_with_another_seed_counts_as_different(run_with_kills, monkeypatch, tmp_path):
    """The comparison can fail: the undisturbed run has another seed."""
    calls = []
    real = kill_and_resume.run_to_end

    def run_to_end(command):
        calls.append(command)
        real([*command, "--seed", "1"] if len(calls) == 1 else command)

    monkeypatch.setattr(kill_and_resume, "run_to_end", run_to_end)
    counts = run_with_kills(signal.SIGKILL, 1, epochs=30)
    assert counts["identical"] == 0
