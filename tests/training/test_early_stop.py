"""A run that ends before its last epoch: by its patience, or because on_epoch asked for it."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.devices.layout import Layout
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.extending import allowed_changes
from jaxcifar.studies.sweeps import sweep
from jaxcifar.training.fit import fit
from tests.conftest import assert_trees_identical


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


def never(row):
    raise AssertionError("it trained")


@pytest.fixture
def impatient(recipe):
    """Nothing improves by 2: it stops after the second validation."""
    return replace(recipe, epochs=4, patience=1, patience_min_delta=2.0)


def test_a_run_out_of_patience_is_complete(impatient, digits, tmp_path, capsys):
    run = tmp_path / "run"
    state, history = fit(impatient, digits, workdir=run, verbose=True)
    assert history.column("epoch") == [1, 2]
    summary = summary_of(run)
    assert (summary["epochs"], summary["stopped_after_epoch"]) == (4, 2)
    assert summary["stopped_by"] == "patience"
    assert summary["last"]["step"] == int(state.step) == 6
    assert (run / "figures" / "curves.png").is_file()
    why = (
        "stopped after epoch 2 of 4: the validation accuracy had not improved by more than 2 for 1 "
        "validation (--patience)"
    )
    assert why in capsys.readouterr().out
    before = (run / "summary.json").read_bytes()
    again, _ = fit(impatient, digits, workdir=run, resume=True, on_epoch=never, verbose=True)
    assert_trees_identical(again, state)
    assert (run / "summary.json").read_bytes() == before
    assert f"{run} is complete: {why}" in capsys.readouterr().out


def test_more_patience_continues_and_less_is_refused(impatient, digits, tmp_path):
    run, patient = tmp_path / "run", replace(impatient, patience=2)
    fit(impatient, digits, workdir=run)
    state, history = fit(patient, digits, workdir=run, resume=True)
    assert history.column("epoch") == [1, 2, 3]
    assert_trees_identical(state, fit(patient, digits)[0])
    assert summary_of(run)["stopped_after_epoch"] == 3
    with pytest.raises(RunError, match="patience 1 would have stopped .* after epoch 2"):
        fit(impatient, digits, workdir=run, resume=True)
    # More epochs are not more patience.
    longer = replace(patient, epochs=5)
    fit(longer, digits, workdir=run, resume=True, on_epoch=never)
    assert (summary_of(run)["epochs"], summary_of(run)["stopped_after_epoch"]) == (5, 3)


def test_a_stop_is_the_same_after_an_interruption(impatient, digits, tmp_path):
    run, patient = tmp_path / "run", replace(impatient, patience=2)

    def die(row):
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fit(patient, digits, workdir=run, resume="auto", on_epoch=die)
    _, history = fit(patient, digits, workdir=run, resume="auto")
    assert history.column("epoch") == [1, 2, 3]
    (run / "summary.json").unlink()  # killed while it scored the test images
    fit(patient, digits, workdir=run, resume=True, on_epoch=never)
    assert summary_of(run)["stopped_after_epoch"] == 3


def test_a_stop_that_on_epoch_asked_for_is_the_same_after_an_interruption(
    recipe, digits, tmp_path, monkeypatch
):
    run, asked = tmp_path / "run", lambda row: "stop" if row["epoch"] == 2 else None

    def killed(*_):
        raise KeyError

    with monkeypatch.context() as patched:
        patched.setattr("jaxcifar.training.run.make_closing_scoring", killed)
        with pytest.raises(KeyError):
            fit(recipe, digits, workdir=run, on_epoch=asked)
    _, history = fit(recipe, digits, workdir=run, resume=True, on_epoch=never)
    assert history.column("epoch") == [1, 2]
    assert summary_of(run)["stopped_by"] == "on_epoch"
    # It was to go further since; and then its last checkpoint was lost.
    _, history = fit(replace(recipe, epochs=4), digits, workdir=run, resume=True)
    assert history.column("epoch") == [1, 2, 3, 4]


def test_a_stop_after_an_epoch_whose_checkpoint_is_lost_is_asked_for_again(
    recipe, digits, tmp_path
):
    run, seen = tmp_path / "run", []
    fit(recipe, digits, workdir=run, on_epoch=lambda row: "stop" if row["epoch"] == 2 else None)
    (run / "summary.json").unlink()
    shutil.rmtree(max((run / "checkpoints").iterdir(), key=lambda path: int(path.name)))
    fit(recipe, digits, workdir=run, resume=True, on_epoch=lambda row: seen.append(row["epoch"]))
    assert seen == [2, 3]
    assert "asked_to_stop" not in RunDirectory(run).read_config()


def test_only_validations_count(impatient, digits):
    _, history = fit(replace(impatient, epochs=5, validate_every=2), digits)
    assert history.column("epoch") == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_watched_metric_chooses_the_best_checkpoint(recipe, digits, tmp_path):
    settings = {"patience": 9, "patience_metric": "validation_loss", "patience_mode": "max"}
    worst = replace(recipe, learning_rate=0.03, **settings)  # by the largest loss: another choice
    fit(worst, digits, workdir=tmp_path / "run")
    summary = summary_of(tmp_path / "run")
    rows = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().split("\n")[:-1]
    ]
    largest = max(rows, key=lambda row: (row["validation_loss"], row["step"]))
    assert summary["best"]["step"] == largest["step"]
    assert evaluate_run(tmp_path / "run")["loss"] == pytest.approx(summary["best"]["test"]["loss"])


def test_scores_that_are_not_finite_lose(recipe, tmp_path):
    from jaxcifar.step.state import start_state
    from tests.conftest import random_variables

    state = start_state(random_variables(recipe.make_model()), recipe.make_optimizer(), seed=0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, (accuracy, score) in enumerate([(0.9, -math.inf), (0.1, -3.0), (0.5, -math.nan)]):
            checkpoints.save(
                replace(state, step=state.step + step),
                validation_accuracy=accuracy,
                best_score=score,
            )
        checkpoints.wait()
        assert checkpoints.find("best") == 1


def test_on_epoch_stops_a_run(recipe, digits, tmp_path, capsys):
    run, lazy = tmp_path / "run", replace(recipe, validate_every=3)
    state, history = fit(lazy, digits, workdir=run, on_epoch=lambda row: "stop", verbose=True)
    assert history.column("epoch") == [1]
    assert "stopped after epoch 1 of 3: on_epoch asked for it" in capsys.readouterr().out
    summary = summary_of(run)
    assert (summary["stopped_after_epoch"], summary["stopped_by"]) == (1, "on_epoch")
    # Epoch 1 has no validation: its checkpoint is validated at the end.
    validated = evaluate_run(run, split="validation")["accuracy"]
    assert summary["last"]["validation_accuracy"] == validated
    again, _ = fit(lazy, digits, workdir=run, resume=True, on_epoch=never, verbose=True)
    assert_trees_identical(again, state)
    assert "is complete: stopped after epoch 1 of 3" in capsys.readouterr().out
    longer, _ = fit(replace(lazy, epochs=4), digits, workdir=run, resume=True)
    assert_trees_identical(longer, fit(replace(lazy, epochs=4), digits)[0])
    assert "stopped_by" not in summary_of(run)


@pytest.mark.slow
def test_a_stop_after_the_last_epoch_is_none(recipe, digits, tmp_path):
    short = replace(recipe, epochs=1)
    fit(short, digits, workdir=tmp_path / "run", on_epoch=lambda row: "stop")
    assert "stopped_by" not in summary_of(tmp_path / "run")


@pytest.mark.parametrize(
    "answer",
    [True, *(pytest.param(a, marks=pytest.mark.slow) for a in (False, 0, "Stop", {"a": 1}))],
)
def test_other_answers_are_refused_when_the_epoch_is_saved(recipe, digits, tmp_path, answer):
    with pytest.raises(TypeError, match='must return None, or "stop" to end the run, not'):
        fit(recipe, digits, workdir=tmp_path / "run", on_epoch=lambda row: answer)
    seen = []
    fit(recipe, digits, workdir=tmp_path / "run", resume=True, on_epoch=lambda r: seen.append(r))
    assert [row["epoch"] for row in seen] == [2, 3]


def test_members_of_a_sweep_stop_by_themselves(impatient, digits, tmp_path):
    small = replace(impatient, epochs=3)
    result = sweep(small, "seed", [0, 1], digits, workdir=tmp_path / "sweep")
    assert (result.mode, "--patience" in result.why) == ("sequential", True)
    assert [len(member.history.rows) for member in result.members] == [2, 2]
    assert all(member.summary["stopped_by"] == "patience" for member in result.finished)
    sweep(small, "seed", [0, 1], digits, workdir=tmp_path / "sweep", resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "patience must be positive"),
        ({"patience": True}, "patience must be a number"),
        ({"patience_metric": "validation_loss"}, "patience_metric is for --patience"),
        ({"patience_mode": "min"}, "patience_mode is for --patience"),
        ({"patience_min_delta": 0.1}, "patience_min_delta is for --patience"),
        ({"patience": 1, "patience_min_delta": -0.1}, "patience_min_delta must not be negative"),
        ({"patience": 1, "patience_metric": "train_loss"}, "unknown patience_metric"),
    ],
)
def test_settings_that_mean_nothing_are_refused(recipe, settings, message):
    with pytest.raises(RecipeError, match=message):
        replace(recipe, **settings)


@pytest.mark.parametrize("answer", ["stop", True])
def test_only_the_first_process_is_heard(recipe, digits, monkeypatch, answer):
    """Another process's answer is not: the first one said None."""
    monkeypatch.setattr(Layout, "agree", lambda self, *own: [(0,), own] if len(own) == 1 else [own])
    _, history = fit(recipe, digits, on_epoch=lambda row: answer)
    assert history.column("epoch") == [1, 2, 3]


def test_a_run_without_its_patience_says_what_chose_its_best_checkpoint(recipe, tmp_path):
    by_loss = replace(recipe, patience=2, patience_metric="validation_loss")
    run_dir = RunDirectory(tmp_path)
    with pytest.raises(RunError, match="chose its best checkpoint by validation_loss, with a pat"):
        allowed_changes(recipe, by_loss, run_dir)
    reversed_mode = replace(recipe, patience=2, patience_mode="min")
    with pytest.raises(RunError, match="patience_mode: auto, not min"):
        allowed_changes(recipe, reversed_mode, run_dir)
    margin = replace(recipe, patience=2, patience_min_delta=0.1)
    assert allowed_changes(recipe, margin, run_dir) == recipe
