"""Signals between the first line of a command and its last, in its own process.

Python's own start cannot be covered. So each process says when its first module is reached, and the
signals follow from there.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxcifar.commands.first_seconds import leave_at_once

# `-X importtime` prints each module when it has been imported. The next one after this is imported
# by the function that is the entry point.
ENTRY = "jaxcifar.commands.main"
# All of them import JAX and end without a run.
DOORS = {
    "jaxcifar": ["-c", "from jaxcifar.commands.main import main; main()", "train", "--help"],
    "python -m": ["-m", "jaxcifar", "evaluate", "no such run"],
    "scripts": ["scripts/export.py", "--help"],
}
NUMBERS = [signal.SIGINT, signal.SIGTERM]
LINES = {
    signal.SIGINT: "interrupted; nothing was written",
    signal.SIGTERM: "terminated; nothing was written",
}


@pytest.fixture
def start(root):
    def start(door, ignored=False):
        """Start a command and wait until its entry point is called."""
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", *DOORS[door]],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=ignore_sigint if ignored else None,
        )
        reached = False
        for line in process.stderr:
            if reached:
                return process
            reached = line.rstrip().endswith(f" {ENTRY}")
        pytest.fail("did not reach its entry point")

    return start


def ignore_sigint():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def finish(process):
    """What it prints, without the lines of `-X importtime`."""
    with process:
        said = process.stderr.read()
    return [line for line in said.splitlines() if not line.startswith("import time:")]


@pytest.fixture
def seconds(start):
    """How long a command takes from its entry point to its end."""

    def seconds(door):
        process = start(door)
        started = time.monotonic()
        finish(process)
        return time.monotonic() - started

    return seconds


def check_moments(door, number, start, seconds, count):
    whole = seconds(door)
    ends = []
    for i in range(count):
        process = start(door)
        # From "at once" to a little after the end.
        time.sleep(1.1 * whole * i / (count - 1))
        process.send_signal(number)
        said = finish(process)
        assert len(said) <= 1, said
        assert not said or said[0].startswith((LINES[number].split(";")[0], "error: there is no"))
        # While Python shuts down, it takes the handlers away: the signal itself ends it.
        assert process.returncode in (128 + number, -number, 0, 2)
        ends.append((process.returncode, said))
    assert ends[0] == (128 + number, [LINES[number]])
    in_time = [end for end in ends if end[0] == 128 + number]
    assert len(in_time) >= count / 2 - 1, ends


@pytest.mark.parametrize(("door", "number"), [("scripts", signal.SIGINT)])
def test_a_signal_soon_after_the_start_is_one_line(door, number, start):
    for delay in (0, 0.2):
        process = start(door)
        time.sleep(delay)
        process.send_signal(number)
        assert finish(process) == [LINES[number]]
        assert process.returncode == 128 + number


@pytest.mark.slow  # ten processes each
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("door", DOORS)
def test_a_signal_at_any_moment_is_one_line_at_most(door, number, start, seconds):
    check_moments(door, number, start, seconds, 10)


@pytest.mark.slow
def test_an_ignored_sigint_stays_ignored(start):
    """As in a shell's background job."""
    process = start("python -m", ignored=True)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert finish(process) == ["error: there is no run directory no such run"]
    assert process.returncode == 2


def test_the_handlers_leave_ignored_signals_alone():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_at_once()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert callable(signal.getsignal(signal.SIGTERM))


def test_the_library_changes_no_handlers():
    code = """
import signal
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
import jaxcifar, jaxcifar.commands.main, jaxcifar.commands.exit_status
assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
