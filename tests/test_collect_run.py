"""A finished run as one file of `benchmarks/results`."""

import dataclasses

from benchmarks.collect_run import collect
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.training.fit import fit


def test_a_run_is_collected_with_the_scores_that_are_asked_for(recipe, digits, tmp_path):
    one = dataclasses.replace(recipe, epochs=1)
    _, history = fit(one, digits, workdir=tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    short = collect(run, train=False)
    assert short["history"] == history.rows
    assert short["trained_on"] == run.read_config()["machine"]
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
