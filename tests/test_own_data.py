"""A run on the user's own images: splits, scores, figures and errors."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.inference.load import network_of_weights
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.models.pretrained import export_weights
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import prepare_directory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.training.evaluation import evaluate
from jaxcifar.training.plan import check_splits, plan_run
from jaxcifar.visualize.pictures import draw_activations, draw_confusion, draw_mistakes
from jaxcifar.visualize.saving import save_picture
from tests.conftest import random_variables, save_random_weights


@pytest.fixture
def pictures(tmp_path):
    """Sixteen training and ten test images, of two colours and many sizes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 10)):
        for i in range(count):
            name, channel = (("red", 0), ("blue", 2))[i % 2]
            pixels = rng.integers(0, 100, (32 + i, 45 - i, 3), np.uint8)
            pixels[..., channel] += 100
            path = tmp_path / "pictures" / part / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def run(tiny, pictures, tmp_path):
    """A run on these images, with a checkpoint of random weights."""
    recipe = Recipe(
        dataset=f"folder:{pictures}",
        resize=32,
        normalization="half",
        architecture=tiny,
        width=4,
        batch_size=5,
        eval_batch_size=64,
    )
    run_dir = RunDirectory(tmp_path / "run")
    prepare_directory(
        run_dir, recipe, load_splits(recipe), "own", None, resume=False, overwrite=False
    )
    save_random_weights(recipe, run_dir)
    return run_dir.path


def test_training_accepts_the_splits_of_the_recipe(run):
    recipe = read_recipe(RunDirectory(run))
    check_splits(recipe, load_splits(recipe))
    check_splits(recipe, load_splits(recipe, lazy=True))


@pytest.mark.parametrize("lazy", [False, True])
def test_pictures_loaded_at_another_side_are_refused(run, lazy):
    recipe = read_recipe(RunDirectory(run))
    small = load_splits(dataclasses.replace(recipe, resize=16), lazy=lazy)
    message = "loaded at 16 pixels, and the recipe takes them at 32"
    with pytest.raises(RecipeError, match=message):
        check_splits(recipe, small)
    with pytest.raises(RecipeError, match=message):
        evaluate_run(run, splits=small)
    assert evaluate_run(run, splits=load_splits(recipe, lazy=lazy)) == evaluate_run(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_seed": 1}, "split_seed: 1, not 0"),
        (
            {"train_size": 8, "validation_size": 8},
            "size: 8, not 13, .*_size: 8, not 3",
        ),
        ({"stratified": True}, "stratified: True, not False"),
    ],
)
def test_images_that_may_have_been_trained_on_are_not_scored_as_validation(run, change, message):
    recipe = read_recipe(RunDirectory(run))
    other = load_splits(dataclasses.replace(recipe, **change))
    with pytest.raises(RunError, match=f"split in another way than those of .*{message}"):
        evaluate_run(run, split="validation", splits=other)
    own = load_splits(recipe)
    assert evaluate_run(run, splits=other) == evaluate_run(run, splits=own)  # of the test images


def test_a_folder_that_changes_meanwhile_leaves_the_run_as_it_began(run, pictures):
    recipe = dataclasses.replace(read_recipe(RunDirectory(run)), info=None)  # as for a new run
    splits = load_splits(recipe)
    plan = plan_run(recipe, splits)
    steps = plan.recipe.steps_per_epoch
    for i in range(12):
        shutil.copy(
            pictures / "train" / "red" / "0.png", pictures / "train" / "red" / f"new{i}.png"
        )
    assert recipe.steps_per_epoch > steps == plan.recipe.steps_per_epoch
    shutil.rmtree(pictures)
    assert plan.recipe.steps_per_epoch == steps
    assert plan.recipe == recipe


@pytest.mark.slow
def test_lazy_and_eager_splits_have_the_same_scores(run):
    recipe = read_recipe(RunDirectory(run))
    variables = random_variables(recipe.make_model())
    scores = [
        evaluate(
            recipe.make_model(),
            variables,
            load_splits(recipe, lazy=lazy).test,
            normalize=recipe.make_preprocess(),
        )
        for lazy in (False, True)
    ]
    assert scores[0] == scores[1]
    scored = evaluate_run(run)
    assert scored == {"split": "test"} | scores[0]
    assert evaluate_run(run, split="validation")["examples"] == 3


def test_test_images_are_chosen_by_class_or_index(run, tmp_path):
    assert save_picture(
        draw_activations, run, image="red", out=tmp_path / "a.png", layers=["conv1"]
    ).is_file()
    assert save_picture(
        draw_activations, run, image=9, out=tmp_path / "b.png", layers=["conv1"]
    ).is_file()
    with pytest.raises(RecipeError, match="'bleu' is not a class, .*; did you mean 'blue'"):
        save_picture(draw_activations, run, image="bleu", layers=["conv1"])


def test_mistakes_and_confusion_are_drawn(run):
    counts = json.loads(save_picture(draw_confusion, run).with_suffix(".json").read_text())
    assert counts["class_names"] == ["blue", "red"]
    assert np.sum(counts["confusion"], axis=1).tolist() == [5, 5]
    assert save_picture(draw_mistakes, run, count=2).is_file()


def test_weights_without_a_size_are_refused_for_images_of_several_sizes(run, pictures, tmp_path):
    recipe = read_recipe(RunDirectory(run))
    export_weights(random_variables(recipe.make_model()), tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match="does not say the size of the images"):
        network_of_weights(
            tmp_path / "w.safetensors",
            architecture="tiny",
            normalization="half",
            dataset=f"folder:{pictures}",
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "folder:none", "--resize", "8"], "error: there is no folder"),
        (
            ["--dataset", "folder:pictures"],
            "error: the images of folder:pictures have several sizes",
        ),
        (["--dataset", "tfds:made", "--data-dir", "."], "error: tfds:made is not prepared under"),
        (["--dataset", "cifar"], "(name your own data folder:PATH, tfds:NAME, "),
    ],
)
def test_an_unusable_dataset_is_one_clear_line(run_here, pictures, arguments, message):
    status, _, stderr = run_here("train.py", "demo", *arguments)
    assert status == 2
    assert message in stderr
    assert stderr.count("\n") == 1
