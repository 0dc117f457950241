import dataclasses
from types import SimpleNamespace

import pytest

from jaxcifar.common.errors import RecipeError
from jaxcifar.studies.sweeps import measured_mode, sweep
from jaxcifar.studies.sweeps.measured_mode import (
    Program,
    choose,
    images_too_large,
    time_programs,
)
from jaxcifar.studies.sweeps.members import make_members


class Clock:
    """Programs with these seconds per step, and a clock that only they advance."""

    def __init__(self, monkeypatch, **seconds):
        self.now, self.steps = 0.0, dict.fromkeys(seconds, 0)
        monkeypatch.setattr(measured_mode, "time", SimpleNamespace(perf_counter=lambda: self.now))
        self.programs = {
            name: Program(self.advance(name, taken), 1.0, 1000) for name, taken in seconds.items()
        }

    def advance(self, name, taken):
        def advance(count):
            self.now += count * taken
            self.steps[name] += count

        return advance


def test_the_faster_mode_is_chosen_and_explained(recipe, digits, monkeypatch):
    members = make_members(recipe, "dropout_rate", [0.1, 0.2])
    for vmap, mode, ratio in ((0.03, "vmap", "0.50"), (0.09, "sequential", "1.50")):
        clock = Clock(monkeypatch, vmap=vmap, sequential=0.06)
        monkeypatch.setattr(measured_mode, "make_programs", lambda *_, p=clock.programs: p)
        chosen = choose("dropout_rate", members, digits)
        assert chosen.mode == mode
        assert f"{1e3 * vmap:.0f} ms as one program and 60 ms one after another" in chosen.why
        assert f"ratio {ratio}" in chosen.why
        assert chosen.measured["ratio"] == pytest.approx(float(ratio))


@pytest.mark.parametrize("taken", [1e-4, 0.05, 3.0])
def test_measuring_takes_a_small_share_of_the_sweep(monkeypatch, taken):
    clock = Clock(monkeypatch, vmap=taken, sequential=2 * taken)
    seconds = time_programs(clock.programs, steps=6000)
    assert seconds == pytest.approx({"vmap": taken, "sequential": 2 * taken})
    # Two steps of each show how long they take; then at least three are measured.
    few = (2 + 3) * 3 * taken
    assert clock.now <= few + min(0.05 * 6000 * 2 * taken, 20)


def test_a_tiny_sweep_is_measured_with_only_a_few_steps(monkeypatch):
    clock = Clock(monkeypatch, vmap=1e-4, sequential=1e-4)
    time_programs(clock.programs, steps=9)
    assert clock.steps == {"vmap": 5, "sequential": 5}


def test_members_that_do_not_fit_in_memory_run_one_after_another(
    recipe, digits, monkeypatch, tmp_path
):
    members = make_members(recipe, "dropout_rate", [0.1, 0.2])
    clock = Clock(monkeypatch, vmap=1.0, sequential=2.0)
    monkeypatch.setattr(measured_mode, "make_programs", lambda *_: clock.programs)
    monkeypatch.setattr(measured_mode, "free_memory", lambda: 1_001)
    chosen = choose("dropout_rate", members, digits)
    assert chosen.mode == "sequential"
    assert "the states of 2 members take" in chosen.why
    with pytest.raises(RecipeError, match="mode vmap: the states of 2 members take"):
        sweep(recipe, "dropout_rate", [0.1, 0.2], digits, workdir=tmp_path / "s", mode="vmap")
    assert not (tmp_path / "s").exists()
    # Now the states fit, but the program does not.
    monkeypatch.setattr(measured_mode, "too_large", lambda _: None)
    assert "one program of 2 members needs" in choose("dropout_rate", members, digits).why
    assert clock.now == 0, "a program was run"


def test_images_that_would_be_streamed_are_not_put_on_the_device(
    recipe, digits, monkeypatch, tmp_path
):
    monkeypatch.setattr("jaxcifar.training.evaluation.free_memory", lambda: 1_001)
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", lambda *_, **__: None)
    rates = ("dropout_rate", [0.1, 0.2], digits)
    with pytest.raises(RecipeError, match="mode vmap: the images take .*; use mode sequential, or"):
        sweep(recipe, *rates, workdir=tmp_path / "s", mode="vmap")
    assert not (tmp_path / "s").exists()
    result = sweep(recipe, *rates, workdir=tmp_path / "s")
    assert result.mode == "sequential"
    assert result.why.startswith("the images take")
    # Of a frozen network the features are kept on the device by `fit`, too.
    frozen = {"freeze": "freeze_b", "bn": "frozen", "cache_features": True}
    plain = {"flip_rate": 0.0, "translate_pixels": 0}
    assert images_too_large(dataclasses.replace(recipe, **frozen, **plain), digits) is None
