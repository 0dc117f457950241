"""Runs of several processes on this machine, started by `scripts/train.py`."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import pytest

from jaxcifar.common.errors import CheckpointError, DeviceError, ProcessLostError
from jaxcifar.devices.processes import (
    HEARTBEAT_SECONDS,
    DeviceOptions,
    connect,
    explain_lost_process,
    is_one_of_several,
)
from tests.conftest import with_devices
from tests.test_end_to_end import RUN_TINY

TINY = shlex.split(
    "--architecture tiny --width 4 --train-size 152 --validation-size 40 --batch-size 16 "
    "--dropout-rate 0.2 --flip-rate 0.5 --translate-pixels 2 --t-max 20 --eval-batch-size 64"
)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_open(port):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start(root, tmp_path):
    """Start a script. Its output goes to files, so that it never blocks."""
    running = []
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as in the tests' own process
    }

    def start(name, script, *arguments, devices=1):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_TINY, str(root / "scripts" / script), *arguments],
            cwd=tmp_path,
            env=env | {"XLA_FLAGS": with_devices(devices)},
            stdout=(tmp_path / f"{name}.out").open("w"),
            stderr=(tmp_path / f"{name}.err").open("w"),
        )
        process.errors = tmp_path / f"{name}.err"  # what a failed test shows
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def train(start):
    """Start a run of several processes; `name` is also its directory."""

    def train(name, processes, *arguments):
        together = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(processes))
        return [
            start(
                f"{name}{i}",
                "train.py",
                *("demo", "--workdir", name, *arguments),
                *(*together, "--process-id", str(i)),
            )
            for i in range(processes)
        ]

    return train


@pytest.fixture
def train_alone(run_here, tiny):
    """Train in this process, on its one device."""

    def train_alone(name, *arguments):
        status, _, errors = run_here("train.py", "demo", "--workdir", name, *arguments)
        assert status == 0, errors

    return train_alone


def finish(tmp_path, processes, timeout=240):
    for process in processes:
        process.wait(timeout)
    errors = [path.read_text() for path in sorted(tmp_path.glob("*.err"))]
    assert [process.returncode for process in processes] == [0] * len(processes), errors


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_same_curves(run, other, tolerance):
    for a, b in zip(rows(run), rows(other), strict=True):
        for name in ("train_loss", "validation_loss"):
            assert a[name] == pytest.approx(b[name], rel=tolerance)
        assert a["step"] == b["step"]


def wait_until(condition, processes, timeout=120):
    deadline = time.monotonic() + timeout
    while not condition():
        ended = [process.errors.read_text() for process in processes if process.poll() is not None]
        assert not ended, "a process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_epochs(run, count, processes):
    wait_until(lambda: (run / "metrics.jsonl").exists() and len(rows(run)) >= count, processes)


@pytest.mark.parametrize(
    "processes",
    [2, pytest.param(4, marks=pytest.mark.slow)],
)
def test_several_processes_train_as_one_does_and_leave_one_run(
    train, train_alone, run_here, tmp_path, processes
):
    train_alone("one", *TINY, "--epochs", "2")
    finish(tmp_path, train("many", processes, *TINY, "--epochs", "2"))
    check_same_curves(tmp_path / "many", tmp_path / "one", 1e-2)
    assert f"{processes} devices of {processes} processes" in (tmp_path / "many0.out").read_text()
    assert "epoch" not in (tmp_path / "many1.out").read_text(), "only the first process prints"

    _, output, _ = run_here("evaluate.py", "many")
    scores = json.loads(output.splitlines()[-1])
    summary = json.loads((tmp_path / "many" / "summary.json").read_text())
    assert scores["accuracy"] == summary["best"]["test"]["accuracy"]
    assert scores["loss"] == pytest.approx(summary["best"]["test"]["loss"], rel=1e-5)

    # Resumed on one device from the checkpoint of several processes.
    train_alone("many", "--resume", "--epochs", "3")
    train_alone("one", "--resume", "--epochs", "3")
    check_same_curves(tmp_path / "many", tmp_path / "one", 2e-2)


def check_left(tmp_path, name, process, seconds):
    """A process says in one line that another is lost, and exits as after any expected error."""
    assert process.wait(timeout=seconds) == 2
    lines = (tmp_path / f"{name}.err").read_text().splitlines()
    (error,) = (line for line in lines if not line.startswith("warning: digits has no image of"))
    assert error.startswith("error: another process of this run is gone")
    assert "--resume" in error


def check_resumes(train, tmp_path):
    done = len(rows(tmp_path / "run"))
    processes = train("run", 2, "--resume")
    wait_for_epochs(tmp_path / "run", done + 2, processes)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=60) for process in processes] == [143, 143]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_others_stop_when_one_is_killed_and_can_be_resumed(train, tmp_path, killed):
    processes = train("run", 2, *TINY, "--epochs", "2000", "--t-max", "2000")
    wait_for_epochs(tmp_path / "run", 3, processes)
    processes[killed].send_signal(signal.SIGKILL)
    check_left(tmp_path, f"run{1 - killed}", processes[1 - killed], 60)
    check_resumes(train, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_the_others_stop_when_one_does_not_answer_and_can_be_resumed(train, tmp_path, stopped):
    processes = train("run", 2, *TINY, "--epochs", "2000", "--t-max", "2000")
    wait_for_epochs(tmp_path / "run", 3, processes)
    processes[stopped].send_signal(signal.SIGSTOP)
    check_left(tmp_path, f"run{1 - stopped}", processes[1 - stopped], 2 * HEARTBEAT_SECONDS)
    # It finds the others gone.
    processes[stopped].send_signal(signal.SIGCONT)
    check_left(tmp_path, f"run{stopped}", processes[stopped], 2 * HEARTBEAT_SECONDS)
    check_resumes(train, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_waits_before_the_first_epoch_leaves_too(train, tmp_path, stopped):
    """One compiles; after it, it waits for the other without limit."""
    processes = train("run", 2, *TINY, "--epochs", "2")
    wait_until(lambda: "connected" in (tmp_path / "run1.out").read_text(), processes)
    processes[stopped].send_signal(signal.SIGSTOP)
    check_left(tmp_path, f"run{1 - stopped}", processes[1 - stopped], 2 * HEARTBEAT_SECONDS)


@pytest.mark.slow
def test_a_process_that_waits_at_the_end_leaves_too(train, tmp_path):
    processes = train("run", 2, *TINY, "--epochs", "2")
    wait_until((tmp_path / "run" / "summary.json").exists, processes)
    processes[0].send_signal(signal.SIGSTOP)
    check_left(tmp_path, "run1", processes[1], 2 * HEARTBEAT_SECONDS)


@pytest.mark.slow
def test_a_process_that_is_stopped_for_seconds_is_not_lost(train, tmp_path):
    processes = train("run", 2, *TINY, "--epochs", "2000", "--t-max", "2000")
    for process in processes:
        wait_for_epochs(tmp_path / "run", 2, processes)
        process.send_signal(signal.SIGSTOP)
        time.sleep(8)
        process.send_signal(signal.SIGCONT)
        wait_for_epochs(tmp_path / "run", len(rows(tmp_path / "run")) + 2, processes)
    processes[0].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=60) for process in processes] == [143, 143]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (signal.SIGINT, "interrupted; "),
        pytest.param(signal.SIGTERM, "terminated; ", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_waits_for_the_others_can_be_interrupted(start, tmp_path, number, text):
    """JAX waits for them up to five minutes."""
    port = free_port()
    together = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", "0")
    process = start("alone", "train.py", "demo", "--workdir", "run", *together)
    wait_until(lambda: is_open(port), [process])
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    errors = (tmp_path / "alone.err").read_text()
    assert errors.startswith(text)
    assert errors.count("\n") == 1


def test_a_signal_is_heard_while_connecting_even_if_another_thread_receives_it(monkeypatch):
    """The kernel interrupts no wait of the main thread then, as just before a wait begins."""
    released = threading.Event()

    def initialize(**arguments):
        signal.raise_signal(signal.SIGINT)
        released.wait(20)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    module = sys.modules[connect.__module__]
    monkeypatch.setattr(module, "leave_when_one_is_lost", contextlib.nullcontext)
    options = DeviceOptions(coordinator="auto", num_processes=2, process_id=0)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            connect(options)
        assert time.monotonic() - began < 10
        assert is_one_of_several()  # an orderly exit would wait for the others
    finally:
        released.set()
    wait_until(lambda: not is_one_of_several(), [])


@pytest.mark.parametrize("owners", [(0, 0, 1), (0, 0, 1, 1)])
def test_processes_need_equally_many_devices(monkeypatch, owners):
    module = sys.modules[connect.__module__]
    monkeypatch.setattr(module, "_initialize", lambda arguments: None)
    devices = [SimpleNamespace(process_index=owner) for owner in owners]
    monkeypatch.setattr(module, "find_devices", lambda: devices)
    options = DeviceOptions(coordinator="auto")
    if owners == (0, 0, 1, 1):
        connect(options)
        return
    with pytest.raises(DeviceError, match="process 0 has 2, process 1 has 1.*CUDA_VISIBLE_DEVICES"):
        connect(options)


@pytest.mark.slow  # five minutes: JAX's limit for connecting
def test_a_process_that_is_alone_gives_up(start, tmp_path):
    together = ("--num-processes", "2", "--process-id")
    processes = []
    for rank in ("0", "1"):  # which look for each other at different ports
        address = ("--coordinator", f"127.0.0.1:{free_port()}")
        run = ("demo", "--workdir", "run", *address, *together, rank)
        processes.append(start(rank, "train.py", *run))
    for rank, process in enumerate(processes):
        assert process.wait(timeout=400) == 2
        errors = (tmp_path / f"{rank}.err").read_text()
        assert errors.startswith("error: the processes could not connect at 127.0.0.1:")
        assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(train, tmp_path):
    finish(tmp_path, train("whole", 2, *TINY, "--epochs", "30"))
    processes = train("run", 2, *TINY, "--epochs", "30")
    wait_for_epochs(tmp_path / "run", 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=60) for process in processes] == [143, 143]
    finish(tmp_path, train("run", 2, "--resume"))
    check_same_curves(tmp_path / "run", tmp_path / "whole", 1e-6)


@pytest.mark.slow  # half a minute; test_layout has four devices, too
def test_a_run_on_four_devices_resumes_on_two(start, train_alone, tmp_path):
    train_alone("one", *TINY, "--epochs", "3")
    run = ("demo", "--workdir", "run")
    finish(tmp_path, [start("four", "train.py", *run, *TINY, "--epochs", "2", devices=4)])
    assert "4 devices, jit; images on the devices" in (tmp_path / "four.out").read_text()
    more = ("--resume", "--epochs", "3", "--parallel", "pmap", "--input", "stream")
    finish(tmp_path, [start("two", "train.py", *run, *more, devices=2)])
    assert "2 devices, pmap; images read from the host" in (tmp_path / "two.out").read_text()
    check_same_curves(tmp_path / "run", tmp_path / "one", 1e-2)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: reset"), ProcessLostError),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed"), ProcessLostError),
        (OSError(28, "No space left on device: Connection"), CheckpointError),
    ],
)
def test_a_save_that_fails_with_another_process_is_explained(cause, expected, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(expected), explain_lost_process():
        raise CheckpointError("checkpoint 30 could not be written") from cause
