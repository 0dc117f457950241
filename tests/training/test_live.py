"""The curves in a notebook, in a kernel that is not there."""

import io
import sys
import warnings

import pytest
from matplotlib.image import imread

from jaxcifar import Recipe, fit
from jaxcifar.runs.history import History
from jaxcifar.training import live
from jaxcifar.training.live import SECONDS, SHARE, LiveCurves
from tests import fake_ipython

METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def history_of(epochs):
    return History([dict.fromkeys(METRICS, 0.5) | {"epoch": i + 1} for i in range(epochs)])


def test_the_picture_grows_in_one_place_and_stays(monkeypatch):
    shown = fake_ipython.kernel(monkeypatch)
    clock = Clock()
    curves = LiveCurves("a run", clock)
    curves.update(history_of(1))  # at once
    curves.update(history_of(2))  # too soon
    clock.now += SECONDS / SHARE
    curves.update(history_of(3))
    curves.update(history_of(4))
    curves.finish()
    curves.finish()
    (contents,) = shown
    assert list(map(repr, contents)) == [
        "<curves of 1 epoch>",
        "<curves of 3 epochs>",
        "<curves of 4 epochs>",
    ]
    pictures = [imread(io.BytesIO(picture._repr_png_())) for picture in contents]
    assert pictures[0].shape == pictures[-1].shape
    assert (pictures[0] != pictures[-1]).any()
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_a_picture_that_cannot_be_drawn_is_one_warning_at_the_end(monkeypatch):
    fake_ipython.kernel(monkeypatch)
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise RuntimeError("no font")

    monkeypatch.setattr(live, "plot_curves", fail)
    clock = Clock()
    curves = LiveCurves("a run", clock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epochs in (1, 2, 3):
            clock.now += 1000
            curves.update(history_of(epochs))
    assert len(calls) == 1
    with pytest.warns(UserWarning, match="curves in the notebook could not be drawn .*no font"):
        curves.finish()


@pytest.fixture
def small(tiny, digits):
    recipe = Recipe(
        dataset="digits", train_size=120, validation_size=40, normalization="half", width=2,
        architecture=tiny, batch_size=60, eval_batch_size=40, epochs=2,
    )  # fmt: skip
    return recipe, digits


def test_fit_shows_curves_and_a_line_an_epoch_in_a_notebook(small, monkeypatch, capsys):
    shown = fake_ipython.kernel(monkeypatch)
    fit(*small, verbose=True)
    curves = [repr(contents[-1]) for contents in shown]
    assert curves == ["<curves of 2 epochs>"]
    printed = capsys.readouterr()
    lines = [line.rsplit("\r", 1)[-1] for line in printed.out.split("\n")]
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert printed.err == ""


@pytest.mark.parametrize("verbose", [True, False])
def test_elsewhere_and_unasked_nothing_is_shown(small, monkeypatch, capsys, verbose):
    shown = fake_ipython.install(
        monkeypatch, "InteractiveShell", *(["TerminalInteractiveShell"] if verbose else [])
    )
    if not verbose:
        shown = fake_ipython.kernel(monkeypatch)
    fit(*small, verbose=verbose)
    assert not shown
    assert bool(capsys.readouterr().out) == verbose


def test_a_run_that_stops_shows_what_it_did(small, monkeypatch, capsys):
    shown = fake_ipython.kernel(monkeypatch)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(*small, verbose=True, on_epoch=stop)
    assert repr(shown[0][-1]) == "<curves of 2 epochs>"
