import dataclasses
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxcifar.common.errors import DataError, RecipeError, RunError, WeightsError
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.models.weights import read_weights
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.description import ScoringSettings, class_names_of
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_same_data, prepare_directory
from jaxcifar.runs.restore import read_recipe, restore_run
from jaxcifar.runs.transfer import export_run, starting_weights
from tests.conftest import CLASSES


def config_of(run):
    return json.loads((run / "config.json").read_text())


def change_config(run, **changes):
    (run / "config.json").write_text(json.dumps(config_of(run) | changes))


def test_the_config_describes_data_and_preprocessing(photo_run):
    assert config_of(photo_run)["data"] == {
        "class_names": list(CLASSES),
        "num_classes": 3,
        "train": 12,
        "validation": 3,
        "test": 9,
        "pool": 15,
        "own_validation": None,
        "side": None,
        "image_size": 16,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "resize": 16,
        "interpolation": "bilinear",
        "data_dir": None,
    }


def test_exported_weights_are_described_without_the_place_of_the_data(photo_run, tmp_path):
    export_run(photo_run, tmp_path / "w.safetensors")
    metadata = read_weights(tmp_path / "w.safetensors").metadata
    assert json.loads(metadata.pop("class_names")) == list(CLASSES)
    assert metadata == {
        "arch": "tiny",
        "stem": "imagenet",
        "head": "linear",
        "classes": "3",
        "train_images": "12",
        "validation_images": "3",
        "test_images": "9",
        "interpolation": "bilinear",
        "normalization": "half",
        "resize": "16",
        "data_fingerprint": config_of(photo_run)["data_fingerprint"],
        "mean": "0.5 0.5 0.5",
        "std": "0.5 0.5 0.5",
        "size": "16",
    }
    assert str(tmp_path) not in str(metadata)


def test_a_run_is_restored_and_exported_without_its_data_from_anywhere(
    photo_run, photos, tmp_path, monkeypatch
):
    before = restore_run(photo_run)[0]
    shutil.rmtree(photos)
    monkeypatch.chdir("/")
    recipe, model, _ = restore_run(photo_run)
    assert recipe == before
    assert recipe.split_sizes == (12, 3)
    assert recipe.dataset_info.class_names == CLASSES
    assert model.num_classes == 3
    # A recipe made from it still knows its data; one that names other data looks them up.
    assert dataclasses.replace(recipe, seed=3).split_sizes == (12, 3)
    with pytest.raises(DataError, match="there is no folder"):
        dataclasses.replace(recipe, dataset=f"folder:{tmp_path / 'none'}")
    export_run(photo_run, tmp_path / "w.safetensors")
    starting_weights(dataclasses.replace(recipe, weights=str(photo_run)))


def test_a_relative_path_is_stored_absolute(photo_run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = dataclasses.replace(
        read_recipe(RunDirectory(photo_run)),
        dataset=f"folder:{photos.name}",
        weights=photo_run.name,
    )
    run_dir = RunDirectory(tmp_path / "second")
    splits = load_splits(recipe)
    prepare_directory(run_dir, recipe, splits, "x", None, resume=False, overwrite=False)
    stored = config_of(run_dir.path)["recipe"]
    assert stored["dataset"] == f"folder:{photos}"
    assert stored["weights"] == str(photo_run)
    # The same run, however its paths are spelled.
    assert recipe.differences(read_recipe(run_dir)) == []
    prepare_directory(run_dir, recipe, splits, "x", None, resume=True, overwrite=False)


def test_only_data_that_are_not_there_may_have_been_moved(photo_run, photos):
    shutil.rmtree(photos / "test")
    with pytest.raises(DataError, match="has no split") as error:
        evaluate_run(photo_run)
    assert "--dataset" not in str(error.value)
    shutil.rmtree(photos)
    with pytest.raises(DataError, match=r"there is no folder [^\0]*were moved[^\0]*--dataset"):
        evaluate_run(photo_run)


def test_moved_data_are_accepted_by_their_contents(photo_run, photos, tmp_path):
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"there is no folder [^\0]*--dataset") as error:
        evaluate_run(photo_run)
    assert str(photos) in str(error.value)
    moved = f"folder:{tmp_path / 'elsewhere'}"
    for split, count in (("test", 9), ("validation", 3), ("train", 12)):
        scores = evaluate_run(photo_run, dataset=moved, split=split)
        assert (scores["examples"], scores["dataset"]) == (count, moved)
    run_dir = RunDirectory(photo_run)
    recipe = dataclasses.replace(read_recipe(run_dir), dataset=moved)
    prepare_directory(
        run_dir, recipe, load_splits(recipe), "scratch", None, resume=True, overwrite=False
    )
    assert config_of(photo_run)["recipe"]["dataset"] == moved


def exchange(photos):
    one, two = (photos / "train" / name / f"Bild {i}.png" for i, name in enumerate(CLASSES[:2]))
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


def repaint(photos):
    path = photos / "train" / CLASSES[0] / "Bild 0.png"
    image = Image.open(path)
    Image.new("RGB", image.size, "white").save(path)


def add(photos):
    shutil.copy(photos / "test" / CLASSES[0] / "Bild 0.png", photos / "train" / CLASSES[0])
    (photos / "train" / CLASSES[0] / "Bild 0.png").rename(photos / "train" / CLASSES[0] / "z.png")


@pytest.mark.parametrize("change", [exchange, repaint, add])
def test_other_contents_are_refused_for_training_and_welcome_for_testing(photo_run, photos, change):
    change(photos)
    recipe = read_recipe(RunDirectory(photo_run))
    splits = load_splits(recipe)
    with pytest.raises(RunError, match="trained on other data .*fingerprint"):
        check_same_data(RunDirectory(photo_run), config_of(photo_run), splits)
    with pytest.raises(RunError, match="use --split test"):
        evaluate_run(photo_run, split="train")
    assert evaluate_run(photo_run)["examples"] == 9


def rename(photos, old, new):
    for part in ("train", "test"):
        (photos / part / old).rename(photos / part / new)


@pytest.mark.parametrize(
    ("old", "new"),
    [(CLASSES[0], "Zwergpudel"), (CLASSES[1], "Amsel"), (CLASSES[2], CLASSES[2] + " ")],
)
def test_other_classes_are_refused_with_both_lists(photo_run, photos, old, new):
    rename(photos, old, new)
    for call in (
        lambda: evaluate_run(photo_run),
        lambda: evaluate_run(photo_run, per_class=True),
        lambda: evaluate_run(photo_run, split="validation"),
    ):
        with pytest.raises((DataError, RunError)) as error:
            call()
        assert ", ".join(CLASSES) in str(error.value)
        assert new in str(error.value)


def test_a_head_is_kept_only_for_the_same_classes(photo_run, photos, tmp_path):
    export_run(photo_run, tmp_path / "w.safetensors")
    recipe = read_recipe(RunDirectory(photo_run))
    rename(photos, CLASSES[0], "Amsel")
    for weights in (photo_run, tmp_path / "w.safetensors"):
        other = dataclasses.replace(recipe, weights=str(weights), info=None)
        with pytest.raises(RecipeError, match="has other classes .* use --new-head") as error:
            starting_weights(other)
        assert ", ".join(CLASSES) in str(error.value)
        assert "Amsel" in str(error.value)
        starting_weights(dataclasses.replace(other, new_head=True))


def test_a_run_written_before_is_compared_by_names_and_sizes(photo_run, photos):
    config = config_of(photo_run)
    splits = load_splits(read_recipe(RunDirectory(photo_run)))
    del config["data"]
    config["data_fingerprint"] = splits.names_and_sizes
    (photo_run / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="its class names are not known"):
        assert evaluate_run(photo_run)["examples"] == 9
    with (
        pytest.warns(UserWarning, match="its class names are not known"),
        pytest.warns(UserWarning, match="before contents were recorded"),
    ):
        assert evaluate_run(photo_run, split="validation")["examples"] == 3
    run_dir = RunDirectory(photo_run)
    with pytest.warns(UserWarning, match="before contents were recorded"):
        prepare_directory(
            run_dir, read_recipe(run_dir), splits, "scratch", None, resume=True, overwrite=False
        )
    assert config_of(photo_run)["data"]["class_names"] == list(CLASSES)  # it is described now
    shutil.rmtree(photos)
    assert restore_run(photo_run)[0].dataset_info.class_names == CLASSES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, "3 class names for 4"),
        ({"class_names": []}, "0 class names for 3"),
        ({"class_names": ["a", 2, "c"]}, "class_names"),
        ({"train": "many"}, "train"),
        ({"mean": None}, "mean"),
    ],
)
def test_a_description_that_was_changed_is_refused(photo_run, change, message):
    change_config(photo_run, data=config_of(photo_run)["data"] | change)
    with pytest.raises(RunError, match=f"is damaged: data.*{message}"):
        read_recipe(RunDirectory(photo_run))


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_class_names_survive_the_metadata(names):
    metadata = {"class_names": json.dumps(names, ensure_ascii=False)}
    assert class_names_of(metadata, "w") == tuple(names)


@pytest.mark.parametrize("text", ["", "cat, dog", "{}", "[]", "[1]", "[" * 10_000])
def test_class_names_that_cannot_be_read_are_refused(text):
    with pytest.raises(WeightsError, match="metadata of w .* class_names"):
        class_names_of({"class_names": text}, "w")


@given(st.booleans(), st.integers(0, 31), st.sampled_from(["default", "highest"]))
def test_the_scoring_survives_the_metadata(mirror, shift, precision):
    scoring = ScoringSettings(mirror, shift, precision)
    assert ScoringSettings.from_metadata(scoring.to_metadata(), "w", side=32) == scoring


def test_the_usual_scoring_is_not_written():
    assert ScoringSettings().to_metadata() == {}
    assert ScoringSettings.from_metadata({}, "w", side=1) == ScoringSettings()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"test_mirror": "True"}, "test_mirror must be true or false"),
        ({"test_shift_pixels": "-1"}, "test_shift_pixels must be a number of pixels under 16"),
        ({"test_shift_pixels": "16"}, "test_shift_pixels must be a number of pixels under 16"),
        ({"test_shift_pixels": "9" * 10_000}, "test_shift_pixels must be a number"),
        ({"test_precision": "high"}, "test_precision must be one of default, highest"),
    ],
)
def test_a_scoring_that_cannot_be_read_is_refused(change, problem):
    with pytest.raises(WeightsError, match=f"the metadata of w cannot be read: {problem}"):
        ScoringSettings.from_metadata(change, "w", side=16)


def make_old(photo_run):
    """As earlier versions wrote it."""
    config = config_of(photo_run)
    splits = load_splits(read_recipe(RunDirectory(photo_run)))
    del config["data"]
    config["data_fingerprint"] = splits.names_and_sizes
    (photo_run / "config.json").write_text(json.dumps(config))


@pytest.mark.filterwarnings("ignore:.*was written before")
def test_a_run_written_before_works_on_moved_data_that_are_named(photo_run, photos, tmp_path):
    make_old(photo_run)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"there is no folder [^\0]*--dataset"):
        evaluate_run(photo_run)
    moved = f"folder:{tmp_path / 'elsewhere'}"
    assert evaluate_run(photo_run, dataset=moved)["examples"] == 9
    assert evaluate_run(photo_run, dataset=moved, split="train")["examples"] == 12
    run_dir = RunDirectory(photo_run)
    recipe = read_recipe(run_dir, dataset=moved)
    prepare_directory(
        run_dir, recipe, load_splits(recipe), "scratch", None, resume=True, overwrite=False
    )
    assert config_of(photo_run)["data"]["class_names"] == list(CLASSES)


@pytest.mark.filterwarnings("ignore:.*was written before")
def test_a_run_written_before_has_the_classes_of_its_own_data(photo_run, photos, tmp_path):
    """Not those of other data that it is scored on."""
    make_old(photo_run)
    shutil.copytree(photos, tmp_path / "others")
    rename(tmp_path / "others", CLASSES[0], "Zwergpudel")
    with pytest.raises(DataError, match="does not have the classes"):
        evaluate_run(photo_run, dataset=f"folder:{tmp_path / 'others'}")


def test_other_test_images_in_the_same_place_are_said(photo_run, photos):
    next((photos / "test").rglob("*.png")).unlink()
    with pytest.warns(UserWarning, match="8 test images now; 9 were there"):
        assert evaluate_run(photo_run)["examples"] == 8
