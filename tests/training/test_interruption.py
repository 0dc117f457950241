import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxcifar.training.interruption import watch_signals


def wait_for(signals):
    deadline = time.monotonic() + 10
    while not signals.requested:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_only_sets_the_flag(number, capsys):
    with watch_signals() as signals:
        assert not signals.requested
        os.kill(os.getpid(), number)
        wait_for(signals)
        assert signals.signal_number == number
    assert signal.Signals(number).name in capsys.readouterr().err


def test_handlers_and_threads_are_restored_afterwards():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()
    with watch_signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert threading.active_count() == threads
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with watch_signals() as signals:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)
            assert not signals.requested
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_watching_in_another_thread_does_nothing():
    seen = []

    def work():
        with watch_signals() as signals:
            seen.append(signals.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


# A compiled program that takes minutes. As with any program, no Python runs in the main thread.
BUSY = """
import sys, jax, jax.numpy as jnp
from jaxcifar.training.interruption import watch_signals
spin = jax.jit(lambda x: jax.lax.while_loop(lambda x: (x < 9).all(), jnp.sin, x))
with watch_signals():
    print("ready", flush=True)
    spin(jnp.ones(1000)).block_until_ready()
"""


def test_a_second_sigint_ends_the_process_at_once_even_inside_a_program():
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith("SIGINT: stopping after this step")
    assert process.poll() is None, "the first signal ended the process"
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - sent < 5
    process.stdout.close()
    process.stderr.close()
