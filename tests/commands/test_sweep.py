import json
import os

import pytest

from jaxcifar.commands import sweep as command
from jaxcifar.data import Dataset
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.runs.description import describe_data
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.studies.sweeps.measured_mode import Choice
from tests.studies.sweeps.test_loop import quick_fit


@pytest.fixture
def asked(monkeypatch):
    """The arguments of `sweep`, which trains nothing."""
    calls = []
    monkeypatch.setattr(command, "sweep", lambda *a, **more: calls.append((a, more)))
    return calls


@pytest.mark.parametrize(("field", "in_memory"), [("train_size", False), ("seed", True)])
def test_images_of_each_member_are_not_in_memory_together(run_command, asked, field, in_memory):
    status, _, err = run_command("sweep", "demo", "--field", field, "--values", "300", "400")
    assert status == 0, err
    ((recipe, _, _, splits_of), _) = asked[0]
    assert isinstance(splits_of(recipe).train, Dataset) == in_memory


@pytest.mark.parametrize("given", [False, True])
def test_a_resumed_sweep_finds_the_data_where_they_were(
    run_command, asked, digits, tmp_path, monkeypatch, given
):
    monkeypatch.delenv("TFDS_DATA_DIR")
    recipe, there = get_experiment("demo").recipe, tmp_path / "there"
    there.mkdir()
    files = SweepDirectory(tmp_path / "s")
    files.write(
        {"experiment": "demo", "field": "seed", "values": [0, 1], "failures": {}}
        | {"recipe": recipe.to_dict(), **Choice("sequential", "as asked", None)._asdict()}
    )
    words = ["sweep", "demo", "--field", "seed", "--values", "0", "1", "--workdir", files.path]
    words += ["--resume", *(["--data-dir", tmp_path] if given else [])]
    status, _, err = run_command(*words)
    assert status == 0, err
    data = describe_data(recipe, digits) | {"data_dir": str(there)}
    # The first member may not have begun.
    RunDirectory(files.path / "seed=1").create({"recipe": recipe.to_dict(), "data": data})
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    status, _, err = run_command(*words)
    assert status == 0, err
    found = [splits_of.keywords["data_dir"] for (*_, splits_of), _ in asked]
    assert found == ([tmp_path, tmp_path] if given else [None, str(there)])
    assert os.environ["TFDS_DATA_DIR"] == str(tmp_path if given else there)


def test_a_sweep_over_the_side_of_pictures_needs_no_other_side(
    run_command, photos, tmp_path, monkeypatch
):
    """Their sizes differ, so a recipe for them needs one: the first of the sweep."""
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    words = ("--width", "2", "--epochs", "1", "--batch-size", "4")
    command = ("sweep", "scratch", *words, "--workdir", tmp_path / "s", "--field", "resize")
    status, out, err = run_command(
        *command, "--values", "16", "24", "--dataset", f"folder:{photos}"
    )
    assert status == 0, err
    assert "2 members" in out
    for side in (16, 24):
        config = json.loads((tmp_path / "s" / f"resize={side}" / "config.json").read_text())
        assert config["recipe"]["resize"] == side
    moved = photos.rename(tmp_path / "elsewhere")
    more = (*command, "--values", "16", "24", "--resume")
    assert "were moved" in run_command(*more)[2]
    status, _, err = run_command(*more, "--dataset", f"folder:{moved}")
    assert status == 0, err
