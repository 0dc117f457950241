"""The short form of benchmarks/kill_and_resume.py, on a network small enough for every run."""

import random
import signal
import sys

import numpy as np
import pytest

from benchmarks import kill_and_resume
from tests.test_end_to_end import RUN_TINY


@pytest.fixture
def torment(root, tmp_path, tiny, monkeypatch):
    command = [sys.executable, "-c", RUN_TINY, str(root / "scripts" / "train.py")]
    monkeypatch.setattr(
        kill_and_resume, "SETTINGS", ["--architecture", "tiny", *kill_and_resume.SETTINGS]
    )

    def torment(number, kills, epochs):
        return kill_and_resume.torment(
            tmp_path,
            kills=kills,
            runs=1,
            epochs=epochs,
            number=number,
            rng=random.Random(0),
            command=command,
        )

    return torment


@pytest.mark.slow  # a minute each; tests/test_train.py stops a run everywhere in its own process
@pytest.mark.parametrize(
    ("number", "kills"), [(signal.SIGKILL, 2), (signal.SIGTERM, 3), (signal.SIGINT, 3)]
)
def test_a_run_killed_at_random_and_during_saves_ends_to_the_bit(torment, number, kills):
    found = torment(number, kills, epochs=40)
    assert found["identical"] == found["runs"] == 1
    assert found["kills"] == kills, "it ended before it could be killed"


def test_one_bit_makes_another_digest():
    tree = {"a": np.zeros(3, np.float32), "b": [np.ones(2)]}
    before = kill_and_resume.digest(tree)
    assert kill_and_resume.digest({**tree}) == before
    tree["a"].view(np.uint32)[1] ^= 1
    assert kill_and_resume.digest(tree) != before


@pytest.mark.slow
def test_a_difference_is_noticed(torment, monkeypatch, tmp_path):
    """The comparison can fail: the run that is resumed has another seed."""
    calls = []
    real = kill_and_resume.run_to_end

    def run_to_end(command):
        calls.append(command)
        real([*command, "--seed", "1"] if len(calls) == 1 else command)

    monkeypatch.setattr(kill_and_resume, "run_to_end", run_to_end)
    found = torment(signal.SIGKILL, 1, epochs=30)
    assert found["identical"] == 0
