"""The spine: a run from its recipe to its figures. Read it from `fit` down."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optax

from jaxcifar import metrics
from jaxcifar.checkpoint import Checkpoints
from jaxcifar.data import Splits
from jaxcifar.epoch import make_evaluation
from jaxcifar.evaluation import to_device
from jaxcifar.hardware import describe_machine
from jaxcifar.metrics import Metrics
from jaxcifar.partition import count_params, split_params, summarize
from jaxcifar.plots import plot_curves, save_figure
from jaxcifar.pretrained import LoadReport
from jaxcifar.progress import ProgressBar, duration
from jaxcifar.recipe import Recipe, read_recipe
from jaxcifar.run_files import History, Row, RunError, RunFiles
from jaxcifar.stage import begin_stage, check_stages
from jaxcifar.state import TrainState, all_finite, init_state, start_state, state_shapes
from jaxcifar.steps import make_eval_step
from jaxcifar.transfer import starting_weights

OnEpoch = Callable[[Row], None]
Start = tuple[dict[str, Any], LoadReport]  # see `transfer.starting_weights`
_BN_SAID = {"batch": "of each batch, still moving", "frozen": "frozen, too"}


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
        "validation_accuracy" (None in epochs that `validate_every` leaves out), "seconds" (of
        training, and of caching features where that was done), "validation_seconds",
        "images_per_second" (of training) and, where the recipe asks for it, "gradient_norm" (over
        what is trained). Losses are in nats, accuracies fractions.

    Raises:
        RunError: `workdir` holds something that may not be overwritten, or nothing to resume, or
            another process is writing it.
        CheckpointError: a checkpoint cannot be written, or all that a run had are damaged.
        WeightsError, FeatureError: the recipe's weights cannot be had or do not fit, or its cached
            features are too large; nothing has been written.
        FloatingPointError: the loss, the weights or the statistics are no longer finite.
    """
    name = experiment or recipe.dataset
    check_splits(recipe, splits)
    check_stages(recipe, splits)
    # Before the directory is touched: weights that do not fit leave everything as it was.
    files = None if workdir is None else RunFiles(Path(workdir))
    if files is not None:
        _check_origin(files, recipe)
    start = None if recipe.weights is None or resume else starting_weights(recipe)

    schedule, history, stage = recipe.make_schedule(), History(), None
    with (
        _own_run(files, recipe, splits, name, start, resume=resume, overwrite=overwrite),
        Checkpoints(files.checkpoints) if files else nullcontext() as checkpoints,
    ):
        # The state: new, or where an earlier process left it.
        if resume and checkpoints is not None:
            checkpoints.set_damaged_aside()
        if resume and checkpoints is not None and checkpoints.steps():
            state = restore_state(recipe, checkpoints)
        else:
            state = first_state(recipe, start, files)
        if resume and files is not None:
            history = files.keep_history(int(state.step))
        first_epoch = int(state.step) // recipe.steps_per_epoch + 1
        if verbose:
            _print_opening(recipe, splits, state, start, first_epoch, files)

        for epoch in range(first_epoch, recipe.epochs + 1):
            caching_seconds = 0.0
            if stage is None or epoch > stage.last_epoch:
                stage = None  # what it kept on the device goes before the next one's data come
                stage, state = begin_stage(recipe, splits, state, epoch, verbose=verbose)
                caching_seconds = stage.caching_seconds
            begun = time.perf_counter()
            with ProgressBar(f"epoch {epoch}/{recipe.epochs}", len(splits.train), verbose) as bar:
                state, sums = stage.train(state, bar.advance)
                trained = metrics.compute(sums)
            seconds = time.perf_counter() - begun
            check_finite(trained["loss"], epoch, state, schedule, files)

            begun = time.perf_counter()
            validated: dict[str, float | None] = {"loss": None, "accuracy": None}
            if recipe.validates(epoch):
                with ProgressBar("  validate", len(splits.validation), verbose) as bar:
                    validated |= metrics.compute(stage.validate(state, bar.advance))
            row = make_row(
                recipe,
                int(state.step),
                sums,
                validated,
                seconds=seconds + caching_seconds,
                validation_seconds=time.perf_counter() - begun,
            )
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
            test = make_evaluation(
                make_eval_step(recipe.make_model(), normalize=recipe.make_preprocess()),
                size=len(splits.test),
                batch_size=recipe.eval_batch_size,
            )
            test_data = to_device(splits.test)
            steps = {which: checkpoints.find(which) for which in ("best", "last")}
            scores = {}
            for step in set(steps.values()):  # often it is one
                variables = checkpoints.restore_weights(state.variables, step)
                with ProgressBar(f"test, step {step}", len(splits.test), verbose) as bar:
                    sums = test.run(variables, test_data, bar.advance)
                scores[step] = {
                    "step": step,
                    "validation_accuracy": checkpoints.validation_accuracy(step),
                    "test": metrics.compute(sums),
                }
            save_figure(plot_curves(history, title=name), files.figures / "curves.png")
            summary = _summarize(recipe, name, state, history, files)
            files.write_summary(summary | {which: scores[step] for which, step in steps.items()})
    if verbose and files is not None:
        _print_closing(files)
    return state, history


def make_row(
    recipe: Recipe,
    step: int,
    sums: Metrics,
    validated: Mapping[str, float | None],
    *,
    seconds: float,
    validation_seconds: float,
) -> Row:
    """An epoch's row of the history, see `fit`.

    Args:
        step: at the epoch's end.
        sums: of the epoch, as it trained.
        validated: "loss" and "accuracy".
        seconds: of training, and of caching features.
        validation_seconds: of validation.
    """
    trained = metrics.compute(sums)
    row = {
        "epoch": step // recipe.steps_per_epoch,
        "step": step,
        "learning_rate": float(recipe.make_schedule()(step - 1)),
        "train_loss": trained["loss"],
        "train_accuracy": trained["accuracy"],
        "validation_loss": validated["loss"],
        "validation_accuracy": validated["accuracy"],
        "seconds": seconds,
        "validation_seconds": validation_seconds,
        "images_per_second": recipe.split_sizes[0] / seconds,
    }
    if recipe.log_gradient_norm:
        row["gradient_norm"] = metrics.mean_gradient_norm(sums)
    return row


def check_splits(recipe: Recipe, splits: Splits) -> None:
    """Refuse data that are not those of the recipe.

    Raises:
        ValueError: saying what was given and what is wanted.
    """
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


@contextmanager
def _own_run(
    files: RunFiles | None,
    recipe: Recipe,
    splits: Splits,
    name: str,
    start: Start | None,
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[None]:
    """`open_run`, and no other process writes the run until the end."""
    if files is None:
        yield
        return
    # Before the lock, which is a file: a directory of somebody else's stays as it is.
    if resume:
        files.read_config()
    else:
        files.check_free(overwrite=overwrite)
    with files.lock():
        open_run(files, recipe, splits, name, start, resume=resume, overwrite=overwrite)
        yield


def open_run(
    files: RunFiles,
    recipe: Recipe,
    splits: Splits,
    name: str,
    start: Start | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make the run directory, or check that the run in it can go on by this recipe.

    Raises:
        RunError: it cannot be written, or holds another run.
    """
    if resume and overwrite:
        raise RunError("resume and overwrite exclude each other: continue the run or replace it")
    config = {
        "experiment": name,
        "recipe": recipe.to_dict(),
        "data_fingerprint": splits.fingerprint,
        "weights": None if start is None else start[1].to_dict(),
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
        files.write_config(config | {"weights": begun.get("weights")})


def _check_origin(files: RunFiles, recipe: Recipe) -> None:
    """A run that begins from another must not replace it."""
    if recipe.weights is not None and Path(recipe.weights).resolve() == files.path.resolve():
        raise RunError(
            f"{files.path} is the run that the weights come from: choose another --workdir"
        )


def first_state(recipe: Recipe, start: Start | None, files: RunFiles | None) -> TrainState:
    """The state before the first step: random, or from the weights the recipe names."""
    tx = recipe.make_optimizer()
    if recipe.weights is None:
        return init_state(recipe.make_model(), tx, seed=recipe.seed, image_size=recipe.image_size)
    variables, report = start or starting_weights(recipe)
    begun = None if files is None else files.read_config().get("weights")
    if begun is not None and begun["sha256"] != report.sha256:
        raise RunError(f"{recipe.weights} is no longer the file that the run was begun from")
    return start_state(variables, tx, seed=recipe.seed)


def restore_state(recipe: Recipe, checkpoints: Checkpoints) -> TrainState:
    """The last checkpoint's state; its optimizer is that of what was trained then."""
    step = checkpoints.find("last")
    tx = recipe.make_optimizer(max(1, step // recipe.steps_per_epoch))
    shapes = state_shapes(recipe.make_model(), tx, image_size=recipe.image_size)
    return checkpoints.restore_state(shapes, step)


def check_finite(
    loss: float, epoch: int, state: TrainState, schedule: optax.Schedule, files: RunFiles | None
) -> None:
    """Refuse to go on from numbers that are no longer finite.

    Raises:
        FloatingPointError: saying where the run stands and what may help.
    """
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


def _summarize(
    recipe: Recipe, name: str, state: TrainState, history: History, files: RunFiles
) -> dict[str, Any]:
    """The summary, but for the scores of its checkpoints."""
    trained, _ = split_params(state.params, recipe.make_labels(recipe.epochs))
    return {
        "experiment": name,
        "epochs": recipe.epochs,
        "parameters": count_params(state.params),
        "trainable_parameters": count_params(trained),
        "weights": files.read_config().get("weights"),
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
    start: Start | None,
    first_epoch: int,
    files: RunFiles | None,
) -> None:
    machine = describe_machine()
    print(
        f"{recipe.architecture} on {splits.name}: {len(splits.train):,} train, "
        f"{len(splits.validation):,} validation, {len(splits.test):,} test images; "
        f"{machine['device']} ({machine['cores']} cores, JAX {machine['versions']['jax']})"
    )
    if start is not None:
        print(start[1])
    if first_epoch == 1:
        labels = None if recipe.freeze == "none" else recipe.make_labels()
        print(summarize(state.params, labels))
        if labels is not None:
            print(f"BatchNorm of frozen modules: statistics {_BN_SAID[recipe.bn]}", flush=True)
    elif files is not None and _is_complete(files, recipe):
        print(f"{files.path} is complete: {recipe.epochs} epochs; --overwrite trains it again")
    elif files is not None:
        print(f"resuming {files.path} after epoch {first_epoch - 1} of {recipe.epochs}", flush=True)


def _epoch_line(history: History, epochs: int) -> str:
    row = history.rows[-1]
    validated = " " * len("  validation 0.0000 0.0000 best")
    if row["validation_accuracy"] is not None:
        accuracies = history.validated().column("validation_accuracy")
        validated = (
            f"  validation {row['validation_loss']:.4f} {row['validation_accuracy']:.4f}"
            f"{' best' if accuracies[-1] >= max(accuracies) else '     '}"
        )
    recent = history.rows[-3:]
    a_epoch = sum(r["seconds"] + r["validation_seconds"] for r in recent) / len(recent)
    return (
        f"epoch {row['epoch']:>3}/{epochs}"
        f"  train {row['train_loss']:.4f} {row['train_accuracy']:.4f}"
        f"{validated}"
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
