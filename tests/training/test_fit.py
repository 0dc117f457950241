import dataclasses
import json
import os
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.common.errors import CheckpointError, DeviceError, RecipeError, RunError
from jaxcifar.devices.processes import DeviceOptions
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.models.names import named_leaves
from jaxcifar.runs.checkpoints import Checkpoints, CheckpointWarning
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.training.evaluation import evaluate
from jaxcifar.training.fit import fit
from jaxcifar.training.interruption import Interrupted
from tests.conftest import assert_trees_identical


class Stop(Exception):
    pass


def stop_after(epoch):
    def on_epoch(row):
        if row["epoch"] == epoch:
            raise Stop

    return on_epoch


def numbers(history):
    """The rows without the columns that measure time."""
    clock = {"seconds", "validation_seconds", "images_per_second"}
    return [{k: v for k, v in row.items() if k not in clock} for row in history.rows]


def test_a_run_without_a_directory_returns_state_and_history(recipe, digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []
    state, history = fit(recipe, digits, on_epoch=seen.append)
    assert seen == history.rows
    assert history.column("epoch") == [1, 2, 3]
    assert history.column("step") == [3, 6, 9]
    assert int(state.step) == 9
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    assert not any(tmp_path.iterdir())


def test_the_files_of_a_run_agree_with_its_history(recipe, digits, tmp_path):
    run = tmp_path / "run"
    state, history = fit(recipe, digits, workdir=run, experiment="small")
    names = sorted(p.name for p in run.iterdir())
    assert names == ["checkpoints", "config.json", "figures", "metrics.jsonl", "summary.json"]
    assert (run / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history.rows

    summary = json.loads((run / "summary.json").read_text())
    assert summary["experiment"] == "small"
    accuracies = history.column("validation_accuracy")
    assert summary["best"]["validation_accuracy"] == max(accuracies)
    assert summary["last"]["validation_accuracy"] == accuracies[-1]
    scored = evaluate(
        recipe.make_model(), state.variables, digits.test, normalize=recipe.make_preprocess()
    )
    assert summary["last"]["test"]["accuracy"] == scored["accuracy"]
    assert summary["last"]["test"]["examples"] == 360
    assert summary["last"]["test"]["loss"] == pytest.approx(scored["loss"], rel=1e-5)


def test_validation_every_few_epochs_changes_nothing_else(recipe, digits, tmp_path, capsys):
    state, history = fit(recipe, digits)
    seldom = dataclasses.replace(recipe, validate_every=2)
    again, sparse = fit(seldom, digits, workdir=tmp_path / "run", verbose=True)
    assert_trees_identical(again, state)
    for name in ("validation_loss", "validation_accuracy"):
        expected = history.column(name)
        assert sparse.column(name) == [None, expected[1], expected[2]]  # always the last epoch
    assert sparse.validated().column("epoch") == [2, 3]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["validation" in line for line in lines] == [False, True, True]
    assert len({line.index("  lr ") for line in lines}) == 1, "the columns do not line up"
    summary = RunDirectory(tmp_path / "run").read_summary()
    assert summary is not None
    assert summary["best"]["validation_accuracy"] == max(sparse.column("validation_accuracy")[1:])


@pytest.mark.slow
def test_images_are_resized_for_training_and_scoring(recipe, digits, tmp_path):
    """The scores are those of images that are resized beforehand."""
    small = dataclasses.replace(recipe, resize=16, flip_rate=0.0, translate_pixels=0, epochs=1)
    state, history = fit(small, digits, workdir=tmp_path / "run")
    inputs = small.make_preprocess()(digits.validation.images)
    assert inputs.shape[1:] == (16, 16, 3)
    logits = small.make_model().apply(state.variables, inputs, train=False)
    accuracy = np.mean(np.argmax(logits, axis=-1) == digits.validation.labels)
    assert history.rows[-1]["validation_accuracy"] == pytest.approx(accuracy)
    scored = evaluate(
        small.make_model(), state.variables, digits.test, normalize=small.make_preprocess()
    )
    summary = RunDirectory(tmp_path / "run").read_summary()
    assert summary is not None
    assert summary["last"]["test"]["accuracy"] == scored["accuracy"]


@pytest.mark.slow
def test_a_checkpoint_that_is_best_and_last_is_scored_once(recipe, digits, tmp_path, monkeypatch):
    restored = []
    restore = Checkpoints.restore_weights

    def counting(self, target, which="best", **options):
        restored.append(which)
        return restore(self, target, which, **options)

    monkeypatch.setattr(Checkpoints, "restore_weights", counting)
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path / "run")
    assert restored == [3]
    summary = RunDirectory(tmp_path / "run").read_summary()
    assert summary is not None
    assert summary["best"] == summary["last"]


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(recipe, digits, tmp_path):
    whole, history = fit(recipe, digits, workdir=tmp_path / "whole")
    with pytest.raises(Stop):
        fit(recipe, digits, workdir=tmp_path / "cut", on_epoch=stop_after(2))
    # As after a crash between an epoch's line and its checkpoint.
    RunDirectory(tmp_path / "cut").append_row({"epoch": 3, "step": 9, "train_loss": 123.0})
    state, resumed = fit(recipe, digits, workdir=tmp_path / "cut", resume=True)
    assert_trees_identical(state, whole)
    assert numbers(resumed) == numbers(history)
    assert numbers(RunDirectory(tmp_path / "cut").read_history()) == numbers(history)
    config = RunDirectory(tmp_path / "cut").read_config()
    assert config["resumed"] == [{"step": 6}]
    assert "resumed" not in RunDirectory(tmp_path / "whole").read_config()


def test_resuming_a_complete_run_trains_nothing(recipe, digits, tmp_path, capsys):
    whole, _ = fit(recipe, digits, workdir=tmp_path / "run")
    files = [tmp_path / "run" / name for name in ("summary.json", "config.json")]
    before = [path.read_bytes() for path in files]

    def never(row):
        raise AssertionError("it trained")

    state, _ = fit(
        recipe, digits, workdir=tmp_path / "run", resume=True, on_epoch=never, verbose=True
    )
    assert_trees_identical(state, whole)
    assert [path.read_bytes() for path in files] == before
    assert "is complete" in capsys.readouterr().out


def test_a_run_killed_before_its_first_checkpoint_starts_again_on_resume(recipe, digits, tmp_path):
    def stop_at_once(row):
        raise Stop

    files = RunDirectory(tmp_path / "run")
    with pytest.raises(Stop):
        fit(recipe, digits, workdir=files.path, on_epoch=stop_at_once)
    for folder in files.checkpoints.iterdir():
        folder.rename(tmp_path / folder.name)
    with files.metrics.open("a") as file:
        file.write('{"epoch": 2, "st')
    state, history = fit(recipe, digits, workdir=files.path, resume=True)
    assert history.column("epoch") == [1, 2, 3]
    assert files.read_history() == history
    assert int(state.step) == 9


def test_a_run_whose_last_checkpoint_is_damaged_continues_from_the_one_before(
    recipe, digits, tmp_path
):
    whole, _ = fit(recipe, digits, workdir=tmp_path / "whole")
    files = RunDirectory(tmp_path / "run")
    with pytest.raises(Stop):
        fit(recipe, digits, workdir=files.path, on_epoch=stop_after(2))
    shutil.rmtree(files.checkpoints / "6" / "train")
    with pytest.warns(CheckpointWarning, match="checkpoint 6 .*train/.* the last good one is 3"):
        state, history = fit(recipe, digits, workdir=files.path, resume=True)
    assert_trees_identical(state, whole)
    assert history.column("epoch") == [1, 2, 3]
    assert files.read_history() == history
    summary, undisturbed = files.read_summary(), RunDirectory(tmp_path / "whole").read_summary()
    assert summary is not None
    assert undisturbed is not None
    assert summary["best"] == undisturbed["best"]
    assert (files.damaged / "6" / "model").is_dir()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(recipe, digits, tmp_path):
    files = RunDirectory(tmp_path / "run")
    with pytest.raises(Stop):
        fit(recipe, digits, workdir=files.path, on_epoch=stop_after(2))
    for step in ("3", "6"):
        (files.checkpoints / step / "manifest.json").unlink()
    before = files.metrics.read_bytes()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="every checkpoint .* damaged.*--overwrite"):
            fit(recipe, digits, workdir=files.path, resume=True)
    assert files.metrics.read_bytes() == before
    assert sorted(path.name for path in files.checkpoints.iterdir()) == ["3", "6"]


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_run_in_use_by_another_process_is_not_touched(recipe, digits, tmp_path, how):
    files = RunDirectory(tmp_path / "run")
    if how:
        files.create({"recipe": recipe.to_dict()})
    else:
        files.path.mkdir()
    with files.lock():
        before = sorted(path.name for path in files.path.iterdir())
        with pytest.raises(RunError, match="in use by another process"):
            fit(recipe, digits, workdir=files.path, **how)
        assert sorted(path.name for path in files.path.iterdir()) == before


def test_more_epochs_continue_a_run_where_the_schedule_allows(recipe, digits, tmp_path):
    whole, _ = fit(recipe, digits)
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path / "grown")
    state, _ = fit(recipe, digits, workdir=tmp_path / "grown", resume=True)
    assert_trees_identical(state, whole)
    summary = RunDirectory(tmp_path / "grown").read_summary()
    assert summary is not None
    assert summary["epochs"] == 3


@pytest.mark.slow
def test_a_run_with_lookahead_cannot_be_extended(recipe, digits, tmp_path):
    """The periods of lookahead are counted from the end of the run."""
    short = dataclasses.replace(recipe, epochs=1, lookahead_steps=2)
    fit(short, digits, workdir=tmp_path / "run")
    with pytest.raises(RunError, match="epochs: 3.*Lookahead are counted from the run's end"):
        fit(dataclasses.replace(short, epochs=3), digits, workdir=tmp_path / "run", resume=True)


@pytest.mark.slow
def test_muon_with_lookahead_thaws_and_resumes_bit_identically(recipe, digits, tmp_path):
    fast = dataclasses.replace(
        recipe,
        optimizer="muon",
        learning_rate=0.05,
        bias_scale=4.0,
        lookahead_steps=4,
        lookahead_share=0.5,
        freeze="fc=trained layer1=trained *=0.5@2",
    )
    whole, history = fit(fast, digits, workdir=tmp_path / "whole")
    with pytest.raises(Stop):
        fit(fast, digits, workdir=tmp_path / "cut", on_epoch=stop_after(2))
    state, resumed = fit(fast, digits, workdir=tmp_path / "cut", resume=True)
    assert_trees_identical(state, whole)
    assert numbers(resumed) == numbers(history)
    slow = {k: v for k, v in named_leaves(state.opt_state).items() if ".slow." in k}
    params = named_leaves(state.params)
    assert {k.split(".slow.")[1] for k in slow} == set(params)
    for name, leaf in slow.items():
        np.testing.assert_allclose(leaf, params[name.split(".slow.")[1]], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_extending_a_run_removes_the_summary_of_the_shorter_one(recipe, digits, tmp_path):
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path / "run")
    with pytest.raises(Stop):
        fit(recipe, digits, workdir=tmp_path / "run", resume=True, on_epoch=stop_after(2))
    assert RunDirectory(tmp_path / "run").read_summary() is None
    fit(
        dataclasses.replace(recipe, eval_batch_size=33),
        digits,
        workdir=tmp_path / "run",
        resume=True,
    )
    assert RunDirectory(tmp_path / "run").read_config()["recipe"]["eval_batch_size"] == 33


def test_resuming_with_another_recipe_is_refused(recipe, digits, tmp_path):
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path / "run")
    with pytest.raises(RunError, match=r"learning_rate: 0\.5, not 0\.003"):
        fit(
            dataclasses.replace(recipe, epochs=1, learning_rate=0.5),
            digits,
            workdir=tmp_path / "run",
            resume=True,
        )
    files = RunDirectory(tmp_path / "run")
    config = files.read_config()
    files.write_config(config | {"recipe": config["recipe"] | {"epochs": 3}})
    with pytest.raises(RunError, match="epochs: 1, not 3"):
        fit(dataclasses.replace(recipe, epochs=1), digits, workdir=files.path, resume=True)


def test_resuming_as_another_experiment_is_refused(recipe, digits, tmp_path):
    short = dataclasses.replace(recipe, epochs=1)
    fit(short, digits, workdir=tmp_path / "run", experiment="first")
    with pytest.raises(RunError, match="holds a run of 'first', not of 'second'"):
        fit(short, digits, workdir=tmp_path / "run", experiment="second", resume=True)


def test_resuming_on_other_data_or_without_a_run_is_refused(recipe, digits, tmp_path):
    with pytest.raises(RunError, match="there is no run directory"):
        fit(recipe, digits, workdir=tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path / "run")
    other = dataclasses.replace(digits, fingerprint="0" * 64)
    with pytest.raises(RunError, match="trained on other data"):
        fit(dataclasses.replace(recipe, epochs=1), other, workdir=tmp_path / "run", resume=True)


def test_a_run_is_replaced_only_with_overwrite(recipe, digits, tmp_path):
    short = dataclasses.replace(recipe, epochs=1)
    fit(short, digits, workdir=tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="--overwrite"):
        fit(short, digits, workdir=tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    fit(dataclasses.replace(short, seed=1), digits, workdir=tmp_path / "run", overwrite=True)
    assert RunDirectory(tmp_path / "run").read_config()["recipe"]["seed"] == 1
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]


def test_the_seed_determines_the_run(recipe, digits):
    short = dataclasses.replace(recipe, epochs=1)
    first, again = fit(short, digits)[0], fit(short, digits)[0]
    assert_trees_identical(first, again)
    other = fit(dataclasses.replace(short, seed=1), digits)[0]
    assert not np.array_equal(first.params["conv1"]["kernel"], other.params["conv1"]["kernel"])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    recipe, digits, tmp_path, optimised
):
    wild = dataclasses.replace(recipe, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(
        FloatingPointError,
        match=r"step 2 \(epoch 1, learning rate 9\.97e\+29\): start a run with a lower",
    ):
        fit(wild, digits, workdir=tmp_path / "run")


def test_data_of_another_size_than_the_recipe_says_is_refused(recipe, digits):
    with pytest.raises(RecipeError, match=r"of the recipe \(train_size: 120, not 90\): load them"):
        fit(dataclasses.replace(recipe, train_size=90), digits)
    message = r"\(split_seed: 0, not 1, stratified: False, not True\): .*load_splits"
    with pytest.raises(RecipeError, match=message):
        fit(dataclasses.replace(recipe, split_seed=1, stratified=True), digits)
    mnist = dataclasses.replace(digits, name="mnist")
    with pytest.raises(RecipeError, match=r"\(dataset: mnist, not digits\)"):
        fit(recipe, mnist)


@pytest.mark.slow
def test_evaluate_run_gives_exactly_the_scores_of_the_summary(
    recipe, digits, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fit(recipe, digits, workdir="run")
    summary = RunDirectory(tmp_path / "run").read_summary()
    assert summary is not None
    for which in ("best", "last"):
        result = evaluate_run("run", which=which)
        assert {k: result[k] for k in ("loss", "accuracy", "examples")} == summary[which]["test"]
    assert evaluate_run("run", split="train")["examples"] == 120
    validation = evaluate_run("run", split="validation", which="last")
    last = RunDirectory(tmp_path / "run").read_history().rows[-1]
    assert validation["accuracy"] == last["validation_accuracy"]
    jax.clear_caches()


@pytest.mark.slow
def test_a_run_with_test_shifts_is_scored_with_shifted_images(recipe, digits, tmp_path):
    shifted = dataclasses.replace(recipe, epochs=1, test_mirror=True, test_shift_pixels=2)
    state, history = fit(shifted, digits, workdir=tmp_path / "run")
    summary = RunDirectory(tmp_path / "run").read_summary()
    assert summary is not None

    def score(part, **views):
        settings = {"normalize": recipe.make_preprocess(), "batch_size": recipe.eval_batch_size}
        return evaluate(recipe.make_model(), state.variables, part, **settings, **views)["loss"]

    six = {"mirror": True, "shift": 2}
    assert history.rows[-1]["validation_loss"] == pytest.approx(
        score(digits.validation, **six), rel=1e-5
    )
    tested = summary["last"]["test"]["loss"]
    assert tested == evaluate_run(tmp_path / "run")["loss"]
    for views in ({"mirror": True, "shift": 0}, {"mirror": False, "shift": 2}, {"shift": 1}):
        found = evaluate_run(tmp_path / "run", **views)["loss"]
        assert found == pytest.approx(score(digits.test, **({"mirror": True} | views)), rel=1e-5)
        assert found != pytest.approx(tested, rel=1e-5)
    # Images read from the host are scored alike.
    _, streamed = fit(shifted, digits, devices=DeviceOptions(input="stream"))
    assert streamed.rows[-1]["validation_loss"] == pytest.approx(
        history.rows[-1]["validation_loss"], rel=1e-5
    )


@pytest.mark.slow
def test_a_run_with_test_mirror_is_scored_with_mirror_images(recipe, digits, tmp_path):
    # Short, because a second form of evaluation needs another program.
    mirrored = dataclasses.replace(recipe, epochs=1, test_mirror=True)
    state, history = fit(mirrored, digits, workdir=tmp_path / "run")
    summary = RunDirectory(tmp_path / "run").read_summary()
    assert summary is not None

    def score(part, mirror):
        return evaluate(
            recipe.make_model(),
            state.variables,
            part,
            normalize=recipe.make_preprocess(),
            batch_size=recipe.eval_batch_size,
            mirror=mirror,
        )

    validated = history.rows[-1]["validation_loss"]
    assert validated == pytest.approx(score(digits.validation, True)["loss"], rel=1e-5)
    assert validated != pytest.approx(score(digits.validation, False)["loss"], rel=1e-5)
    tested = summary["last"]["test"]["loss"]
    assert tested == evaluate_run(tmp_path / "run")["loss"]
    plain = evaluate_run(tmp_path / "run", mirror=False)
    assert plain["loss"] == pytest.approx(score(digits.test, False)["loss"], rel=1e-5)
    assert plain["loss"] != pytest.approx(tested, rel=1e-5)


@pytest.mark.slow
def test_evaluating_a_run_on_a_split_of_other_data_is_refused(recipe, digits, tmp_path):
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=tmp_path / "run")
    files = RunDirectory(tmp_path / "run")
    files.write_config(files.read_config() | {"data_fingerprint": "0" * 64})
    with pytest.raises(RunError, match="was trained on other data"):
        evaluate_run(files.path, split="validation")
    assert evaluate_run(files.path, split="test")["examples"] == 360


def signal_after(calls, number, monkeypatch):
    """Send this process a signal after this many calls of `allow`, with pieces of one step."""
    from jaxcifar.training import pieces, run

    asked = []

    def make_allow(layout, signals):
        original = real(layout, signals)

        def allow(count):
            asked.append(count)
            if len(asked) == calls + 1:
                os.kill(os.getpid(), number)
                while not signals.requested:
                    time.sleep(0.001)
            return min(original(count), 1)

        return allow

    real = run.make_allow
    monkeypatch.setattr(run, "make_allow", make_allow)
    monkeypatch.setattr(pieces, "SECONDS_PER_PIECE", 0)


# `allow` is called at the start of an epoch, before each of its 3 steps and before its validation,
# and at the end before the test images are scored.
@pytest.mark.parametrize(
    "pieces",
    [2, 15, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 3, 4, 5, 7, 9, 13))],
)
def test_a_run_stopped_at_any_step_continues_there_and_ends_bit_identical(
    recipe, digits, tmp_path, pieces
):
    recipe = dataclasses.replace(recipe, log_gradient_norm=True, on_nonfinite="skip")
    whole, history = fit(recipe, digits, workdir=tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:  # does not affect compiled programs
        signal_after(pieces, signal.SIGTERM, patch)
        with pytest.raises(Interrupted, match="SIGTERM (in epoch|scoring)") as stopped:
            fit(recipe, digits, workdir=tmp_path / "cut")
    assert stopped.value.signal_number == signal.SIGTERM
    with Checkpoints(tmp_path / "cut" / "checkpoints", read_only=True) as checkpoints:
        done = 3 * (pieces // 5) + max(0, pieces % 5 - 1)
        assert max(checkpoints.steps(), default=0) == done
    state, resumed = fit(recipe, digits, workdir=tmp_path / "cut", resume=True)
    assert_trees_identical(state, whole)
    assert numbers(resumed) == numbers(history)
    ours, theirs = (RunDirectory(tmp_path / name).read_summary() for name in ("cut", "whole"))
    assert ours is not None
    assert theirs is not None
    assert ours["best"] == theirs["best"]
    assert ours["last"] == theirs["last"]


def compiled_steps(caplog):
    """How often the loops over steps, for training and scoring, were compiled."""
    return sum("Finished XLA compilation of jit(steps)" in line for line in caplog.messages)


def test_resuming_compiles_no_new_program_for_training_and_validation(
    recipe, digits, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("jaxcifar.training.pieces.SECONDS_PER_PIECE", 0)  # a piece for each step
    with jax.log_compiles():
        fit(recipe, digits, workdir=tmp_path / "whole")
        train_validate_and_test = compiled_steps(caplog)
        with monkeypatch.context() as patch:
            signal_after(2, signal.SIGTERM, patch)
            with pytest.raises(Interrupted):
                fit(recipe, digits, workdir=tmp_path / "cut")
        fit(recipe, digits, workdir=tmp_path / "cut", resume=True)
    # The other runs of this process share the programs.
    assert compiled_steps(caplog) == train_validate_and_test == 3


@pytest.mark.slow
def test_a_run_stopped_twice_in_one_epoch_loses_nothing(recipe, digits, tmp_path):
    whole, history = fit(recipe, digits, workdir=tmp_path / "whole")
    for resume in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            signal_after(2, signal.SIGINT, patch)
            with pytest.raises(Interrupted):
                fit(recipe, digits, workdir=tmp_path / "cut", resume=resume)
    state, resumed = fit(recipe, digits, workdir=tmp_path / "cut", resume=True)
    assert_trees_identical(state, whole)
    assert numbers(resumed) == numbers(history)


def test_a_run_without_a_directory_says_that_nothing_was_saved(recipe, digits, monkeypatch):
    signal_after(2, signal.SIGINT, monkeypatch)
    with pytest.raises(Interrupted, match="nothing was saved"):
        fit(recipe, digits)


@pytest.mark.parametrize("broken", ["logits", "weights"])
def test_an_error_in_mid_run_names_step_learning_rate_and_checkpoint(
    recipe, digits, tmp_path, monkeypatch, broken
):
    """The learning rate explodes in step 5, the second step of the second epoch."""
    from jaxcifar.recipes import recipe as module

    def make_schedule(self):
        huge = 1e30 if broken == "logits" else jnp.inf
        return lambda step: jnp.where(jnp.asarray(step) == 4, huge, 0.003)

    monkeypatch.setattr(module.Recipe, "make_schedule", make_schedule)
    with pytest.raises(FloatingPointError) as raised:
        fit(recipe, digits, workdir=tmp_path / "run")
    message = str(raised.value)
    assert "after step 6 (epoch 2, learning rate" in message
    assert "the last good checkpoint is that of step 3" in message
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]
    assert RunDirectory(tmp_path / "run").read_history().column("epoch") == [1]


def test_steps_that_are_not_finite_are_skipped_on_request(recipe, digits, monkeypatch):
    """One image becomes NaN, so one of the three batches of an epoch is skipped."""
    from jaxcifar.recipes import recipe as module

    original = module.Recipe.make_preprocess

    def make_preprocess(self, epoch=None):
        preprocess = original(self, epoch)
        bad = jnp.asarray(digits.train.images[7])
        return lambda x: jnp.where(
            jnp.all(x == bad, axis=(1, 2, 3), keepdims=True), jnp.nan, preprocess(x)
        )

    monkeypatch.setattr(module.Recipe, "make_preprocess", make_preprocess)
    plain = dataclasses.replace(recipe, flip_rate=0.0, translate_pixels=0)
    with pytest.raises(FloatingPointError, match="--on-nonfinite skip"):
        fit(plain, digits)
    state, history = fit(dataclasses.replace(plain, on_nonfinite="skip"), digits)
    assert history.column("skipped_steps") == [1, 1, 1]
    assert int(state.step) == 9
    assert np.isfinite(history.column("train_loss")).all()


def test_streamed_training_equals_training_on_the_device(recipe, digits, tmp_path):
    """Bit-identical with all optimisations, which test_end_to_end.py checks."""
    resident, history = fit(recipe, digits)
    streamed, again = fit(
        recipe, digits, workdir=tmp_path / "run", devices=DeviceOptions(input="stream")
    )
    for ours, theirs in zip(
        jax.tree.leaves(streamed.params), jax.tree.leaves(resident.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert again.column("train_loss") == pytest.approx(history.column("train_loss"), rel=1e-6)
    summary = RunDirectory(tmp_path / "run").read_summary()
    assert summary is not None
    assert summary["last"]["test"]["examples"] == 360


def test_images_that_do_not_fit_are_streamed(recipe, digits, monkeypatch, capsys):
    from jaxcifar.training import evaluation

    monkeypatch.setattr(evaluation, "free_memory", lambda: 1000)
    short = dataclasses.replace(recipe, epochs=1)
    fit(short, digits, verbose=True)
    assert "images read from the host" in capsys.readouterr().out
    with pytest.raises(DeviceError, match="--input resident: the images take"):
        fit(short, digits, devices=DeviceOptions(input="resident"))
    frozen = dataclasses.replace(
        short, freeze="all_but:fc", bn="frozen", flip_rate=0.0, translate_pixels=0
    )
    cached = dataclasses.replace(frozen, cache_features=True)
    with pytest.raises(DeviceError, match="cached features are kept on the device"):
        fit(cached, digits, devices=DeviceOptions(input="stream"))


def test_a_run_whose_checkpoints_are_gone_is_not_silently_started_again(recipe, digits, tmp_path):
    files = RunDirectory(tmp_path / "run")
    fit(recipe, digits, workdir=files.path)
    shutil.rmtree(files.checkpoints)
    with pytest.raises(CheckpointError, match=r"trained 3 epochs, and .*checkpoints holds no"):
        fit(recipe, digits, workdir=files.path, resume=True)
    assert len(files.read_history().rows) == 3
