"""resume="auto": one call that begins or continues."""

import dataclasses
import json

import pytest

from jaxcifar.common.errors import DataError, RunError
from jaxcifar.devices.layout import Layout
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.training.fit import fit
from tests.conftest import assert_trees_identical


def test_auto_begins_continues_and_ends(recipe, digits, tmp_path, capsys):
    run = tmp_path / "run"

    def die(row):
        raise KeyError

    with pytest.raises(KeyError):
        fit(recipe, digits, workdir=run, resume="auto", on_epoch=die)
    seen = []
    state, _ = fit(recipe, digits, workdir=run, resume="auto", on_epoch=lambda r: seen.append(r))
    assert [row["epoch"] for row in seen] == [2, 3]
    assert_trees_identical(state, fit(recipe, digits)[0])
    before = (run / "summary.json").read_bytes()
    fit(recipe, digits, workdir=run, resume="auto", verbose=True)
    assert "is complete: 3 epochs" in capsys.readouterr().out
    assert (run / "summary.json").read_bytes() == before
    with pytest.raises(RunError, match="another recipe"):
        fit(dataclasses.replace(recipe, seed=1), digits, workdir=run, resume="auto")


def test_auto_begins_in_an_empty_directory_and_over_a_start_that_was_killed(
    recipe, digits, tmp_path
):
    short = dataclasses.replace(recipe, epochs=1)
    (tmp_path / "empty").mkdir()
    fit(short, digits, workdir=tmp_path / "empty", resume="auto")
    killed = RunDirectory(tmp_path / "killed")
    killed.create({"experiment": "digits", "recipe": dataclasses.replace(short, seed=5).to_dict()})
    fit(short, digits, workdir=killed.path, resume="auto")
    assert json.loads(killed.config.read_text())["recipe"]["seed"] == 0
    assert killed.read_summary() is not None


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "metrics.jsonl"])
def test_auto_refuses_a_directory_of_something_else(recipe, digits, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        fit(recipe, digits, workdir=tmp_path, resume="auto")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "{}"


def test_what_auto_cannot_mean_is_refused(recipe, digits, tmp_path):
    for settings, message in (
        ({"resume": "auto", "overwrite": True, "workdir": tmp_path}, "exclude each other"),
        ({"resume": "auto"}, "resume='auto' needs a directory: name one with workdir"),
        ({"resume": True}, "resume=True needs a directory"),
        ({"overwrite": True}, "overwrite=True needs a directory"),
        ({"resume": "Auto", "workdir": tmp_path}, 'must be True, False or "auto", not .Auto'),
    ):
        with pytest.raises(RunError, match=message):
            fit(recipe, digits, **settings)


def test_the_first_process_decides_what_auto_means(recipe, digits, tmp_path, monkeypatch):
    short = dataclasses.replace(recipe, epochs=1)
    fit(short, digits, workdir=tmp_path / "run")
    monkeypatch.setattr(Layout, "agree", lambda self, *own: [(0,), own] if len(own) == 1 else [own])
    with pytest.raises(RunError, match="holds a run: continue it with resume=True"):
        fit(short, digits, workdir=tmp_path / "run", resume="auto")


def test_a_run_goes_on_under_its_own_name(photo_run, photos, tmp_path):
    recipe = dataclasses.replace(read_recipe(RunDirectory(photo_run)), epochs=1)
    run = tmp_path / "run"
    with pytest.raises(KeyError):
        fit(recipe, load_splits(recipe), workdir=run, on_epoch=lambda row: {}["stop"])
    (run / "summary.json").unlink(missing_ok=True)
    moved = photos.rename(tmp_path / "elsewhere")
    there = dataclasses.replace(recipe, dataset=f"folder:{moved}")
    fit(there, load_splits(there), workdir=run, resume=True)
    config = RunDirectory(run).read_config()
    assert config["experiment"] == recipe.dataset
    assert config["recipe"]["dataset"] == there.dataset
    with pytest.raises(RunError, match="not of 'other'"):
        fit(there, load_splits(there), workdir=run, resume=True, experiment="other")


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("limit", [None, 1])
def test_a_test_picture_that_cannot_be_read_is_found_before_the_first_epoch(
    photo_run, photos, tmp_path, lazy, limit
):
    recipe = read_recipe(RunDirectory(photo_run))
    recipe = dataclasses.replace(recipe, epochs=1, limit_batches=limit)
    bad = next((photos / "test").rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match="a picture cannot be read: .*test"):
        fit(recipe, load_splits(recipe, lazy=lazy), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
