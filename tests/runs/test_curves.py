"""The picture of a run's curves while it lasts."""

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.runs import curves
from jaxcifar.runs.curves import FIRST_SECONDS, SHARE, CurvesFile
from jaxcifar.runs.directory import RunDirectory

ROW = dict.fromkeys(curves.DRAWN, 0.5)


@pytest.fixture
def run_dir(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create({"recipe": {}, "experiment": "demo"})
    for epoch in (1, 2):
        directory.append_row(ROW | {"epoch": epoch, "step": epoch})
    return directory


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Slow(CurvesFile):
    """Counts its drawings, each of which takes some seconds."""

    def __init__(self, run_dir, clock, seconds):
        super().__init__(run_dir, clock)
        self.drawings, self.seconds, self.clock = 0, seconds, clock

    def _draw(self):
        self.drawings += 1
        self.clock.now += self.seconds


@given(
    st.floats(0.01, 5),
    st.lists(st.floats(0.01, 200), min_size=1, max_size=40),
)
def test_drawing_takes_at_most_a_fiftieth_of_the_time(seconds, epochs):
    clock = Clock()
    picture = Slow(RunDirectory(Path("nowhere")), clock, seconds)
    trained = 0.0
    for epoch in epochs:
        clock.now += epoch
        trained += epoch
        picture.update()
        # The first may take longer than expected, and each of the others is paid for beforehand.
        assert max(0, picture.drawings - 1) * seconds <= trained * SHARE + 1e-6


def test_the_curves_are_drawn_when_they_are_due_and_at_the_end(run_dir):
    clock = Clock()
    picture = CurvesFile(run_dir, clock)
    path = run_dir.figures / "curves.png"
    picture.update()
    assert not path.exists()
    clock.now += FIRST_SECONDS / SHARE
    picture.update()
    first = path.read_bytes()
    before = path.stat().st_ino
    picture.finish("")  # it shows all there is
    assert path.stat().st_ino == before
    path.unlink()
    picture.finish("")
    assert path.read_bytes() == first
    run_dir.append_row(ROW | {"epoch": 3, "step": 3})
    picture.finish("")
    assert path.read_bytes() != first


def test_a_run_without_an_epoch_has_no_picture(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create({"recipe": {}})
    CurvesFile(directory).finish("")
    assert not directory.figures.exists()


def test_a_picture_that_cannot_be_drawn_is_one_warning_at_the_end(run_dir, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("latex was not found")

    monkeypatch.setattr(curves, "plot_curves", fail)
    clock = Clock()
    picture = CurvesFile(run_dir, clock)
    for _ in range(3):
        clock.now += 1000
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picture.update()
    with pytest.warns(UserWarning, match="latex was not found.; the run is complete") as seen:
        picture.finish("the run is complete")
    assert len(seen) == 1
    monkeypatch.undo()
    picture.finish_if_absent("")
    assert (run_dir.figures / "curves.png").is_file()


def test_the_loss_has_a_unit_unless_it_is_the_users_own(run_dir):
    config = run_dir.read_config()
    for parts, label in ((None, "loss (nats)"), ({"loss": "focal"}, "loss")):
        run_dir.write_config(config | {"parts": parts})
        assert curves.draw_curves(run_dir.path).axes[0].get_ylabel() == label
