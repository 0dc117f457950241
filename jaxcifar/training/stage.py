"""A stage of a run: the epochs in which the same parameters are trained, compiled and with data.

Most runs have one. Where something thaws later, or the training images change their side, each
stage has programs of its own. The state is carried over; where something thaws, its optimizer's
state grows.
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
from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.numbers import numbers_of
from jaxcifar.recipes.parts import NO_PARTS, Parts
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import ProgramKey, StageRecipe, make_stage, program_key
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.optimizer import carry_over
from jaxcifar.step.precision import computed_at
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import BatchAugment, TrainStep
from jaxcifar.training.epoch import Build, Data, Epoch, Numbers, Scoring
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.features import cache_features, cut_point
from jaxcifar.training.plan import RunPlan, count_views, stored_views
from jaxcifar.training.resident import (
    Evaluation,
    TrainEpoch,
    make_built_epoch,
    make_evaluation,
)
from jaxcifar.training.streamed import (
    StreamedPrograms,
    StreamedScoring,
    make_streamed_programs,
    make_streamed_scoring,
    score_stream,
    stream,
)

# Of each kind. Eight runs that share no program, with three stages each, have 24 to train and 16 to
# score, and come round again with the next seed.
KEPT_PROGRAMS = 32


class StageData(NamedTuple):
    """A stage's data on the devices."""

    train: Data
    validation: Data
    cut: str | None  # they are the features after this child of the network, or images
    seconds: float  # spent on caching features, compiling included


class Stage(NamedTuple):
    """Compiled and with its data at hand: all that is left is training."""

    last_epoch: int
    train: Callable[..., tuple[TrainState, Metrics]]  # see `epoch.Epoch.run`
    validate: Callable[..., Metrics]  # see `epoch.Scoring.run`
    caching_seconds: float  # spent on the features of a frozen prefix, compiling included
    images: StageData | None  # its data, if later stages train on the same


def begin_stage(
    plan: RunPlan,
    state: TrainState,
    epoch: int,
    *,
    images: StageData | None = None,
    verbose: bool = False,
) -> tuple[Stage, TrainState]:
    """Build and compile the stage that `epoch` lies in, and bring the state into it.

    Args:
        state: donated: use the returned one.
        images: those of the stage before. Where it trained on images, so do all later ones: what
            is frozen only becomes less.
    """
    stage = make_stage(plan.recipe, epoch, plan.parts)
    data = images
    if data is None and plan.input != "stream":
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
    kept = data if data is not None and data.cut is None else None
    return Stage(stage.last_epoch, training.run, scoring.run, seconds, kept), state


def _programs(plan: RunPlan, stage: StageRecipe, data: StageData | None) -> tuple[Epoch, Scoring]:
    """The stage's training and validation, on its data on the devices or read from the host."""
    if data is None:
        return streamed_programs(plan, stage)
    train_epoch = resident_epoch(stage, len(plan.splits.train), cut=data.cut, layout=plan.layout)
    evaluation = evaluation_programs(
        program_key(plan.recipe, plan.parts),
        data.cut,
        plan.layout,
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
    if not stage.recipe.cache_features:
        return StageData(train, validation, None, 0.0)
    assert isinstance(stage.model, ResNet)  # which alone can be cut
    cut = cut_point(stage.model, stage.labels)
    if cut is None:
        return StageData(train, validation, None, 0.0)
    if verbose:
        say(f"caching the features after {cut}", flush=True)
    started = time.perf_counter()
    # Not by the recipe's eval_batch_size: that may change on resuming, and these may not.
    cached = computed_at(stage.recipe.precision)(cache_features)
    train = cached(
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
    validation = cached(
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


def make_build(recipe: Recipe, epoch: int, cut: str | None, parts: Parts = NO_PARTS) -> Build:
    """The step of the stage that `epoch` lies in as a function of its numbers.

    Args:
        recipe: any with these programs, see `numbers.without_numbers`.
        epoch: from 1.
        cut: the batches are the features after this child of the network, not images.
        parts: the user's own.
    """

    def build(numbers: Numbers, axis_name: str | None) -> tuple[TrainStep, BatchAugment | None]:
        stage = make_stage(recipe.with_traced(**numbers), epoch, parts)
        step = stage.make_train_step(cut, axis_name=axis_name)
        return step, stage.augment_batch if cut is None else None

    return build


@lru_cache(maxsize=KEPT_PROGRAMS)
def training_programs(
    key: ProgramKey, epoch: int, cut: str | None, layout: Layout, size: int
) -> TrainEpoch:
    """The training over data on the devices, with no numbers yet.

    Runs that differ only in numbers share it: the later ones of a sweep or in a notebook, or a run
    that is resumed, start without tracing it again.
    """
    return make_built_epoch(
        make_build(key.recipe, epoch, cut, key.parts),
        {},
        size=size,
        own=key.parts.metric_names,
        **_epoch_settings(key.recipe, layout),
    )


@lru_cache(maxsize=KEPT_PROGRAMS)
def _streamed_programs(key: ProgramKey, epoch: int, layout: Layout, size: int) -> StreamedPrograms:
    """The same for images read from the host."""
    return make_streamed_programs(
        make_build(key.recipe, epoch, None, key.parts),
        size=size,
        **_epoch_settings(key.recipe, layout),
    )


@lru_cache(maxsize=KEPT_PROGRAMS)
def evaluation_programs(key: ProgramKey, cut: str | None, layout: Layout, size: int) -> Evaluation:
    """The scoring of data on the devices, shared in the same way, and by all stages of a run.

    What is trained, and on which side, makes no difference to it.
    """
    stage = make_stage(key.recipe, 1, key.parts)
    return resident_evaluation(stage, size, cut=cut, layout=layout)


@lru_cache(maxsize=KEPT_PROGRAMS)
def streamed_scoring(key: ProgramKey, layout: Layout, size: int) -> StreamedScoring:
    """The same for images read from the host."""
    stage = make_stage(key.recipe, 1, key.parts)
    return make_streamed_scoring(
        stage.make_eval_step(),
        size=size,
        batch_size=key.recipe.eval_batch_size,
        layout=layout,
        own=key.parts.metric_names,
    )


def forget_programs() -> None:
    """Let go of every compiled program that later runs would share."""
    kept = (training_programs, _streamed_programs, evaluation_programs, streamed_scoring)
    for programs in kept:
        programs.cache_clear()


def resident_epoch(
    stage: StageRecipe, size: int, *, cut: str | None = None, layout: Layout = ONE_DEVICE
) -> TrainEpoch:
    """The stage's training on `size` images on the devices, or on their features after `cut`.

    Made of the stage's recipe and parts, by which programs are shared; another model put into the
    stage (`_replace`) is not seen, but one among its parts is.
    """
    programs = training_programs(
        program_key(stage.recipe, stage.parts), stage.first_epoch, cut, layout, size
    )
    return replace(programs, numbers=numbers_of(stage.recipe))


def resident_evaluation(
    stage: StageRecipe, size: int, *, cut: str | None = None, layout: Layout = ONE_DEVICE
) -> Evaluation:
    """The scoring of the stage's validation data on the devices."""
    return make_evaluation(
        stage.make_eval_step(cut),
        size=size,
        batch_size=stage.recipe.eval_batch_size,
        layout=layout,
        own=stage.parts.metric_names,
    )


def streamed_programs(plan: RunPlan, stage: StageRecipe) -> tuple[Epoch, Scoring]:
    """The stage's training and validation on images read from the host."""
    splits, layout, own = plan.splits, plan.layout, stage.parts.metric_names
    key = program_key(stage.recipe, stage.parts)
    programs = _streamed_programs(key, stage.first_epoch, layout, len(splits.train))
    numbers = numbers_of(stage.recipe)
    training = stream(programs, splits.train, numbers, layout=layout, own=own)
    shared = program_key(plan.recipe, plan.parts)
    return training, score_stream(
        streamed_scoring(shared, layout, len(splits.validation)), splits.validation
    )


def _epoch_settings(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    """The arguments of an epoch wherever its images come from."""
    return {
        "batch_size": recipe.batch_size,
        "views": stored_views(recipe),
        "layout": layout,
        "stop_at_nonfinite": recipe.on_nonfinite == "stop",
    }
