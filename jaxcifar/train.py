"""The spine: a run from its recipe to its figures. Read it from `fit` down."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optax

from jaxcifar import metrics
from jaxcifar.augment import make_augment
from jaxcifar.checkpoint import Checkpoints
from jaxcifar.data import Splits
from jaxcifar.epoch import Data, Evaluation, TrainEpoch, make_evaluation, make_train_epoch
from jaxcifar.evaluation import to_device
from jaxcifar.hardware import describe_machine
from jaxcifar.partition import count_params, summarize
from jaxcifar.plots import plot_curves, save_figure
from jaxcifar.progress import ProgressBar, duration
from jaxcifar.recipe import Recipe, read_recipe
from jaxcifar.run_files import History, Row, RunError, RunFiles
from jaxcifar.state import TrainState, all_finite, init_state, state_shapes
from jaxcifar.steps import make_eval_step, make_train_step

OnEpoch = Callable[[Row], None]


def fit(
    recipe: Recipe,
    splits: Splits,
    *,
    workdir: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
    experiment: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
) -> tuple[TrainState, History]:
    """Train by a recipe.

    Args:
        recipe: every setting.
        splits: the data, from `data.load_dataset`, of the sizes the recipe says.
        workdir: the run directory; without one nothing is written.
        on_epoch: called after every epoch with its row of metrics.
        experiment: a name for titles and config.json.
        resume: go on from the last checkpoint in `workdir`; on a CPU the final state is
            bit-identical to an uninterrupted run's.
        overwrite: replace the run that `workdir` holds.
        verbose: print a line an epoch and, on a terminal, draw progress bars.

    Returns:
        The state after the last epoch, and the history: for each epoch "epoch" (from 1), "step"
        (taken in all), "learning_rate" (of the epoch's last step), "train_loss" and
        "train_accuracy" (means over the epoch, as it trained), "validation_loss",
        "validation_accuracy", "seconds" (of training), "validation_seconds" and
        "images_per_second" (of training). Losses are in nats, accuracies fractions.

    Raises:
        RunError: `workdir` holds something that may not be overwritten, or nothing to resume.
        FloatingPointError: the loss, the weights or the statistics are no longer finite.
    """
    name = experiment or recipe.dataset
    _check_splits(recipe, splits)
    files = None if workdir is None else RunFiles(Path(workdir))
    if files is not None:
        _open_run(files, recipe, splits, name, resume=resume, overwrite=overwrite)

    # The functions of the run, each built once.
    model, tx, schedule = recipe.make_model(), recipe.make_optimizer(), recipe.make_schedule()
    normalize = recipe.make_normalize()
    train_epoch = make_train_epoch(
        make_train_step(model, tx, normalize=normalize, label_smoothing=recipe.label_smoothing),
        size=len(splits.train),
        batch_size=recipe.batch_size,
        augment=make_augment(flip_rate=recipe.flip_rate, translate_pixels=recipe.translate_pixels),
    )
    eval_step = make_eval_step(model, normalize=normalize)
    validate, test = (
        make_evaluation(eval_step, size=len(part), batch_size=recipe.eval_batch_size)
        for part in (splits.validation, splits.test)
    )

    history = History()
    with Checkpoints(files.checkpoints) if files else nullcontext() as checkpoints:
        # The state they act on: new, or where an earlier process left it.
        if resume and checkpoints is not None and checkpoints.steps():
            shapes = state_shapes(model, tx, image_size=recipe.image_size)
            state = checkpoints.restore_state(shapes)
        else:
            state = init_state(model, tx, seed=recipe.seed, image_size=recipe.image_size)
        if resume and files is not None:
            history = files.keep_history(int(state.step))
        first_epoch = int(state.step) // recipe.steps_per_epoch + 1
        if verbose:
            _print_opening(recipe, splits, state, first_epoch, files)

        if first_epoch <= recipe.epochs:
            train_data, validation_data = to_device(splits.train), to_device(splits.validation)
            state = _compile(train_epoch, validate, state, train_data, validation_data, verbose)
        for epoch in range(first_epoch, recipe.epochs + 1):
            begun = time.perf_counter()
            with ProgressBar(f"epoch {epoch}/{recipe.epochs}", len(splits.train), verbose) as bar:
                state, sums = train_epoch.run(state, train_data, bar.advance)
                trained = metrics.compute(sums)
            seconds = time.perf_counter() - begun
            _check_finite(trained["loss"], epoch, state, schedule, files)

            with ProgressBar("  validate", len(splits.validation), verbose) as bar:
                validated = metrics.compute(
                    validate.run(state.variables, validation_data, bar.advance)
                )
            row: Row = {
                "epoch": epoch,
                "step": int(state.step),
                "learning_rate": float(schedule(state.step - 1)),
                "train_loss": trained["loss"],
                "train_accuracy": trained["accuracy"],
                "validation_loss": validated["loss"],
                "validation_accuracy": validated["accuracy"],
                "seconds": seconds,
                "validation_seconds": time.perf_counter() - begun - seconds,
                "images_per_second": len(splits.train) / seconds,
            }
            history.rows.append(row)
            if files is not None and checkpoints is not None:
                # The row first: a crash between the two leaves a row too many, which resuming
                # drops, and never one too few.
                files.append_row(row)
                checkpoints.save(state, validation_accuracy=validated["accuracy"])
            if verbose:
                print(_epoch_line(history, recipe.epochs), flush=True)
            if on_epoch is not None:
                on_epoch(row)

        if files is not None and checkpoints is not None and not _is_complete(files, recipe):
            checkpoints.wait()
            test_data = to_device(splits.test)
            scores = {}
            for which in ("best", "last"):
                step = checkpoints.find(which)
                variables = checkpoints.restore_weights(state.variables, step)
                with ProgressBar(f"test {which}", len(splits.test), verbose) as bar:
                    sums = test.run(variables, test_data, bar.advance)
                scores[which] = {
                    "step": step,
                    "validation_accuracy": checkpoints.validation_accuracy(step),
                    "test": metrics.compute(sums),
                }
            save_figure(plot_curves(history, title=name), files.figures / "curves.png")
            files.write_summary(_summarize(recipe, name, state, history) | scores)
    if verbose and files is not None:
        _print_closing(files)
    return state, history


def _check_splits(recipe: Recipe, splits: Splits) -> None:
    given = (
        splits.name,
        (len(splits.train), len(splits.validation)),
        splits.seed,
        splits.stratified,
    )
    wanted = (recipe.dataset, recipe.split_sizes, recipe.split_seed, recipe.stratified)
    if given != wanted:
        raise ValueError(
            f"the data (name, sizes, seed, stratified) is {given}, the recipe wants {wanted}: "
            "load it with load_splits(recipe)"
        )


def _open_run(
    files: RunFiles,
    recipe: Recipe,
    splits: Splits,
    name: str,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make the run directory, or check that the run in it can go on by this recipe."""
    if resume and overwrite:
        raise RunError("resume and overwrite exclude each other: continue the run or replace it")
    config = {
        "experiment": name,
        "recipe": recipe.to_dict(),
        "data_fingerprint": splits.fingerprint,
        "machine": describe_machine(),
    }
    if not resume:
        files.check_free(overwrite=overwrite)
        files.create(config)
        return
    before = read_recipe(files)
    begun = files.read_config()
    if begun.get("experiment") != name:
        raise RunError(f"{files.path} holds a run of {begun.get('experiment')!r}, not of {name!r}")
    if begun.get("data_fingerprint") != splits.fingerprint:
        raise RunError(f"{files.path} was trained on other data than the {recipe.dataset} found")
    # More epochs are welcome where that leaves the learning rate of the epochs done as it was.
    longer = recipe.epochs > before.epochs and (recipe.t_max or recipe.schedule == "constant")
    allowed = replace(
        before,
        epochs=recipe.epochs if longer else before.epochs,
        eval_batch_size=recipe.eval_batch_size,
    )
    differing = recipe.differences(allowed)
    if differing:
        raise RunError(
            f"{files.path} was begun with another recipe ({'; '.join(differing)}): resume it "
            "without these options, or begin a run in another --workdir"
        )
    if longer:
        files.summary.unlink(missing_ok=True)
    if recipe != before:
        files.write_config(config)


def _compile(
    train_epoch: TrainEpoch,
    validate: Evaluation,
    state: TrainState,
    train_data: Data,
    validation_data: Data,
    verbose: bool,
) -> TrainState:
    begun = time.perf_counter()
    state = train_epoch.compile(state, train_data)
    validate.compile(state.variables, validation_data)
    if verbose:
        print(f"compiled in {time.perf_counter() - begun:.1f} s", flush=True)
    return state


def _check_finite(
    loss: float, epoch: int, state: TrainState, schedule: optax.Schedule, files: RunFiles | None
) -> None:
    if not np.isfinite(loss) or not all_finite(state.variables):
        kept = f"; the checkpoints in {files.path} are of the epochs before" if files else ""
        raise FloatingPointError(
            f"the loss ({loss:.4g}), the weights or the statistics are not finite after epoch "
            f"{epoch} (step {int(state.step)}, learning rate {float(schedule(state.step - 1)):.3g})"
            f"{kept}: try a lower learning rate or a warm-up"
        )


def _is_complete(files: RunFiles, recipe: Recipe) -> bool:
    summary = files.read_summary()
    return summary is not None and summary.get("epochs") == recipe.epochs


def _summarize(recipe: Recipe, name: str, state: TrainState, history: History) -> dict[str, Any]:
    """The summary, but for the scores of its checkpoints."""
    return {
        "experiment": name,
        "epochs": recipe.epochs,
        "parameters": count_params(state.params),
        "train_accuracy": history.rows[-1]["train_accuracy"],
        "train_seconds": sum(history.column("seconds")),
        "validation_seconds": sum(history.column("validation_seconds")),
        "images_per_second": float(np.median(history.column("images_per_second"))),
        "machine": describe_machine(),
    }


def _print_opening(
    recipe: Recipe,
    splits: Splits,
    state: TrainState,
    first_epoch: int,
    files: RunFiles | None,
) -> None:
    machine = describe_machine()
    print(
        f"{recipe.architecture} on {splits.name}: {len(splits.train):,} train, "
        f"{len(splits.validation):,} validation, {len(splits.test):,} test images; "
        f"{machine['device']} ({machine['cores']} cores, JAX {machine['versions']['jax']})"
    )
    if first_epoch == 1:
        print(summarize(state.params), flush=True)
    elif files is not None and _is_complete(files, recipe):
        print(f"{files.path} is complete: {recipe.epochs} epochs; --overwrite trains it again")
    elif files is not None:
        print(f"resuming {files.path} after epoch {first_epoch - 1} of {recipe.epochs}", flush=True)


def _epoch_line(history: History, epochs: int) -> str:
    row = history.rows[-1]
    accuracies = history.column("validation_accuracy")
    recent = history.rows[-3:]
    a_epoch = sum(r["seconds"] + r["validation_seconds"] for r in recent) / len(recent)
    return (
        f"epoch {row['epoch']:>3}/{epochs}"
        f"  train {row['train_loss']:.4f} {row['train_accuracy']:.4f}"
        f"  validation {row['validation_loss']:.4f} {row['validation_accuracy']:.4f}"
        f"{' best' if accuracies[-1] >= max(accuracies) else '     '}"
        f"  lr {row['learning_rate']:.2e}"
        f"  {row['images_per_second']:,.0f} img/s"
        f"  {duration(a_epoch * (epochs - row['epoch']))} left"
    )


def _print_closing(files: RunFiles) -> None:
    summary = files.read_summary()
    assert summary is not None
    print(f"trained in {duration(summary['train_seconds'])}")
    for which in ("best", "last"):
        part = summary[which]
        print(
            f"{which + ' checkpoint':<16} validation {part['validation_accuracy']:.4f}"
            f"  test {part['test']['accuracy']:.4f}"
        )
    print(f"wrote {files.path}: figures/curves.png, metrics.jsonl, summary.json, checkpoints/")
