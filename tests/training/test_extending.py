"""A finished run goes on with more epochs, to the bits of an uninterrupted run."""

import json
import signal
from dataclasses import replace

import pytest

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.training.fit import fit
from jaxcifar.training.interruption import Interrupted
from tests.conftest import assert_trees_identical
from tests.training.test_fit import signal_after


@pytest.fixture
def ending(recipe):
    """A recipe whose schedule ends with its two epochs, at a rate above 0."""
    return replace(recipe, epochs=2, t_max=None, final_scale=0.1)


def same_rows(a, b):
    times = ("seconds", "validation_seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in a.rows] == [
        {k: v for k, v in row.items() if k not in times} for row in b.rows
    ]


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        pytest.param({"after_schedule": "final"}, (0.1, 0.1), id="final"),
        pytest.param(
            {"after_schedule": "restart", "restart_epochs": 1.0},
            (0.4, 0.4),
            id="1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"after_schedule": "restart", "schedule": "triangular", "schedule_unit": "epoch"},
            (1.0, 0.55),
            id="triangular",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_extended_run_is_bit_identical_to_an_uninterrupted_one(
    ending, digits, tmp_path, settings, rates
):
    of_schedule = {k: v for k, v in settings.items() if k.startswith("schedule")}
    fit(replace(ending, **of_schedule), digits, workdir=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    longer = replace(ending, epochs=4, **settings)
    state, history = fit(longer, digits, workdir=tmp_path / "run", resume=True)
    # The stored recipe says it all: an uninterrupted run by it has the same bits.
    stored = read_recipe(RunDirectory(tmp_path / "run"))
    assert stored == replace(longer, t_max=2.0)
    whole, rows = fit(stored, digits)
    assert_trees_identical(state, whole)
    assert same_rows(history, rows)
    relative = [row["learning_rate"] / ending.learning_rate for row in history.rows[2:]]
    assert relative == pytest.approx(rates, abs=0.15 if settings.get("restart_epochs") else 1e-6)
    renewed = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["epochs"], renewed["epochs"]) == (2, 4)
    assert renewed["last"]["step"] == 12
    # The same call once more: the run is complete.
    again, _ = fit(longer, digits, workdir=tmp_path / "run", resume=True)
    assert_trees_identical(again, whole)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["final", "restart"])
def test_the_choice_can_be_made_at_the_start(ending, digits, tmp_path, after):
    chosen = replace(ending, after_schedule=after)
    fit(chosen, digits, workdir=tmp_path / "run")
    state, _ = fit(replace(chosen, epochs=4), digits, workdir=tmp_path / "run", resume=True)
    whole, _ = fit(read_recipe(RunDirectory(tmp_path / "run")), digits)
    assert_trees_identical(state, whole)


@pytest.mark.slow
def test_rates_by_layer_and_a_stop_in_mid_epoch_change_no_bit(
    recipe, digits, tmp_path, monkeypatch
):
    """XLA folds the factors of a group into its schedule, one way before the end, another after."""
    layered = replace(
        recipe,
        epochs=2,
        t_max=None,
        warmup_epochs=0.7,
        bias_scale=3.0,
        freeze="conv1=frozen layer1=0.3 *=trained",
        optimizer="sgd",
    )
    fit(layered, digits, workdir=tmp_path / "run")
    longer = replace(layered, epochs=4, after_schedule="restart", restart_epochs=1.5)
    whole, _ = fit(replace(longer, t_max=2.0), digits)
    for number in (3, 2):  # in the third epoch, and once more
        with monkeypatch.context() as patch:
            signal_after(number, signal.SIGTERM, patch)
            with pytest.raises(Interrupted):
                fit(longer, digits, workdir=tmp_path / "run", resume="auto")
    state, _ = fit(longer, digits, workdir=tmp_path / "run", resume="auto")
    assert_trees_identical(state, whole)


@pytest.mark.slow
def test_a_run_is_extended_twice(ending, digits, tmp_path):
    short = replace(ending, epochs=1)
    fit(short, digits, workdir=tmp_path / "run")
    for epochs in (2, 3):
        longer = replace(short, epochs=epochs, after_schedule="restart")
        state, _ = fit(longer, digits, workdir=tmp_path / "run", resume=True)
    whole, _ = fit(replace(longer, t_max=1.0), digits)
    assert_trees_identical(state, whole)


def test_more_epochs_alone_name_the_two_choices_with_their_rates(ending, digits, tmp_path):
    to_zero = replace(ending, epochs=1, final_scale=0.0, schedule_unit="epoch")
    run = tmp_path / "run"
    fit(to_zero, digits, workdir=run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    longer = replace(to_zero, epochs=3)
    with pytest.raises(RunError) as refused:
        fit(longer, digits, workdir=run, resume=True)
    assert str(refused.value) == (
        f"{run} has a cosine schedule that ends with its 1 epoch, so --epochs 3 needs "
        "--after-schedule: final keeps the final rate, 0, which would train nothing; restart "
        "begins again at 0.003 in periods of 1 epoch, and ends epoch 3 at 0.003 "
        "(--restart-epochs 2 lets it fall to 0 by then)"
    )
    with pytest.raises(RunError, match="the final rate of .* is 0, which would train nothing"):
        fit(replace(longer, after_schedule="final"), digits, workdir=run, resume=True)
    with pytest.raises(RunError, match=r"has 1 epoch, .* \(epochs: .*\)|batch"):
        fit(replace(to_zero, epochs=1, batch_size=60), digits, workdir=run, resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_fewer_epochs_and_another_past_are_refused(ending, digits, tmp_path):
    longer = replace(ending, t_max=1.0, after_schedule="final")
    fit(longer, digits, workdir=tmp_path / "run")
    for settings, message in (
        ({"epochs": 1}, "has 2 epochs, so it cannot end after 1"),
        ({"epochs": 3, "after_schedule": "restart"}, "after_schedule: restart, not final"),
        ({"epochs": 3, "t_max": 2.0}, "t_max: 2.0, not 1.0"),
    ):
        with pytest.raises(RunError, match=message):
            fit(replace(longer, **settings), digits, workdir=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "constant", "after_schedule": "final"}, "after_schedule is for a schedule"),
        ({"restart_epochs": 2.0}, "restart_epochs is for --after-schedule restart"),
        ({"after_schedule": "restart", "restart_epochs": 0.0}, "restart_epochs must be positive"),
        ({"after_schedule": "again"}, "unknown after_schedule 'again'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(recipe, settings, message):
    with pytest.raises(RecipeError, match=message):
        replace(recipe, **settings)


def test_nothing_is_said_of_training_where_nothing_was_trained(ending, digits, tmp_path, capsys):
    short = replace(ending, epochs=1)
    fit(short, digits, workdir=tmp_path / "run", verbose=True)
    assert "trained in" in capsys.readouterr().out
    fit(short, digits, workdir=tmp_path / "run", resume=True, verbose=True)
    shown = capsys.readouterr().out
    assert "is complete: 1 epoch;" in shown
    assert "trained in" not in shown
    assert "last checkpoint" in shown
