import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxcifar.common.errors import DataError, RunError
from jaxcifar.data import Splits
from jaxcifar.models.pretrained import export_weights
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import prepare_directory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.runs.transfer import preprocessing_of, starting_weights
from jaxcifar.studies.sweeps import read_sweep, sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory, check_origin
from tests.conftest import CLASSES, random_variables


@pytest.fixture
def trained(monkeypatch):
    """Names of members that `sweep` trains: their directories are as `fit` leaves them."""
    names = []

    def quick_fit(recipe, splits, *, workdir, experiment, **_):
        names.append(workdir.name)
        run = RunDirectory(workdir)
        weights = None if recipe.weights is None else starting_weights(recipe)
        prepare_directory(run, recipe, splits, experiment, weights, resume=False, overwrite=False)
        scored = {"validation_accuracy": 0.5, "test": {"accuracy": 0.5}}
        run.write_summary(
            {"train_accuracy": 0.5, "train_seconds": 1.0} | {"best": scored, "last": scored}
        )

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    return names


def made_arrays(seed, name="mine"):
    rng = np.random.default_rng(seed)
    train, test = (
        (rng.integers(0, 256, (n, 8, 8, 3), np.uint8), np.arange(n) % 3) for n in (160, 12)
    )
    return Splits.from_arrays(train, test=test, class_names=CLASSES, name=name)


def test_a_sweep_over_arrays_goes_on_with_the_same_ones_only(recipe, tmp_path, trained):
    unset = {name: getattr(Recipe(), name) for name in ("dataset", "train_size", "validation_size")}
    recipe = dataclasses.replace(recipe, **unset)
    settings = {"workdir": tmp_path / "s", "mode": "sequential", "experiment": "x"}
    sweep(recipe, "seed", [0], made_arrays(0), **settings)
    sweep(recipe, "seed", [0, 1], made_arrays(0), resume=True, **settings)
    assert trained == ["seed=0", "seed=1"]
    for others, message in (
        (made_arrays(1), "seed=0 was trained on other arrays: .*; give the same"),
        (made_arrays(1, "others"), "seed=0 was trained on other arrays"),
    ):
        with pytest.raises(RunError, match=message):
            sweep(recipe, "seed", [0, 1, 2], others, resume=True, **settings)
    assert trained == ["seed=0", "seed=1"]
    assert not (tmp_path / "s" / "seed=2").exists()


def test_members_on_data_that_changed_are_not_compared(recipe, photos, tmp_path, trained):
    recipe = dataclasses.replace(
        recipe, dataset=f"folder:{photos}", resize=8, train_size=12, validation_size=3, batch_size=4
    )
    settings = {"workdir": tmp_path / "s", "mode": "sequential", "experiment": "x"}
    sweep(recipe, "seed", [0], load_splits(recipe), **settings)
    moved = photos.rename(tmp_path / "elsewhere")
    there = dataclasses.replace(recipe, dataset=f"folder:{moved}")
    picture = next((moved / "train" / CLASSES[0]).iterdir())
    picture.write_bytes(next((moved / "train" / CLASSES[1]).iterdir()).read_bytes())
    table = (tmp_path / "s" / "table.md").read_bytes()
    for values in ([0, 1], [0]):  # also where nothing is left to train
        with pytest.raises(RunError, match="seed=0 was trained on other data .*; give the same"):
            sweep(there, "seed", values, load_splits(there), resume=True, **settings)
    moved.rename(photos)
    for values in ([0, 1], [0]):
        with pytest.raises(RunError, match="seed=0 was trained on other data .*; give the same"):
            sweep(recipe, "seed", values, load_splits(recipe), resume=True, **settings)
    assert trained == ["seed=0"]
    assert (tmp_path / "s" / "table.md").read_bytes() == table


def test_a_sweep_goes_on_with_data_that_were_moved(photo_run, photos, tmp_path, trained):
    recipe = read_recipe(RunDirectory(photo_run))
    settings = {"workdir": tmp_path / "s", "mode": "sequential"}
    sweep(recipe, "seed", [0], load_splits(recipe), **settings)
    moved = photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"there is no folder [^\0]*were moved[^\0]*--dataset"):
        read_sweep(tmp_path / "s")
    with pytest.raises(DataError, match="there is no folder"):
        read_sweep(tmp_path / "s", dataset="folder:none")
    there = read_sweep(tmp_path / "s", dataset=f"folder:{moved}")
    sweep(there, "seed", [0, 1], load_splits(there), resume=True, **settings)
    assert trained == ["seed=0", "seed=1"]
    assert read_sweep(tmp_path / "s") == there
    shutil.rmtree(tmp_path / "s" / "seed=0")
    shutil.rmtree(tmp_path / "s" / "seed=1")
    moved.rename(photos)
    with pytest.raises(RunError, match="no run in it has recorded what its data held"):
        sweep(recipe, "seed", [0, 1], load_splits(recipe), resume=True, **settings)


def test_members_from_weights_that_changed_are_not_compared(
    recipe, digits, tmp_path, trained, monkeypatch
):
    def write(seed):
        variables = random_variables(recipe.make_model(), seed)
        export_weights(variables, file, preprocessing=preprocessing_of(recipe), overwrite=True)

    file = tmp_path / "w.safetensors"
    write(0)
    recipe = dataclasses.replace(recipe, weights=str(file), new_head=True)
    settings = {"workdir": tmp_path / "s", "mode": "sequential"}
    sweep(recipe, "seed", [0], digits, **settings)
    write(1)
    with pytest.raises(RunError, match=r"w.safetensors holds other weights .*seed=0 was started"):
        sweep(recipe, "seed", [0, 1], digits, resume=True, **settings)
    file.unlink()  # nobody needs it any more
    sweep(recipe, "seed", [0], digits, resume=True, **settings)
    kept = SweepDirectory(tmp_path / "s").read()["recipe"]["weights"]
    monkeypatch.chdir(tmp_path)
    relative = dataclasses.replace(recipe, weights=file.name)
    sweep(relative, "seed", [0], digits, resume=True, **settings)
    assert SweepDirectory(tmp_path / "s").read()["recipe"]["weights"] == kept == str(file)
    write(0)
    sweep(recipe, "seed", [0, 1], digits, resume=True, **settings)
    assert trained == ["seed=0", "seed=1"]


def test_weights_on_the_hub_lie_in_no_directory(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = dataclasses.replace(recipe, weights="timm/resnet18.tv_in1k")
    check_origin(SweepDirectory(Path()), hub)
    (tmp_path / "timm" / "resnet18.tv_in1k").mkdir(parents=True)
    with pytest.raises(RunError, match="the weights come from timm/resnet18.tv_in1k, inside"):
        check_origin(SweepDirectory(Path()), hub)
