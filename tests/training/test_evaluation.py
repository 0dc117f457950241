import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxcifar.common.errors import CheckpointError, RecipeError, RunError
from jaxcifar.data import Dataset
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from jaxcifar.step.state import init_state
from jaxcifar.training import evaluation
from jaxcifar.training.evaluation import evaluate, too_large


@pytest.fixture
def run(recipe, tmp_path):
    """A run directory with a checkpoint of random weights, which is enough for evaluation."""
    files = RunDirectory(tmp_path / "run")
    files.create({"recipe": recipe.to_dict(), "data_fingerprint": "?"})
    state = init_state(recipe.make_model(), recipe.make_optimizer(), seed=0, image_size=32)
    with Checkpoints(files.checkpoints) as checkpoints:
        checkpoints.save(state, validation_accuracy=0.5)
    return files


def test_evaluation_equals_scoring_all_images_at_once(recipe, digits):
    model = recipe.make_model()
    state = init_state(model, recipe.make_optimizer(), seed=0, image_size=32)
    normalize = recipe.make_preprocess()
    part = Dataset(digits.test.images[:50], digits.test.labels[:50])
    logits = model.apply(state.variables, normalize(jax.numpy.asarray(part.images)), train=False)
    logits = np.asarray(logits, np.float64)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    losses = log_sum - logits[np.arange(50), part.labels]
    for batch_size in (7, 50, 64):
        result = evaluate(model, state.variables, part, normalize=normalize, batch_size=batch_size)
        assert result["examples"] == 50
        assert result["accuracy"] == np.mean(logits.argmax(axis=1) == part.labels)
        assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_a_run_is_restored_without_its_optimizer(run, recipe, monkeypatch):
    def refuse(self):
        raise AssertionError("evaluation built the optimizer")

    monkeypatch.setattr(type(recipe), "make_optimizer", refuse)
    restored, model, variables = restore_run(run.path)
    assert restored == recipe
    assert model == recipe.make_model()
    assert set(variables) == {"params", "batch_stats"}


def test_a_checkpoint_of_another_model_is_refused(run, recipe):
    wider = dataclasses.replace(recipe, width=8)
    run.write_config(run.read_config() | {"recipe": wider.to_dict()})
    with pytest.raises(CheckpointError, match="does not fit the model"):
        evaluate_run(run.path)


def test_a_damaged_checkpoint_is_one_error(run):
    for path in run.checkpoints.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"checkpoint 0 in .* is damaged: model/d"):
        evaluate_run(run.path)


def test_damaged_and_missing_parts_of_a_run_are_named(run, recipe, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
        evaluate_run(run.path, which=7)
    run.write_config({"recipe": recipe.to_dict() | {"leaning_rate": 1}})
    with pytest.raises(RecipeError, match="did you mean 'learning_rate'"):
        evaluate_run(run.path)
    run.write_config({"something": "else"})
    with pytest.raises(RunError, match="has no recipe"):
        evaluate_run(run.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is empty"):
        evaluate_run(tmp_path / "empty")


@pytest.mark.parametrize(
    ("host", "device", "reason"),
    [
        (10**9, 10**9, None),
        (10**9, 10_000, "the images take .* GiB free"),
        (10_000, 10**9, "the images take .* GiB free on the host"),
        (None, None, None),
    ],
)
def test_images_must_fit_through_the_host_and_on_the_device(monkeypatch, host, device, reason):
    monkeypatch.setattr(evaluation, "on_host", lambda: False)
    monkeypatch.setattr(evaluation, "host_memory", lambda: host)
    monkeypatch.setattr(evaluation, "free_memory", lambda: device)
    images = Dataset(np.zeros((10, 20, 20, 3), np.uint8), np.zeros(10, np.int32))
    found = too_large(images, images)
    assert (found is None) == (reason is None)
    assert reason is None or re.fullmatch(reason, found)
