import json
from dataclasses import replace

import pytest

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
