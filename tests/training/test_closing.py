"""The end of a run: its summary does not depend on its picture."""

import dataclasses
import gc
import json
import os
import signal
import warnings

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxcifar.runs.curves import CurvesFile
from jaxcifar.studies.sweeps import sweep
from jaxcifar.training import closing, evaluation
from jaxcifar.training import run as run_module
from jaxcifar.training.closing import make_closing_scoring
from jaxcifar.training.fit import fit
from jaxcifar.training.interruption import Interrupted


def fail(*_, **__):
    raise RuntimeError("latex was not found")


def test_a_run_whose_curves_cannot_be_drawn_is_complete(recipe, digits, tmp_path, monkeypatch):
    short = dataclasses.replace(recipe, epochs=1)
    run, curves = tmp_path / "run", tmp_path / "run" / "figures" / "curves.png"
    monkeypatch.setattr(Figure, "savefig", fail)
    wanted = r"curves.png could not be drawn .*latex.*--resume"
    with pytest.warns(UserWarning, match=wanted) as seen:
        fit(short, digits, workdir=run)
    assert len(seen) == 1
    summary = (run / "summary.json").read_bytes()
    assert json.loads(summary)["epochs"] == 1
    assert not curves.exists()
    with pytest.warns(UserWarning, match="could not be drawn"):
        fit(short, digits, workdir=run, resume=True)
    monkeypatch.undo()
    fit(short, digits, workdir=run, resume=True)
    assert curves.read_bytes().startswith(b"\x89PNG")
    before = curves.stat().st_ino
    fit(short, digits, workdir=run, resume=True)
    assert curves.stat().st_ino == before
    assert (run / "summary.json").read_bytes() == summary


def test_a_sweep_whose_plot_cannot_be_drawn_has_its_table(recipe, digits, tmp_path, monkeypatch):
    short = dataclasses.replace(recipe, epochs=1)
    settings = {"workdir": tmp_path, "mode": "sequential"}
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.warns(UserWarning, match="could not be drawn") as seen:
        result = sweep(short, "seed", [0], digits, **settings)
    of_run, of_sweep = (str(warning.message) for warning in seen)
    assert "curves.png" in of_run
    assert "sweep.png" in of_sweep
    assert "; the sweep is complete; --resume draws it" in of_sweep
    assert len(result.finished) == 1
    assert "mean of 1" in (tmp_path / "table.md").read_text()
    monkeypatch.undo()
    sweep(short, "seed", [0], digits, resume=True, **settings)
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == ["curves.png", "sweep.png"]


def test_test_images_come_when_the_others_are_gone_and_are_streamed_if_too_many(
    recipe, digits, tmp_path, monkeypatch
):
    def kept():
        gc.collect()
        return sum(array.shape[0:1] == (120,) for array in jax.live_arrays())

    def closing_scoring(plan, source):
        seen.append(kept())
        return make_closing_scoring(plan, source)

    before, seen = kept(), []
    monkeypatch.setattr(evaluation, "free_memory", lambda: 1_500_000)  # the test images take 1.1 MB
    monkeypatch.setattr(closing, "to_device", lambda *_: pytest.fail("they do not fit"))
    monkeypatch.setattr(run_module, "make_closing_scoring", closing_scoring)
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path)
    assert seen == [before]
    assert json.loads((tmp_path / "summary.json").read_text())["last"]["test"]["examples"] == 360


@pytest.mark.slow
def test_curves_are_drawn_during_a_run_and_when_it_stops(recipe, digits, tmp_path, monkeypatch):
    """Without a change of its numbers."""
    drawn = []
    monkeypatch.setattr("jaxcifar.runs.curves.FIRST_SECONDS", 0)
    original = CurvesFile._draw

    def spy(self):
        original(self)
        drawn.append(self._epochs)

    monkeypatch.setattr(CurvesFile, "_draw", spy)
    state, _ = fit(recipe, digits, workdir=tmp_path / "run")
    assert drawn == [1, 3]  # at once, then for a fiftieth of the time, and at the end
    plain, _ = fit(recipe, digits)
    np.testing.assert_array_equal(state.params["fc"]["bias"], plain.params["fc"]["bias"])

    def stop(row):
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Figure, "savefig", fail)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(Interrupted, match="which is saved"):
            fit(recipe, digits, workdir=tmp_path / "stopped", on_epoch=stop)
    assert len([w for w in seen if "continuing with --resume draws it" in str(w.message)]) == 1
    monkeypatch.undo()
    with pytest.raises(Interrupted):
        fit(recipe, digits, workdir=tmp_path / "again", on_epoch=stop)
    assert (tmp_path / "again" / "figures" / "curves.png").is_file()
