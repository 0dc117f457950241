import io
import sys

import jax.numpy as jnp
import pytest

from jaxcifar.step import metrics
from jaxcifar.training.progress import ProgressBar, duration
from tests import fake_ipython


class Terminal(io.StringIO):
    def isatty(self):
        return True


def sums(correct, count):
    return metrics.zeros() | {
        "loss_sum": jnp.float32(count),
        "correct": jnp.int32(correct),
        "count": jnp.int32(count),
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"), (3600, "1h00m"), (7384, "2h03m")],
)
def test_durations_are_in_hours_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_shows_accuracy_and_speed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar("epoch 1/2", 10) as bar:
        bar.advance(4, sums(1, 4))
        bar.advance(8, sums(6, 12))
    text = sys.stderr.getvalue()
    assert "epoch 1/2" in text
    assert "img/s" in text
    assert "accuracy 0.500" in text


def test_nothing_is_written_to_a_log_file(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBar("epoch 1/2", 10) as bar:
        bar.advance(10, sums(1, 10))
    assert sys.stderr.getvalue() == ""


def test_a_bar_is_gone_when_its_line_comes(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar("epoch 1/2", 10) as bar:
        bar.advance(10, sums(5, 10))
    assert sys.stderr.getvalue().split("\r")[-2].isspace()


def test_a_notebook_has_the_bar_that_a_terminal_has(monkeypatch):
    fake_ipython.kernel(monkeypatch)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with ProgressBar("epoch 1/2", 10) as bar:
        bar.advance(4, sums(1, 4))
        bar.advance(6, sums(5, 10))
    assert "accuracy 0.500" in sys.stdout.getvalue()
    assert sys.stderr.getvalue() == ""
