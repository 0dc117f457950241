"""A stage of a run: the epochs in which the same leaves are trained, and its compiled programs.

Most runs have one. Where something thaws later on, each stage has an optimizer and programs of its
own, and the state is carried over.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax

from jaxcifar.augment import Augment
from jaxcifar.data import Splits
from jaxcifar.epoch import Data, Evaluation, make_evaluation, make_train_epoch
from jaxcifar.evaluation import to_device
from jaxcifar.features import cache_features, check_memory, cut_point
from jaxcifar.metrics import Metrics
from jaxcifar.optim import carry_over
from jaxcifar.recipe import Recipe
from jaxcifar.state import TrainState, state_shapes
from jaxcifar.steps import TrainStep, make_eval_step, make_train_step


class Stage(NamedTuple):
    """Compiled and with its data on the device: nothing is left to do but train."""

    last_epoch: int
    train: Callable[..., tuple[TrainState, Metrics]]  # (state, on_progress=None), donates the state
    validate: Callable[..., Metrics]  # (state, on_progress=None)
    caching_seconds: float  # spent on the features of a frozen prefix, compiling included


class StageData(NamedTuple):
    """On the device."""

    train: Data
    validation: Data
    cut: str | None  # the data are what this child of the network put out, or images
    seconds: float  # spent on caching features, compiling included


def check_stages(recipe: Recipe, splits: Splits) -> None:
    """Refuse a run whose cached features would not fit, before anything is spent on it.

    Raises:
        FeatureError: naming what they need and what there is.
    """
    epoch = 1
    while recipe.cache_features and epoch <= recipe.epochs:
        _, last_epoch = recipe.stage_of(epoch)
        model = recipe.make_model(epoch)
        cut = cut_point(model, recipe.make_labels(epoch))
        if cut is not None:
            shapes = state_shapes(model, recipe.make_optimizer(epoch), image_size=recipe.image_size)
            images = _views(recipe) * len(splits.train) + len(splits.validation)
            check_memory(model, shapes.variables, cut, images=images, image_size=recipe.image_size)
        epoch = last_epoch + 1


def begin_stage(
    recipe: Recipe, splits: Splits, state: TrainState, epoch: int, *, verbose: bool = False
) -> tuple[Stage, TrainState]:
    """Build and compile the stage that `epoch` lies in, and bring the state into it.

    The state is donated: use the returned one.
    """
    _, last_epoch = recipe.stage_of(epoch)
    tx = recipe.make_optimizer(epoch)
    data = stage_data(recipe, splits, state, epoch, verbose=verbose)

    begun = time.perf_counter()
    train_step, augment = stage_step(recipe, epoch, data.cut)
    train_epoch = make_train_epoch(
        train_step,
        size=len(splits.train),
        batch_size=recipe.batch_size,
        augment=augment,
        views=stored_views(recipe),
    )
    evaluation = stage_evaluation(recipe, epoch, data)
    fresh = jax.eval_shape(tx.init, state.params)
    thaws = jax.tree.structure(fresh) != jax.tree.structure(state.opt_state)  # type: ignore[operator]
    if thaws:
        opt_state = carry_over(state.opt_state, jax.jit(tx.init)(state.params))
        state = replace(state, opt_state=opt_state)
    state = train_epoch.compile(state, data.train)
    evaluation.compile(state.variables, data.validation)
    if verbose:
        print(f"compiled in {time.perf_counter() - begun:.1f} s", flush=True)
    return Stage(
        last_epoch,
        lambda state, on_progress=None: train_epoch.run(state, data.train, on_progress),
        lambda state, on_progress=None: evaluation.run(
            state.variables, data.validation, on_progress
        ),
        data.seconds,
    ), state


def stage_data(
    recipe: Recipe, splits: Splits, state: TrainState, epoch: int, *, verbose: bool = False
) -> StageData:
    """What the stage trains and validates on: images, or features where the recipe caches them."""
    model, preprocess = recipe.make_model(epoch), recipe.make_preprocess()
    train, validation = to_device(splits.train), to_device(splits.validation)
    cut = cut_point(model, recipe.make_labels(epoch)) if recipe.cache_features else None
    if cut is None:
        return StageData(train, validation, None, 0.0)
    if verbose:
        print(f"caching the features after {cut}", flush=True)
    begun = time.perf_counter()
    # Not by the recipe's eval_batch_size: that may change on resuming, and these may not.
    train = cache_features(
        model,
        state.variables,
        train,
        cut,
        normalize=preprocess,
        augment=recipe.make_augment(),
        views=_views(recipe),
        key=state.key,
    )
    validation = cache_features(model, state.variables, validation, cut, normalize=preprocess)
    seconds = time.perf_counter() - begun
    if verbose:
        print(f"cached in {seconds:.1f} s")
    return StageData(train, validation, cut, seconds)


def stage_step(recipe: Recipe, epoch: int, cut: str | None) -> tuple[TrainStep, Augment | None]:
    """The stage's train step, and the augmentation that comes before it."""
    step = make_train_step(
        recipe.make_model(epoch),
        recipe.make_optimizer(epoch),
        normalize=recipe.make_preprocess(),
        label_smoothing=recipe.label_smoothing,
        labels=recipe.make_labels(epoch),
        start=cut,
        log_gradient_norm=recipe.log_gradient_norm,
    )
    return step, recipe.make_augment() if cut is None else None


def stage_evaluation(recipe: Recipe, epoch: int, data: StageData) -> Evaluation:
    """The scoring of the stage's validation data."""
    return make_evaluation(
        make_eval_step(
            recipe.make_model(epoch), normalize=recipe.make_preprocess(), start=data.cut
        ),
        size=len(data.validation["label"]),
        batch_size=recipe.eval_batch_size,
    )


def stored_views(recipe: Recipe) -> int | None:
    """How many augmentations of an image there are, or None where each epoch has a new one."""
    return None if recipe.views is None else _views(recipe)


def _views(recipe: Recipe) -> int:
    """Stored augmentations of an image; a run has no use for more than its epochs."""
    return min(recipe.views or 1, recipe.epochs)
