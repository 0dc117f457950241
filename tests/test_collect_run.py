"""A finished run as one file of `benchmarks/results`."""

import dataclasses
import json
import sys

import jax
import pytest

from benchmarks import collect_run
from benchmarks.collect_run import collect, main
from jaxcifar.common.errors import RunError
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.training.fit import fit


def test_a_run_is_collected_with_the_scores_that_are_asked_for(recipe, digits, tmp_path):
    one = dataclasses.replace(recipe, epochs=1)
    _, history = fit(one, digits, workdir=tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    short = collect(run, train=False)
    assert short["history"] == history.rows
    assert short["trained_on"]["versions"]["jax"] == jax.__version__
    assert short["resumed"] == []
    assert not {name for name in short if "views" in name or "train_split" in name}
    full = collect(run, six_views=True)
    assert full["train_split_in_evaluation_mode"]["examples"] == one.train_size
    assert full["test_with_six_views"] == evaluate_run(run.path, which="last", mirror=True, shift=1)
    assert full["test_with_six_views"]["loss"] != short["summary"]["last"]["test"]["loss"]


def test_a_recipe_with_views_is_scored_without_them_too(recipe, digits, tmp_path):
    fit(dataclasses.replace(recipe, epochs=1, test_mirror=True), digits, workdir=tmp_path / "run")
    collected = collect(RunDirectory(tmp_path / "run"), train=False)
    plain = evaluate_run(tmp_path / "run", which="last", mirror=False)
    assert collected["test_without_views"] == plain
    assert plain["loss"] != collected["summary"]["last"]["test"]["loss"]


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["collect_run", *map(str, arguments)])
    main()


def test_the_file_is_named_after_the_run(recipe, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(collect_run, "RESULTS", tmp_path)
    one = dataclasses.replace(recipe, epochs=1)
    fit(one, digits, workdir=tmp_path / "first", experiment="first")
    call(monkeypatch, tmp_path / "first", "--skip-train", "--six-views")
    collected = json.loads((tmp_path / "run_first_cpu.json").read_text())
    assert "test_with_six_views" in collected
    assert "train_split_in_evaluation_mode" not in collected
    call(monkeypatch, tmp_path / "first", "--out", tmp_path / "own.json")
    collected = json.loads((tmp_path / "own.json").read_text())
    assert "test_with_six_views" not in collected
    assert "train_split_in_evaluation_mode" in collected


def test_no_folder_of_this_machine_is_collected(recipe, digits, tmp_path):
    one = dataclasses.replace(recipe, epochs=1)
    fit(one, digits, workdir=tmp_path / "first")
    fit(
        dataclasses.replace(one, weights=str(tmp_path / "first"), new_head=True),
        digits,
        workdir=tmp_path / "second",
    )
    (tmp_path / "first").rename(tmp_path / "gone")
    collected = collect(RunDirectory(tmp_path / "second"), train=False)
    assert collected["recipe"]["weights"] == "first"
    assert str(tmp_path) not in json.dumps(collected)
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    config["recipe"]["dataset"] = f"folder:{tmp_path}/pets"
    (tmp_path / "second" / "config.json").write_text(json.dumps(config))
    collected = collect(RunDirectory(tmp_path / "second"), train=False)
    assert collected["recipe"]["dataset"] == "folder:pets"


def test_a_run_that_is_not_complete_is_refused(recipe, digits, tmp_path):
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match="is not complete; finish it with jaxcifar train --resume"):
        collect(RunDirectory(tmp_path / "run"))
