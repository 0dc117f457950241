import json
from dataclasses import replace
from functools import partial

import pytest

from jaxcifar.common.errors import RunError
from jaxcifar.devices.machine import describe_machine
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs import opening
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import prepare_directory
from jaxcifar.runs.restore import read_recipe


@pytest.mark.parametrize("recorded", [True, False])  # earlier versions did not
def test_a_run_keeps_the_machine_that_began_it(photo_run, monkeypatch, recorded):
    run_dir, here = RunDirectory(photo_run), describe_machine()
    there = here | {"device": "another"}
    if not recorded:
        config = run_dir.read_config()
        del config["machine"]
        (photo_run / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(opening, "describe_machine", lambda: there)
    recipe = replace(read_recipe(run_dir), eval_batch_size=99)
    prepare_directory(
        run_dir, recipe, load_splits(recipe), "scratch", None, resume=True, overwrite=False
    )
    assert read_recipe(run_dir).eval_batch_size == 99
    assert run_dir.read_config().get("machine") == (here if recorded else None)
    run_dir.note_resumed(3, there)
    assert run_dir.read_config()["resumed"] == [{"step": 3, "machine": there}]


def test_a_full_disk_is_named_with_a_way_out_when_a_run_continues(photo_run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run_dir = RunDirectory(photo_run)
    recipe = replace(read_recipe(run_dir), eval_batch_size=99)
    splits = load_splits(recipe)
    monkeypatch.setattr(RunDirectory, "write_config", full)
    with pytest.raises(RunError, match=r"config\.json cannot be written \(No space .*--resume"):
        prepare_directory(run_dir, recipe, splits, "scratch", None, resume=True, overwrite=False)


def test_a_run_goes_on_when_the_file_of_its_weights_is_gone(photo_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, run_dir = tmp_path / "w.pth", RunDirectory(tmp_path / "second")
    file.touch()
    recipe = replace(read_recipe(RunDirectory(photo_run)), weights="w.pth")
    prepare = partial(prepare_directory, run_dir, splits=load_splits(recipe), overwrite=False)
    prepare(recipe, name="x", weights=None, resume=False)
    file.unlink()
    prepare(recipe, name="x", weights=None, resume=True)
    assert read_recipe(run_dir).weights == str(file)
    monkeypatch.chdir(photo_run)
    with pytest.raises(RunError, match=r"\(weights: w\.pth, not /.*/w\.pth\)"):
        prepare(recipe, name="x", weights=None, resume=True)
