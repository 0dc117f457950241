"""The spine: a run from its recipe to its figures. Read it from `fit` down."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from jaxcifar.data import Splits
from jaxcifar.devices.processes import DeviceOptions, explain_lost_process, make_layout
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History, Row
from jaxcifar.runs.opening import _check_origin, own_run
from jaxcifar.runs.transfer import starting_weights
from jaxcifar.step import metrics
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import make_eval_step
from jaxcifar.training.console import _epoch_line, _print_closing, _print_opening
from jaxcifar.training.evaluation import make_scoring, to_device
from jaxcifar.training.interruption import watch_signals
from jaxcifar.training.plan import check_splits, check_stages, choose_input
from jaxcifar.training.progress import ProgressBar
from jaxcifar.training.run import (
    PartialEpoch,
    StopEarly,
    _is_complete,
    _summarize,
    check_finite,
    make_allow,
    make_row,
    or_stop,
    stop,
)
from jaxcifar.training.stage import begin_stage
from jaxcifar.training.start import begin

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
    files = None if workdir is None else RunDirectory(Path(workdir))
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

        allow = make_allow(layout, interruption)
        for epoch in range(part.epoch, recipe.epochs + 1):
            if epoch != part.epoch:
                part = PartialEpoch(epoch)
            if allow(1) == 0:
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
                    state, sums = stage.train(state, bar.advance, sums=part.sums, allow=allow)
                part = part.later(time.perf_counter() - begun, sums)
            check_finite(part, state, schedule, recipe, checkpoints)
            if int(state.step) < end:
                stop(interruption, recipe, state, part, checkpoints)

            begun = time.perf_counter()
            validated: dict[str, float | None] = {"loss": None, "accuracy": None}
            if recipe.validates(epoch):
                try:
                    with ProgressBar("  validate", len(splits.validation), verbose) as bar:
                        sums = stage.validate(state, bar.advance, allow=or_stop(allow))
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
                        sums = test.run(variables, test_data, bar.advance, allow=or_stop(allow))
                except StopEarly:
                    stop(interruption, recipe, state, PartialEpoch(recipe.epochs + 1), checkpoints)
                scores[step] = {
                    "step": step,
                    "validation_accuracy": checkpoints.validation_accuracy(step),
                    "test": metrics.compute(sums),
                }
            if layout.is_main:
                # Only here: matplotlib takes 0.4 s to import, a tenth of a warm start.
                from jaxcifar.common.figure import save_figure
                from jaxcifar.runs.curves import plot_curves

                save_figure(plot_curves(history, title=name), files.figures / "curves.png")
                summary = _summarize(recipe, name, state, history, files)
                files.write_summary(
                    summary | {which: scores[step] for which, step in steps.items()}
                )
    if verbose and files is not None:
        _print_closing(files)
    return state, history
