"""The spine: a run from its recipe to its figures. Read `fit` from top to bottom."""

from collections.abc import Callable, Mapping
from pathlib import Path

import flax.linen as nn

from jaxcifar.data import Splits
from jaxcifar.devices.processes import DeviceOptions
from jaxcifar.recipes.parts import Transformation, make_parts
from jaxcifar.recipes.recipe import Recipe, check_is_recipe
from jaxcifar.runs.history import History, Row
from jaxcifar.step.metrics import ExampleMetric
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import BatchAugment, Loss
from jaxcifar.training.console import Console
from jaxcifar.training.plan import plan_run
from jaxcifar.training.resume import Resume, decide, name_of_run
from jaxcifar.training.run import open_run

OnEpoch = Callable[[Row], str | None]


def fit(
    recipe: Recipe,
    splits: Splits,
    *,
    workdir: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
    experiment: str | None = None,
    resume: Resume = False,
    overwrite: bool = False,
    verbose: bool = False,
    devices: DeviceOptions | None = None,
    model: nn.Module | None = None,
    tx: Transformation | None = None,
    loss: Loss | None = None,
    augment: BatchAugment | None = None,
    metrics: Mapping[str, ExampleMetric] | None = None,
) -> tuple[TrainState, History]:
    """Train by a recipe, with parts of your own where you give them.

    Args:
        recipe: every setting.
        splits: the data, from `data.load_dataset`, of the sizes the recipe says; or from
            `Splits.from_arrays`, to which the recipe is adapted, see `Recipe.on`.
        workdir: the run directory; without one nothing is written.
        on_epoch: called after every epoch with its row of metrics. It returns None, or "stop" to
            end the run there; of several processes the first one's answer counts.
        experiment: a name for titles and config.json; by default the data's, or, with `resume`, the
            one the run has.
        resume: continue from the last good checkpoint in `workdir`, in the middle of an epoch if it
            was saved there; on a CPU the final state is bit-identical to an uninterrupted run's.
            The recipe may have more epochs or another `patience`; for a schedule that ends with the
            run, `after_schedule` says what follows. "auto" begins where nothing was trained, and
            continues otherwise.
        overwrite: replace the run that `workdir` holds.
        verbose: print a line an epoch and, on a terminal, draw progress bars; in a notebook, too,
            where the curves are shown and grow with the epochs.
        devices: what runs where, see `DeviceOptions`; by default on all devices that divide the
            batch. Of several processes all call `fit`, and the first one writes.
        model: a network of your own: a linen module ``(images, *, train) -> logits``, with
            BatchNorms or without. It gets the recipe's preprocessed images, float32 [n, h, w, 3],
            and returns [n, classes].
        tx: an optax transformation of your own, or a schedule (a function of the step) for the
            recipe's optimizer.
        loss: ``(logits float32 [n, classes], labels int32 [n]) -> [n]``, in training and in
            evaluation; by default the cross-entropy in nats.
        augment: ``(keys [n], images [n, h, w, 3], labels int32 [n]) -> (images, labels)``, after
            the recipe's augmentations and before its preprocessing. The images are uint8, or floats
            in [0, 1] once something made them so. The labels may become distributions
            [n, classes], where images are mixed; then the loss gets distributions, in evaluation
            too.
        metrics: further metrics ``(logits, labels int32 [n]) -> [n]`` by name. They are summed over
            the examples and divided once.

        A run with parts of your own is resumed with all of them, evaluated with its model, loss and
        metrics (`evaluate_run`), and loaded with its model (`load`). What can be compared of them
        is stored in config.json, and compared.

    Returns:
        The state after the last epoch, and the history. Its row for an epoch has "epoch" (from 1),
        "step" (steps so far), "learning_rate" (of the epoch's last step), "train_loss" and
        "train_accuracy" (means over the epoch while it trained), "validation_loss" and
        "validation_accuracy" (None in epochs without validation, see `validate_every`), "seconds"
        (of training, and of caching features), "validation_seconds", "images_per_second" (of
        training) and, where the recipe asks for them, "gradient_norm" (of the trained parameters)
        and "skipped_steps"; for each of `metrics` also "train_NAME" and "validation_NAME". The
        learning rate of a `tx` of your own is not known: None. Losses are in nats, accuracies are
        fractions.

    Raises:
        RecipeError: a part of your own does not fit the data, the recipe or another part.
        RunError: `workdir` holds something that may not be overwritten, or nothing to resume, or
            is in use.
        WeightsError, FeatureError, DeviceError: the recipe's weights are not available or do not
            fit, its cached features are too large, or the devices are not there; nothing has been
            written. A DeviceError later: another process of the run is gone.
        CheckpointError: a checkpoint cannot be written; the earlier ones are intact.
        TypeError: `on_epoch` returned something else; that epoch is saved.
        FloatingPointError: logits, gradients, weights or statistics are no longer finite.
        Interrupted: SIGINT or SIGTERM was received (in the main thread); what was done is saved.

    Example:
        >>> from jaxcifar import Recipe, fit, load_splits
        >>> recipe = Recipe(
        ...     dataset="digits", normalization="half", width=1, resize=8, epochs=1,
        ...     train_size=100, validation_size=50, batch_size=50,
        ... )
        >>> state, history = fit(recipe, load_splits(recipe))
        >>> history.column("step")
        [2]
    """
    # Refuses with nothing written: data, devices, memory, weights.
    check_is_recipe(recipe)
    parts = make_parts(model, tx, loss, augment, metrics)
    recipe, resume = decide(recipe.on(splits), workdir, devices, resume=resume, overwrite=overwrite)
    name = (
        experiment
        or (name_of_run(workdir) if resume and workdir is not None else None)
        or recipe.dataset
    )
    plan = plan_run(recipe, splits, devices, workdir, resume=resume, parts=parts)
    recipe, splits = plan.recipe, plan.splits
    console = Console(plan, enabled=verbose and plan.layout.is_main)
    with console, open_run(plan, name, resume=resume, overwrite=overwrite) as run:
        console.opening(run)
        stage = None
        for epoch in run.remaining_epochs():
            if stage is None or epoch > stage.last_epoch:
                stage = None  # frees its features before the next stage's come
                stage = run.begin_stage(epoch, verbose=console.enabled)
            run.train(stage, console.bar(f"epoch {epoch}/{recipe.epochs}", len(splits.train)))
            validated = run.validate(stage, console.bar("  validate", len(splits.validation)))
            row = run.record(validated)
            console.epoch(run.history)
            run.hear(None if on_epoch is None else on_epoch(row))
        stage = None  # frees its data before the test images come
        run.finish(name, verbose=console.enabled)
    console.closing(run)
    return run.state, run.history
