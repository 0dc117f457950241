"""A stage of a run: the epochs in which the same leaves are trained, and its compiled programs.

Most runs have one. Where something thaws later on, each stage has an optimizer and programs of its
own, and the state is carried over.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from jaxcifar.data import Splits
from jaxcifar.devices.layout import ONE_DEVICE, Input, Layout
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.augment import Augment
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.optimizer import carry_over
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import EvalStep, TrainStep, make_eval_step, make_train_step
from jaxcifar.training.epoch import Data, Evaluation, TrainEpoch
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.features import cache_features, cut_point
from jaxcifar.training.pieces import OnPiece
from jaxcifar.training.plan import _views, stored_views
from jaxcifar.training.resident import make_evaluation, make_train_epoch
from jaxcifar.training.streamed import make_streamed_epoch, make_streamed_evaluation


class Stage(NamedTuple):
    """Compiled and with its data on the device, or ready to be read: all that is left is training.

    Both functions take what `epoch.TrainEpoch.run` and `epoch.Evaluation.run` do after the data.
    """

    last_epoch: int
    train: Callable[..., tuple[TrainState, Metrics]]  # (state, on_piece=None), donates the state
    validate: Callable[..., Metrics]  # (state, on_piece=None)
    caching_seconds: float  # spent on the features of a frozen prefix, compiling included


class StageData(NamedTuple):
    """On the device, or empty where it is read from the host as it is needed."""

    train: Data
    validation: Data
    cut: str | None  # the data are what this child of the network put out, or images
    seconds: float  # spent on caching features, compiling included


def begin_stage(
    recipe: Recipe,
    splits: Splits,
    state: TrainState,
    epoch: int,
    *,
    layout: Layout = ONE_DEVICE,
    input: Input = "resident",
    verbose: bool = False,
) -> tuple[Stage, TrainState]:
    """Build and compile the stage that `epoch` lies in, and bring the state into it.

    The state is donated: use the returned one.
    """
    first_epoch, last_epoch = recipe.stage_of(epoch)
    tx = recipe.make_optimizer(epoch)
    data = stage_data(recipe, splits, state, epoch, layout=layout, input=input, verbose=verbose)

    begun = time.perf_counter()
    if data.train:
        train_epoch, evaluation = resident_programs(
            replace(recipe, seed=0),  # is not in the program: the state holds the run's key
            first_epoch,
            data.cut,
            layout,
            len(splits.train),
            len(splits.validation),
        )
    else:
        train_step, settings = _train_settings(recipe, epoch, None, layout)
        train_epoch = make_streamed_epoch(train_step, splits.train, **settings)
        evaluation = make_streamed_evaluation(
            _eval_step(recipe, epoch, None),
            splits.validation,
            batch_size=recipe.eval_batch_size,
            layout=layout,
        )
    fresh = jax.eval_shape(tx.init, state.params)
    thaws = jax.tree.structure(fresh) != jax.tree.structure(state.opt_state)  # type: ignore[operator]
    if thaws:
        opt_state = carry_over(state.opt_state, jax.jit(tx.init)(state.params))
        state = replace(state, opt_state=layout.replicate(opt_state))
    state = train_epoch.compile(state, data.train)
    evaluation.compile(state.variables, data.validation)
    if verbose:
        print(f"compiled in {time.perf_counter() - begun:.1f} s", flush=True)

    def train(
        state: TrainState, on_piece: OnPiece | None = None, **more: Any
    ) -> tuple[TrainState, Metrics]:
        return train_epoch.run(state, data.train, on_piece, **more)

    def validate(state: TrainState, on_piece: OnPiece | None = None, **more: Any) -> Metrics:
        return evaluation.run(state.variables, data.validation, on_piece, **more)

    return Stage(last_epoch, train, validate, data.seconds), state


def stage_data(
    recipe: Recipe,
    splits: Splits,
    state: TrainState,
    epoch: int,
    *,
    layout: Layout = ONE_DEVICE,
    input: Input = "resident",
    verbose: bool = False,
) -> StageData:
    """What the stage trains and validates on: images, or features where the recipe caches them."""
    if input == "stream":
        return StageData({}, {}, None, 0.0)
    model, preprocess = recipe.make_model(epoch), recipe.make_preprocess()
    train, validation = (to_device(part, layout) for part in (splits.train, splits.validation))
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
        layout=layout,
        size=len(splits.train),
    )
    validation = cache_features(
        model,
        state.variables,
        validation,
        cut,
        normalize=preprocess,
        layout=layout,
        size=len(splits.validation),
    )
    seconds = time.perf_counter() - begun
    if verbose:
        print(f"cached in {seconds:.1f} s")
    return StageData(train, validation, cut, seconds)


def stage_step(
    recipe: Recipe, epoch: int, cut: str | None, *, axis_name: str | None = None
) -> tuple[TrainStep, Augment | None]:
    """The stage's train step, and the augmentation that comes before it."""
    step = make_train_step(
        recipe.make_model(epoch).clone(axis_name=axis_name),
        recipe.make_optimizer(epoch),
        normalize=recipe.make_preprocess(),
        label_smoothing=recipe.label_smoothing,
        labels=recipe.make_labels(epoch),
        start=cut,
        log_gradient_norm=recipe.log_gradient_norm,
        skip_nonfinite=recipe.on_nonfinite == "skip",
        axis_name=axis_name,
    )
    return step, recipe.make_augment() if cut is None else None


def _eval_step(recipe: Recipe, epoch: int, cut: str | None) -> EvalStep:
    """The scoring of a batch of the stage's validation data."""
    return make_eval_step(
        recipe.make_model(epoch),
        normalize=recipe.make_preprocess(),
        start=cut,
        mirror=recipe.test_mirror,
    )


def _train_settings(
    recipe: Recipe, epoch: int, cut: str | None, layout: Layout
) -> tuple[TrainStep, dict[str, Any]]:
    """The step, and what else an epoch is made of wherever its images come from."""
    train_step, augment = stage_step(recipe, epoch, cut)
    axis_step = None
    if layout.axis_name is not None:
        axis_step, _ = stage_step(recipe, epoch, cut, axis_name=layout.axis_name)
    return train_step, {
        "batch_size": recipe.batch_size,
        "augment": augment,
        "views": stored_views(recipe),
        "layout": layout,
        "axis_step": axis_step,
        "stop_at_nonfinite": recipe.on_nonfinite == "stop",
    }


def stage_epoch(
    recipe: Recipe, epoch: int, cut: str | None, size: int, layout: Layout = ONE_DEVICE
) -> TrainEpoch:
    """The stage's training on data on the devices: `size` images, or what `cut` put out of them."""
    train_step, settings = _train_settings(recipe, epoch, cut, layout)
    return make_train_epoch(train_step, size=size, **settings)


def stage_evaluation(
    recipe: Recipe, epoch: int, cut: str | None, size: int, layout: Layout = ONE_DEVICE
) -> Evaluation:
    """The scoring of the stage's validation data, which are likewise on the devices."""
    return make_evaluation(
        _eval_step(recipe, epoch, cut),
        size=size,
        batch_size=recipe.eval_batch_size,
        layout=layout,
    )


@lru_cache(maxsize=4)
def resident_programs(
    recipe: Recipe,
    epoch: int,
    cut: str | None,
    layout: Layout,
    train_size: int,
    validation_size: int,
) -> tuple[TrainEpoch, Evaluation]:
    """The programs over data on the devices, the same ones for runs that differ in the seed alone:
    the later ones of a sweep, or a run that is resumed, begin without tracing them again.
    """
    return (
        stage_epoch(recipe, epoch, cut, train_size, layout),
        stage_evaluation(recipe, epoch, cut, validation_size, layout),
    )
