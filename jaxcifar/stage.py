"""A stage of a run: the epochs in which the same leaves are trained, and its compiled programs.

Most runs have one. Where something thaws later on, each stage has an optimizer and programs of its
own, and the state is carried over.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax

from jaxcifar.data import Splits
from jaxcifar.epoch import make_evaluation, make_train_epoch
from jaxcifar.evaluation import to_device
from jaxcifar.features import cache_features, check_memory, cut_point
from jaxcifar.metrics import Metrics
from jaxcifar.optim import carry_over
from jaxcifar.recipe import Recipe
from jaxcifar.state import TrainState, state_shapes
from jaxcifar.steps import make_eval_step, make_train_step


class Stage(NamedTuple):
    """Compiled and with its data on the device: nothing is left to do but train."""

    last_epoch: int
    train: Callable[..., tuple[TrainState, Metrics]]  # (state, on_progress=None), donates the state
    validate: Callable[..., Metrics]  # (state, on_progress=None)
    caching_seconds: float  # spent on the features of a frozen prefix, compiling included


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
    model, tx = recipe.make_model(epoch), recipe.make_optimizer(epoch)
    labels, normalize = recipe.make_labels(epoch), recipe.make_preprocess()
    augment = recipe.make_augment()
    train_data, validation_data = to_device(splits.train), to_device(splits.validation)

    cut = cut_point(model, labels) if recipe.cache_features else None
    begun = time.perf_counter()
    if cut is not None:
        if verbose:
            print(f"caching the features after {cut}", flush=True)
        # Not by the recipe's eval_batch_size: that may change on resuming, and these may not.
        train_data = cache_features(
            model,
            state.variables,
            train_data,
            cut,
            normalize=normalize,
            augment=augment,
            views=_views(recipe),
            key=state.key,
        )
        validation_data = cache_features(
            model, state.variables, validation_data, cut, normalize=normalize
        )
    caching_seconds = 0.0 if cut is None else time.perf_counter() - begun

    begun = time.perf_counter()
    train_epoch = make_train_epoch(
        make_train_step(
            model,
            tx,
            normalize=normalize,
            label_smoothing=recipe.label_smoothing,
            labels=labels,
            start=cut,
            log_gradient_norm=recipe.log_gradient_norm,
        ),
        size=len(splits.train),
        batch_size=recipe.batch_size,
        augment=augment if cut is None else None,
        views=None if recipe.views is None else _views(recipe),
    )
    evaluation = make_evaluation(
        make_eval_step(model, normalize=normalize, start=cut),
        size=len(splits.validation),
        batch_size=recipe.eval_batch_size,
    )
    fresh = jax.eval_shape(tx.init, state.params)
    thaws = jax.tree.structure(fresh) != jax.tree.structure(state.opt_state)  # type: ignore[operator]
    if thaws:
        opt_state = carry_over(state.opt_state, jax.jit(tx.init)(state.params))
        state = replace(state, opt_state=opt_state)
    state = train_epoch.compile(state, train_data)
    evaluation.compile(state.variables, validation_data)
    if verbose:
        if cut is not None:
            print(f"cached in {caching_seconds:.1f} s")
        print(f"compiled in {time.perf_counter() - begun:.1f} s", flush=True)
    return Stage(
        last_epoch,
        lambda state, on_progress=None: train_epoch.run(state, train_data, on_progress),
        lambda state, on_progress=None: evaluation.run(
            state.variables, validation_data, on_progress
        ),
        caching_seconds,
    ), state


def _views(recipe: Recipe) -> int:
    """Stored augmentations of an image; a run has no use for more than its epochs."""
    return min(recipe.views or 1, recipe.epochs)
