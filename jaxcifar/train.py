"""The spine: a run from its recipe to its figures. Read it from `fit` down."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import optax
from jax.sharding import Sharding

from jaxcifar import metrics
from jaxcifar.checkpoint import CheckpointError, Checkpoints
from jaxcifar.data import Splits
from jaxcifar.epoch import Pace
from jaxcifar.evaluation import make_scoring, to_device
from jaxcifar.hardware import describe_machine
from jaxcifar.initial import make_adjust
from jaxcifar.interruption import Interrupted, Interruption, watch_signals
from jaxcifar.metrics import Metrics
from jaxcifar.parallel import DeviceOptions, Input, Layout, explain_lost_process, make_layout
from jaxcifar.partition import count_params, split_params, summarize
from jaxcifar.pretrained import LoadReport
from jaxcifar.progress import ProgressBar, duration
from jaxcifar.recipe import Recipe, read_recipe
from jaxcifar.run_files import History, Row, RunError, RunFiles
from jaxcifar.stage import begin_stage, check_stages, choose_input
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
    devices: DeviceOptions | None = None,
) -> tuple[TrainState, History]:
    """Train by a recipe.

    Args:
        recipe: every setting.
        splits: the data, from `data.load_dataset`, of the sizes the recipe says.
        workdir: the run directory; without one nothing is written.
        on_epoch: called after every epoch with its row of metrics.
        experiment: a name for titles and config.json.
        resume: go on from the last good checkpoint in `workdir`, in the middle of an epoch if it
            was saved there; on a CPU the final state is bit-identical to an uninterrupted run's.
        overwrite: replace the run that `workdir` holds.
        verbose: print a line an epoch and, on a terminal, draw progress bars.
        devices: what runs where, see `parallel.DeviceOptions`; by default on all devices that
            divide the batch. Of several processes all call `fit`, and the first one writes.

    Returns:
        The state after the last epoch, and the history: for each epoch "epoch" (from 1), "step"
        (taken in all), "learning_rate" (of the epoch's last step), "train_loss" and
        "train_accuracy" (means over the epoch, as it trained), "validation_loss",
        "validation_accuracy" (None in epochs that `validate_every` leaves out), "seconds" (of
        training, and of caching features where that was done), "validation_seconds",
        "images_per_second" (of training) and, where the recipe asks for it, "gradient_norm" (over
        what is trained) and "skipped_steps". Losses are in nats, accuracies fractions.

    Raises:
        RunError: `workdir` holds something that may not be overwritten, or nothing to resume, or
            is in use.
        WeightsError, FeatureError, DeviceError: the recipe's weights cannot be had or do not fit,
            its cached features are too large, or the devices are not there; nothing has been
            written. A DeviceError later on: another process of the run is gone.
        CheckpointError: one cannot be written; the ones before are intact.
        FloatingPointError: logits, gradients, weights or statistics are no longer finite.
        Interrupted: SIGINT or SIGTERM came (in the main thread); what was done is saved.
    """
    name = experiment or recipe.dataset
    devices = devices or DeviceOptions()
    check_splits(recipe, splits)
    layout = make_layout(devices, recipe.batch_size)
    place = choose_input(recipe, splits, devices.input, layout)
    check_stages(recipe, splits, layout)
    verbose = verbose and layout.is_main
    # Before the directory is touched: weights that do not fit leave everything as it was.
    files = None if workdir is None else RunFiles(Path(workdir))
    if files is not None:
        _check_origin(files, recipe)
    start = None if recipe.weights is None or resume else starting_weights(recipe)

    schedule, stage = recipe.make_schedule(), None
    with ExitStack() as opened:
        opened.enter_context(explain_lost_process())
        interruption = opened.enter_context(watch_signals(announce=layout.is_main))
        checkpoints = None
        if files is not None:
            layout.on_main(
                lambda: opened.enter_context(
                    own_run(files, recipe, splits, name, start, resume=resume, overwrite=overwrite)
                )
            )
            checkpoints = opened.enter_context(Checkpoints(files.checkpoints))
            if resume:
                layout.on_main(checkpoints.set_damaged_aside)
        # The state: new, or where an earlier process left it, perhaps in the middle of an epoch.
        state, part = begin(recipe, splits, start, files, checkpoints, layout, resume=resume)
        history = History()
        if resume and files is not None:
            layout.on_main(partial(files.keep_history, part.complete_steps(recipe)))
            history = files.read_history()
        if verbose:
            _print_opening(recipe, splits, state, start, part, files, layout, place)

        pace = make_pace(layout, interruption)
        for epoch in range(part.epoch, recipe.epochs + 1):
            if epoch != part.epoch:
                part = EpochPart(epoch)
            if pace(1) == 0:
                stop(interruption, recipe, state, part, checkpoints)
            if stage is None or epoch > stage.last_epoch:
                stage = None  # what it kept on the device goes before the next one's data come
                stage, state = begin_stage(
                    recipe, splits, state, epoch, layout=layout, input=place, verbose=verbose
                )
                part = part.later(stage.caching_seconds)
            end = epoch * recipe.steps_per_epoch
            if int(state.step) < end:
                begun = time.perf_counter()
                label = f"epoch {epoch}/{recipe.epochs}"
                with ProgressBar(label, len(splits.train), verbose) as bar:
                    state, sums = stage.train(state, bar.advance, sums=part.sums, pace=pace)
                part = part.later(time.perf_counter() - begun, sums)
            check_finite(part, state, schedule, recipe, checkpoints)
            if int(state.step) < end:
                stop(interruption, recipe, state, part, checkpoints)

            begun = time.perf_counter()
            validated: dict[str, float | None] = {"loss": None, "accuracy": None}
            if recipe.validates(epoch):
                try:
                    with ProgressBar("  validate", len(splits.validation), verbose) as bar:
                        sums = stage.validate(state, bar.advance, pace=or_stop(pace))
                except StopEarly:
                    stop(interruption, recipe, state, part, checkpoints)
                validated |= metrics.compute(sums)
            row = make_row(
                recipe,
                int(state.step),
                part.known_sums,
                validated,
                seconds=part.seconds,
                validation_seconds=time.perf_counter() - begun,
            )
            history.rows.append(row)
            if files is not None and checkpoints is not None:
                # The row first: a crash between the two leaves a row too many, which resuming
                # drops, and never one too few.
                layout.on_main(partial(files.append_row, row))
                checkpoints.save(state, validation_accuracy=validated["accuracy"])
            if verbose:
                print(_epoch_line(history, recipe.epochs), flush=True)
            if on_epoch is not None:
                on_epoch(row)

        if files is not None and checkpoints is not None and not _is_complete(files, recipe):
            checkpoints.wait()
            streamed = place == "stream"
            test = make_scoring(
                make_eval_step(
                    recipe.make_model(),
                    normalize=recipe.make_preprocess(),
                    mirror=recipe.test_mirror,
                ),
                splits.test,
                batch_size=recipe.eval_batch_size,
                streamed=streamed,
                layout=layout,
            )
            test_data = {} if streamed else to_device(splits.test, layout)
            # The first process deletes what is superfluous: what it finds is there.
            found = [checkpoints.find(which) if layout.is_main else 0 for which in ("best", "last")]
            steps = dict(zip(("best", "last"), layout.agree(*found)[0], strict=True))
            scores = {}
            for step in set(steps.values()):  # often it is one
                variables = checkpoints.restore_weights(
                    state.variables, step, sharding=layout.replicated
                )
                try:
                    with ProgressBar(f"test, step {step}", len(splits.test), verbose) as bar:
                        sums = test.run(variables, test_data, bar.advance, pace=or_stop(pace))
                except StopEarly:
                    stop(interruption, recipe, state, EpochPart(recipe.epochs + 1), checkpoints)
                scores[step] = {
                    "step": step,
                    "validation_accuracy": checkpoints.validation_accuracy(step),
                    "test": metrics.compute(sums),
                }
            if layout.is_main:
                # Only here: matplotlib takes 0.4 s to import, a tenth of a warm start.
                from jaxcifar.plots import plot_curves, save_figure

                save_figure(plot_curves(history, title=name), files.figures / "curves.png")
                summary = _summarize(recipe, name, state, history, files)
                files.write_summary(
                    summary | {which: scores[step] for which, step in steps.items()}
                )
    if verbose and files is not None:
        _print_closing(files)
    return state, history


@dataclass(frozen=True)
class EpochPart:
    """What has been done of an epoch: what a checkpoint in its middle holds besides the state."""

    epoch: int
    sums: Metrics | None = None
    seconds: float = 0.0

    def later(self, seconds: float, sums: Metrics | None = None) -> "EpochPart":
        """So much time later, with the sums up to there."""
        return EpochPart(self.epoch, self.sums if sums is None else sums, self.seconds + seconds)

    @property
    def known_sums(self) -> Metrics:
        """The sums of an epoch that has begun."""
        assert self.sums is not None
        return self.sums

    def complete_steps(self, recipe: Recipe) -> int:
        """The steps of the epochs before this one, which alone have their rows."""
        return (self.epoch - 1) * recipe.steps_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain values; float32 and int32 survive JSON exactly."""
        sums = {name: value.item() for name, value in jax.device_get(self.known_sums).items()}
        return {"epoch": self.epoch, "sums": sums, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EpochPart":
        """What `to_dict` made."""
        zeros, stored = metrics.zeros(), values["sums"]
        sums = jax.tree.map(lambda zero, value: np.asarray(value, zero.dtype), zeros, stored)
        return cls(int(values["epoch"]), sums, float(values["seconds"]))


def begin(
    recipe: Recipe,
    splits: Splits,
    start: Start | None,
    files: RunFiles | None,
    checkpoints: Checkpoints | None,
    layout: Layout,
    *,
    resume: bool,
) -> tuple[TrainState, EpochPart]:
    """The state to go on from, on every device, and the part of its epoch that is done."""
    if not resume or checkpoints is None or not checkpoints.steps():
        if resume and files is not None:
            check_not_lost(files)
        return layout.replicate(first_state(recipe, start, files, splits)), EpochPart(1)
    step = checkpoints.find("last")
    state = restore_state(recipe, checkpoints, layout.replicated)
    progress = checkpoints.progress(step)
    if progress is None:
        return state, EpochPart(step // recipe.steps_per_epoch + 1)
    part = EpochPart.from_dict(progress)
    return state, replace(part, sums=layout.replicate(part.sums))


def check_not_lost(files: RunFiles) -> None:
    """Refuse to begin anew silently where there must have been checkpoints.

    A run killed early leaves two rows and none: the second is noted before the first is complete.

    Raises:
        CheckpointError: naming the way out.
    """
    rows = len(files.read_history().rows)
    if rows > 2 or files.read_summary() is not None:
        raise CheckpointError(
            f"{files.path} has trained {rows} epochs, and {files.checkpoints} holds no checkpoint: "
            "put it back, or begin anew with --overwrite"
        )


def make_pace(layout: Layout, interruption: Interruption) -> Pace:
    """Build the pace of the first process, until any of them hears a signal."""

    def pace(count: int) -> int:
        said = layout.agree(count, interruption.signal_number)
        # Kept apart from what this process has heard, which may have come meanwhile.
        interruption.agreed = max(number for _, number in said)
        return 0 if interruption.agreed else said[0][0]

    return pace


def or_stop(pace: Pace) -> Pace:
    """The pace that raises where the other one stops."""

    def pace_or_stop(count: int) -> int:
        allowed = pace(count)
        if allowed == 0:
            raise StopEarly
        return allowed

    return pace_or_stop


class StopEarly(Exception):
    """Validation was interrupted."""


def stop(
    interruption: Interruption,
    recipe: Recipe,
    state: TrainState,
    part: EpochPart,
    checkpoints: Checkpoints | None,
) -> NoReturn:
    """Save what is done of the epoch and end the run.

    Raises:
        Interrupted: always.
    """
    step, number = int(state.step), interruption.agreed
    doing = f"in epoch {part.epoch}" if part.epoch <= recipe.epochs else "scoring the test images"
    where = f"{signal.Signals(number).name} {doing}, after step {step}"
    if checkpoints is None:
        raise Interrupted(f"{where}; nothing was saved, for want of a run directory", number)
    if step == 0:
        raise Interrupted(f"{where}: nothing was trained yet; --resume begins", number)
    if step > part.complete_steps(recipe):
        checkpoints.save(state, validation_accuracy=None, progress=part.to_dict())
    checkpoints.wait()
    raise Interrupted(f"{where}, which is saved; --resume goes on from there", number)


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
    if recipe.on_nonfinite == "skip":
        row["skipped_steps"] = int(sums["nonfinite"])
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
def own_run(
    files: RunFiles,
    recipe: Recipe,
    splits: Splits,
    name: str,
    start: Start | None,
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[None]:
    """`open_run`, and no other process writes the run until the end."""
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
    # More epochs are welcome where that leaves what was done in the epochs done as it was.
    longer = (
        recipe.epochs > before.epochs
        and (recipe.t_max or recipe.schedule == "constant")
        and recipe.lookahead_steps is None  # whose periods are counted from the run's end
    )
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
    # Not Path.resolve, which raises a RuntimeError at a loop of links.
    if recipe.weights is not None and os.path.realpath(recipe.weights) == os.path.realpath(
        files.path
    ):
        raise RunError(
            f"{files.path} is the run that the weights come from: choose another --workdir"
        )


def first_state(
    recipe: Recipe, start: Start | None, files: RunFiles | None, splits: Splits
) -> TrainState:
    """The state before the first step: random, or from the weights the recipe names."""
    tx = recipe.make_optimizer()
    if recipe.weights is None:
        return init_state(
            recipe.make_model(),
            tx,
            seed=recipe.seed,
            image_size=recipe.image_size,
            adjust=make_adjust(
                recipe.init, splits.train if recipe.whiten else None, recipe.make_preprocess()
            ),
        )
    variables, report = start or starting_weights(recipe)
    begun = None if files is None else files.read_config().get("weights")
    if begun is not None and begun["sha256"] != report.sha256:
        raise RunError(f"{recipe.weights} is no longer the file that the run was begun from")
    return start_state(variables, tx, seed=recipe.seed)


def restore_state(
    recipe: Recipe, checkpoints: Checkpoints, sharding: Sharding | None = None
) -> TrainState:
    """The last checkpoint's state; its optimizer is that of what was trained then."""
    step = checkpoints.find("last")
    tx = recipe.make_optimizer(max(1, -(-step // recipe.steps_per_epoch)))
    shapes = state_shapes(recipe.make_model(), tx, image_size=recipe.image_size)
    return checkpoints.restore_state(shapes, step, sharding=sharding)


def check_finite(
    part: EpochPart,
    state: TrainState,
    schedule: optax.Schedule,
    recipe: Recipe,
    checkpoints: Checkpoints | None,
) -> None:
    """Refuse to go on from numbers that are no longer finite.

    Raises:
        FloatingPointError: saying what it was, where, and what may help.
    """
    step, sums = int(state.step), jax.device_get(part.known_sums)
    skipped = recipe.on_nonfinite == "skip"
    found = [] if skipped else metrics.nonfinite_names(sums)
    ended = step == part.epoch * recipe.steps_per_epoch
    if skipped and ended and int(sums["count"]) == 0:
        found = ["numbers of every step of the epoch"]
    elif not found and not all_finite(state.variables):
        found = ["weights"]
    if not found:
        return
    saved = []
    if checkpoints is not None:
        checkpoints.wait()
        saved = checkpoints.steps()
    kept = f"; the last good checkpoint is that of step {saved[-1]}" if saved else ""
    advice = "try a lower learning rate, a warm-up or --clip-norm"
    if not skipped and found != ["weights"]:
        advice += ", or skip such steps by --on-nonfinite skip"
    raise FloatingPointError(
        f"the {', '.join(found)} are not finite after step {step} (epoch {part.epoch}, learning "
        f"rate {float(schedule(step - 1)):.3g}){kept}: {advice}"
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
    part: EpochPart,
    files: RunFiles | None,
    layout: Layout,
    place: Input,
) -> None:
    machine = describe_machine()
    print(
        f"{recipe.architecture} on {splits.name}: {len(splits.train):,} train, "
        f"{len(splits.validation):,} validation, {len(splits.test):,} test images; "
        f"{machine['device']} ({machine['cores']} cores, JAX {machine['versions']['jax']})"
    )
    if layout.size > 1 or place == "stream":
        images = "read from the host" if place == "stream" else "on the devices"
        print(f"{layout.describe()}; images {images}")
    if start is not None:
        print(start[1])
    if part.epoch == 1 and part.sums is None:
        labels = None if recipe.freeze == "none" else recipe.make_labels()
        print(summarize(state.params, labels))
        if labels is not None:
            print(f"BatchNorm of frozen modules: statistics {_BN_SAID[recipe.bn]}", flush=True)
    elif files is not None and _is_complete(files, recipe):
        print(f"{files.path} is complete: {recipe.epochs} epochs; --overwrite trains it again")
    elif files is not None:
        where = f"after epoch {part.epoch - 1}"
        if part.sums is not None:
            done = int(state.step) - part.complete_steps(recipe)
            where = f"in epoch {part.epoch}, after {done} of its {recipe.steps_per_epoch} steps"
        print(f"resuming {files.path} {where}, of {recipe.epochs} epochs", flush=True)


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
