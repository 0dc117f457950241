"""A stage of a run: the epochs in which the same parameters are trained, compiled and with data.

Most runs have one. Where something thaws later, each stage has an optimizer and programs of its
own, and the state is carried over.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from jaxcifar.common.messages import say
from jaxcifar.data import Splits
from jaxcifar.devices.layout import ONE_DEVICE, Layout
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import StageRecipe, make_stage
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.optimizer import carry_over
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import TrainStep
from jaxcifar.training.epoch import Data, Epoch, Scoring
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.features import cache_features, cut_point
from jaxcifar.training.plan import RunPlan, count_views, stored_views
from jaxcifar.training.resident import Evaluation, TrainEpoch, make_evaluation, make_train_epoch
from jaxcifar.training.streamed import make_streamed_epoch, make_streamed_evaluation


class Stage(NamedTuple):
    """Compiled and with its data at hand: all that is left is training."""

    last_epoch: int
    train: Callable[..., tuple[TrainState, Metrics]]  # see `epoch.Epoch.run`
    validate: Callable[..., Metrics]  # see `epoch.Scoring.run`
    caching_seconds: float  # spent on the features of a frozen prefix, compiling included


class StageData(NamedTuple):
    """A stage's data on the devices."""

    train: Data
    validation: Data
    cut: str | None  # they are the features after this child of the network, or images
    seconds: float  # spent on caching features, compiling included


def begin_stage(
    plan: RunPlan, state: TrainState, epoch: int, *, verbose: bool = False
) -> tuple[Stage, TrainState]:
    """Build and compile the stage that `epoch` lies in, and bring the state into it.

    The state is donated: use the returned one.
    """
    stage = make_stage(plan.recipe, epoch)
    data = None
    if plan.input != "stream":
        data = stage_data(stage, plan.splits, state, layout=plan.layout, verbose=verbose)
    started = time.perf_counter()
    training, scoring = _programs(plan, stage, data)
    fresh = jax.eval_shape(stage.tx.init, state.params)
    thaws = jax.tree.structure(fresh) != jax.tree.structure(state.opt_state)  # type: ignore[operator]
    if thaws:
        opt_state = carry_over(state.opt_state, jax.jit(stage.tx.init)(state.params))
        state = replace(state, opt_state=plan.layout.replicate(opt_state))
    state = training.compile(state)
    scoring.compile(state.variables)
    if verbose:
        say(f"compiled in {time.perf_counter() - started:.1f} s", flush=True)
    seconds = 0.0 if data is None else data.seconds
    return Stage(stage.last_epoch, training.run, scoring.run, seconds), state


def _programs(plan: RunPlan, stage: StageRecipe, data: StageData | None) -> tuple[Epoch, Scoring]:
    """The stage's training and validation, on its data on the devices or read from the host."""
    if data is None:
        return streamed_programs(stage, plan.splits, plan.layout)
    train_epoch, evaluation = resident_programs(
        replace(plan.recipe, seed=0),  # is not in the program: the state holds the run's key
        stage.first_epoch,
        data.cut,
        plan.layout,
        len(plan.splits.train),
        len(plan.splits.validation),
    )
    return train_epoch.over(data.train), evaluation.over(data.validation)


def stage_data(
    stage: StageRecipe,
    splits: Splits,
    state: TrainState,
    *,
    layout: Layout = ONE_DEVICE,
    verbose: bool = False,
) -> StageData:
    """The stage's images on the devices, or their features where the recipe caches them."""
    train, validation = (to_device(split, layout) for split in (splits.train, splits.validation))
    cut = cut_point(stage.model, stage.labels) if stage.recipe.cache_features else None
    if cut is None:
        return StageData(train, validation, None, 0.0)
    if verbose:
        say(f"caching the features after {cut}", flush=True)
    started = time.perf_counter()
    # Not by the recipe's eval_batch_size: that may change on resuming, and these may not.
    train = cache_features(
        stage.model,
        state.variables,
        train,
        cut,
        normalize=stage.preprocess,
        augment=stage.augment,
        views=count_views(stage.recipe),
        key=state.key,
        layout=layout,
        size=len(splits.train),
    )
    validation = cache_features(
        stage.model,
        state.variables,
        validation,
        cut,
        normalize=stage.preprocess,
        layout=layout,
        size=len(splits.validation),
    )
    seconds = time.perf_counter() - started
    if verbose:
        say(f"cached in {seconds:.1f} s")
    return StageData(train, validation, cut, seconds)


@lru_cache(maxsize=4)
def resident_programs(
    recipe: Recipe,
    epoch: int,
    cut: str | None,
    layout: Layout,
    train_size: int,
    validation_size: int,
) -> tuple[TrainEpoch, Evaluation]:
    """The programs over data on the devices.

    Runs that differ only in the seed share them: the later ones of a sweep, or a run that is
    resumed, start without tracing them again.
    """
    stage = make_stage(recipe, epoch)
    return (
        resident_epoch(stage, train_size, cut=cut, layout=layout),
        resident_evaluation(stage, validation_size, cut=cut, layout=layout),
    )


def resident_epoch(
    stage: StageRecipe, size: int, *, cut: str | None = None, layout: Layout = ONE_DEVICE
) -> TrainEpoch:
    """The stage's training on `size` images on the devices, or on their features after `cut`."""
    train_step, settings = _train_settings(stage, cut, layout)
    return make_train_epoch(train_step, size=size, **settings)


def resident_evaluation(
    stage: StageRecipe, size: int, *, cut: str | None = None, layout: Layout = ONE_DEVICE
) -> Evaluation:
    """The scoring of the stage's validation data on the devices."""
    return make_evaluation(
        stage.make_eval_step(cut),
        size=size,
        batch_size=stage.recipe.eval_batch_size,
        layout=layout,
    )


def streamed_programs(
    stage: StageRecipe, splits: Splits, layout: Layout = ONE_DEVICE
) -> tuple[Epoch, Scoring]:
    """The stage's training and validation on images read from the host."""
    train_step, settings = _train_settings(stage, None, layout)
    scoring = make_streamed_evaluation(
        stage.make_eval_step(),
        splits.validation,
        batch_size=stage.recipe.eval_batch_size,
        layout=layout,
    )
    return make_streamed_epoch(train_step, splits.train, **settings), scoring


def _train_settings(
    stage: StageRecipe, cut: str | None, layout: Layout
) -> tuple[TrainStep, dict[str, Any]]:
    """The train step, and the other arguments of an epoch wherever its images come from."""
    axis = layout.axis_name
    return stage.make_train_step(cut), {
        "batch_size": stage.recipe.batch_size,
        "augment": stage.augment if cut is None else None,
        "views": stored_views(stage.recipe),
        "layout": layout,
        "axis_step": None if axis is None else stage.make_train_step(cut, axis_name=axis),
        "stop_at_nonfinite": stage.recipe.on_nonfinite == "stop",
    }
