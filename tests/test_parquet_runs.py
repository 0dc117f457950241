"""Runs on Parquet files by the command line: train, move the data, resume, evaluate."""

import json

import numpy as np
import pytest

from jaxcifar.runs.directory import RunDirectory
from jaxcifar.training.evaluation import evaluate
from tests.data import made_parquet as made
from tests.data.test_hub_datasets import COMMITS, REPO, hub  # noqa: F401

SETTINGS = "--architecture tiny --width 4 --batch-size 4 --eval-batch-size 10 --resize 8"
SETTINGS = [*SETTINGS.split(), "--normalization", "half", "--epochs", "1", "--workdir", "run"]


@pytest.fixture
def folder(tmp_path):
    return made.write_dataset(tmp_path / "pets", row_group_size=4)


def train(run_here, dataset, *more):
    return run_here("train.py", "scratch", "--dataset", dataset, *SETTINGS, *more)


@pytest.mark.slow
@pytest.mark.parametrize("placing", ["resident", "stream"])
def test_a_run_is_trained_resumed_after_its_data_moved_and_evaluated(
    tiny, folder, tmp_path, run_here, placing
):
    options = ["--input", "stream"] * (placing == "stream")
    status, _, stderr = train(run_here, "parquet:pets", *options)
    assert status == 0, stderr
    config = RunDirectory(tmp_path / "run").read_config()
    assert config["recipe"]["dataset"] == f"parquet:{folder}"
    assert config["data"]["class_names"] == list(made.NAMES)
    assert "revision" not in config["data"]

    folder.rename(tmp_path / "moved")
    status, _, stderr = train(run_here, "parquet:moved", *options, "--epochs", "2", "--resume")
    assert status == 0, stderr
    assert len(RunDirectory(tmp_path / "run").read_history().rows) == 2

    made.write_hub(tmp_path / "other.parquet", made.pictures(6, seed=9), [0, 1, 2] * 2)
    status, stdout, stderr = run_here("evaluate.py", "run", "--dataset", "parquet:other.parquet")
    assert status == 0, stderr
    assert "6" in stdout


def test_other_contents_are_refused_when_a_run_is_resumed(tiny, folder, tmp_path, run_here):
    assert train(run_here, "parquet:pets")[0] == 0
    images = made.pictures(5, seed=7)
    made.write_hub(folder / "data/test-00000-of-00001.parquet", images, [0, 1, 2, 0, 1])
    status, _, stderr = train(run_here, "parquet:pets", "--epochs", "2", "--resume")
    assert status == 2
    assert "was trained on other data" in stderr


@pytest.mark.slow
def test_a_run_on_data_of_the_hub_records_the_commit_and_resumes_from_a_copy(
    tiny,
    hub,  # noqa: F811
    tmp_path,
    run_here,
):
    status, _, stderr = train(run_here, f"hf:{REPO}")
    assert status == 0, stderr
    config = RunDirectory(tmp_path / "run").read_config()
    assert config["recipe"]["dataset"] == f"hf:{REPO}"
    assert config["data"]["revision"] == COMMITS["main"]
    status, _, stderr = train(run_here, "parquet:pets", "--epochs", "2", "--resume")
    assert status == 0, stderr

    status, stdout, _ = run_here("evaluate.py", "run", "--dataset", f"hf:{REPO}")
    assert status == 0
    assert "5" in stdout


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("parquet:nothing", "error: there is no folder or Parquet file"),
        ("parquet:pets#label=kind", "has no column 'kind'"),
        ("hf:mnist", "error: name a dataset of the Hugging Face hub hf:OWNER/NAME"),
    ],
)
def test_data_that_cannot_be_used_are_one_line_and_nothing_is_written(
    folder, tmp_path, run_here, dataset, message
):
    status, _, stderr = run_here("train.py", "scratch", "--dataset", dataset, "--workdir", "run")
    assert status == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_lazy_and_eager_splits_have_the_same_scores(tiny, folder):
    from jaxcifar.recipes.recipe import Recipe
    from jaxcifar.recipes.splits import load_splits
    from tests.conftest import random_variables

    recipe = Recipe(
        dataset=f"parquet:{folder}",
        resize=8,
        normalization="half",
        architecture=tiny,
        width=4,
        batch_size=4,
    )
    splits = [load_splits(recipe, lazy=lazy) for lazy in (False, True)]
    assert np.array_equal(splits[0].train.images, splits[1].train.load().images)
    model = recipe.make_model()
    variables = random_variables(model)
    scores = [
        evaluate(model, variables, each.test, normalize=recipe.make_preprocess()) for each in splits
    ]
    assert json.dumps(scores[0]) == json.dumps(scores[1])
