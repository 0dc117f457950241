import io
import os
import signal
import subprocess
import sys
import time
import warnings

import jax
import pytest

from jaxcifar.commands.exit_status import exit_with_status
from jaxcifar.common.errors import RunError
from jaxcifar.devices import processes
from jaxcifar.training.interruption import Interrupted


@pytest.fixture(autouse=True)
def _own_warnings():
    with warnings.catch_warnings():
        yield


def status_of(command, **settings):
    with pytest.raises(SystemExit) as stopped:
        exit_with_status(command, **settings)
    return stopped.value.code


def raising(error):
    def command():
        if error is not None:
            raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunError("no such run"), 2, "error: no such run\n"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written\n"),
        (Interrupted("stopped in epoch 2", signal.SIGTERM), 143, "stopped in epoch 2\n"),
        (PermissionError(13, "Permission denied", "runs"), 2, "error: [Errno 13] Permission"),
        (None, 0, ""),
    ],
)
def test_expected_errors_are_one_line_and_a_status(error, code, text, capsys):
    assert status_of(raising(error)) == code
    error = capsys.readouterr().err
    assert error.startswith(text)
    assert error.count("\n") == bool(text)


def test_sigterm_stops_like_ctrl_c(capsys):
    closed = []

    def command():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            closed.append(True)

    assert status_of(command, interrupted="the rest is kept") == 143
    assert closed
    assert capsys.readouterr().err == "terminated; the rest is kept\n"


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nand more")]
)
def test_exhausted_memory_is_one_line(error, capsys):
    assert status_of(raising(error), smaller="lower --size") == 2
    text = capsys.readouterr().err
    assert text.startswith("error: out of memory: lower --size (")
    assert text.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("a bug"), jax.errors.JaxRuntimeError("INTERNAL: bug")])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)) as caught:
        exit_with_status(raising(error))
    assert caught.value is error


def test_a_warning_is_one_line(capsys):
    def command():
        warnings.simplefilter("default")
        warnings.warn("a damaged checkpoint", stacklevel=1)

    assert status_of(command) == 0
    assert capsys.readouterr().err == "warning: a damaged checkpoint\n"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunError("no such run"), 2, "error: no such run\n"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written\n"),
    ],
)
def test_one_of_several_processes_leaves_at_once(error, code, text, monkeypatch, capfd):
    monkeypatch.setattr(processes, "is_one_of_several", lambda: True)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"left with {code}"))
    with pytest.raises(pytest.fail.Exception, match=f"left with {code}"):
        exit_with_status(raising(error))
    assert capfd.readouterr().err == text


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MemoryError("9 bytes"), 2, "error: out of memory: close other programs (9 bytes)\n"),
        (SystemExit(2), 2, ""),
        (KeyError("a bug"), 1, "KeyError: 'a bug'\n"),
    ],
)
def test_one_of_several_leaves_at_once_whatever_happened(error, code, text, monkeypatch, capfd):
    """Python's own end would wait for the others before it shows a traceback."""
    monkeypatch.setattr(processes, "is_one_of_several", lambda: True)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"left with {code}"))
    with pytest.raises(pytest.fail.Exception, match=f"left with {code}"):
        exit_with_status(raising(error))
    written = capfd.readouterr().err
    assert written.endswith(text)
    assert written.startswith("Traceback" if isinstance(error, KeyError) else text)


def test_one_of_several_that_succeeds_waits_for_the_others(monkeypatch):
    monkeypatch.setattr(processes, "is_one_of_several", lambda: True)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"left with {code}"))
    assert status_of(raising(None)) == 0
    assert status_of(raising(SystemExit(0))) == 0  # by --help


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_cuts_the_cleaning_up_short(number):
    code = """
import signal, sys, time
from jaxcifar.commands.exit_status import exit_with_status

def command():
    try:
        signal.raise_signal(int(sys.argv[1]))
    finally:
        signal.raise_signal(int(sys.argv[1]))
        time.sleep(30)

exit_with_status(command)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(int(number))], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 128 + number
    assert done.stderr.count("\n") == 1
    assert "a second signal" in done.stderr


def test_a_path_that_is_not_text_is_printed_escaped(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert status_of(lambda: print("wrote caf\udce9")) == 0
    stdout.flush()
    assert stdout.buffer.getvalue() == b"wrote caf\\udce9\n"
