"""A run on pictures of one's own, looked at from all sides."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcifar.common.errors import RecipeError
from jaxcifar.models.pretrained import export_weights
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.step.state import start_state
from jaxcifar.training.evaluation import evaluate, evaluate_run
from jaxcifar.training.plan import check_splits
from jaxcifar.visualize.network import network_of_weights
from jaxcifar.visualize.pictures import draw_activations, draw_confusion, draw_mistakes
from tests.conftest import random_variables


@pytest.fixture
def pictures(tmp_path):
    """Sixteen pictures to train on and ten to test on, of two colours and many sizes."""
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
    """A run on them that nobody trained."""
    recipe = Recipe(
        dataset=f"folder:{pictures}",
        resize=32,
        normalization="half",
        architecture=tiny,
        width=4,
        batch_size=5,
        eval_batch_size=64,
    )
    files = RunDirectory(tmp_path / "run")
    fingerprint = load_splits(recipe).fingerprint
    files.create({"recipe": recipe.to_dict(), "data_fingerprint": fingerprint})
    with Checkpoints(files.checkpoints) as checkpoints:
        state = start_state(random_variables(recipe.make_model()), recipe.make_optimizer(), seed=0)
        checkpoints.save(state, validation_accuracy=0.5)
    return files.path


def test_the_splits_of_a_recipe_are_those_it_is_trained_on(run):
    recipe = read_recipe(RunDirectory(run))
    check_splits(recipe, load_splits(recipe))
    check_splits(recipe, load_splits(recipe, lazy=True))


def test_lazy_and_eager_score_the_same(run):
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


def test_its_test_images_are_named_by_class_and_index(run, tmp_path):
    assert draw_activations(run, image="red", out=tmp_path / "a.png", layers=["conv1"]).is_file()
    assert draw_activations(run, image=9, out=tmp_path / "b.png", layers=["conv1"]).is_file()
    with pytest.raises(RecipeError, match="'bleu' is no class, .*did you mean 'blue'"):
        draw_activations(run, image="bleu", layers=["conv1"])


def test_its_mistakes_and_confusion_are_drawn(run):
    counts = json.loads(draw_confusion(run).with_suffix(".json").read_text())
    assert counts["class_names"] == ["blue", "red"]
    assert np.sum(counts["confusion"], axis=1).tolist() == [5, 5]
    assert draw_mistakes(run, count=2).is_file()


def test_weights_without_a_size_are_not_shown_pictures_of_several(run, pictures, tmp_path):
    recipe = read_recipe(RunDirectory(run))
    export_weights(random_variables(recipe.make_model()), tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match="does not say the size it was trained at"):
        network_of_weights(
            tmp_path / "w.safetensors",
            architecture="tiny",
            normalization="half",
            dataset=f"folder:{pictures}",
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "folder:none", "--resize", "8"], "error: There is no folder"),
        (["--dataset", "folder:pictures"], "error: the images of folder:pictures are of several"),
        (["--dataset", "tfds:made", "--data-dir", "."], "error: tfds:made is not prepared under"),
        (["--dataset", "cifar"], "Your own are named folder:PATH or tfds:NAME."),
    ],
)
def test_a_name_that_cannot_be_used_is_one_clear_line(root, pictures, arguments, message):
    command = [sys.executable, str(root / "scripts" / "train.py"), "demo", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=pictures.parent, env=os.environ
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
