"""The state a run starts from: new, from weights, or restored."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
from jax.sharding import Sharding

from jaxcifar.data import Splits
from jaxcifar.recipes.parts import NO_PARTS, Parts
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import ProgramKey, make_stage, program_key
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_not_lost, check_same_weights
from jaxcifar.runs.transfer import StartingWeights, starting_weights
from jaxcifar.step.state import (
    TrainState,
    new_state,
    quickly_compiled,
    seed_keys,
    state_of,
    state_shapes,
)
from jaxcifar.training.disk import Disk, NoDisk
from jaxcifar.training.initialization import make_adjust, whitening_filters
from jaxcifar.training.partial import PartialEpoch
from jaxcifar.training.plan import RunPlan


def begin(plan: RunPlan, disk: NoDisk, *, resume: bool) -> tuple[TrainState, PartialEpoch]:
    """The state to continue from, on every device, and what is done of its epoch."""
    recipe, layout = plan.recipe, plan.layout
    if not resume or not isinstance(disk, Disk) or not disk.saved_steps():
        if resume and plan.run_dir is not None:
            check_not_lost(plan.run_dir)
        state = first_state(recipe, plan.splits, plan.weights, plan.run_dir, plan.parts)
        return layout.replicate(state), PartialEpoch(1)
    step = disk.checkpoints.find("last")
    state = restore_state(recipe, disk.checkpoints, layout.replicated, plan.parts)
    progress = disk.checkpoints.progress(step)
    if progress is None:
        return state, PartialEpoch(step // recipe.steps_per_epoch + 1)
    done = PartialEpoch.from_dict(progress)
    return state, replace(done, sums=layout.replicate(done.sums))


def first_state(
    recipe: Recipe,
    splits: Splits,
    weights: StartingWeights | None = None,
    run_dir: RunDirectory | None = None,
    parts: Parts = NO_PARTS,
) -> TrainState:
    """The state before the first step: random, or from the weights the recipe names.

    Args:
        weights: those weights; loaded if they are not given.
        run_dir: of a run that was started before, whose weights must be the same.
        parts: the user's own.
    """
    programs = _first_programs(program_key(recipe, parts))
    if recipe.weights is None:
        filters = None
        if recipe.whiten:
            filters = whitening_filters(splits.train, recipe.make_preprocess())
        return programs.random(*seed_keys(recipe.seed), filters)
    variables, report = weights or starting_weights(recipe, splits)
    if run_dir is not None:
        check_same_weights(run_dir, recipe.weights, report.sha256)
    return programs.given(variables, seed_keys(recipe.seed)[1])


class FirstPrograms(NamedTuple):
    """The compiled programs that make a run's first state."""

    random: Callable[..., TrainState]  # (init key, run key, whitening filters or None)
    given: Callable[..., TrainState]  # (variables, run key)


@lru_cache(maxsize=64)
def _first_programs(key: ProgramKey) -> FirstPrograms:
    """Shared by runs that differ only in numbers, see `stage.evaluation_programs`."""
    recipe, stage = key.recipe, make_stage(key.recipe, 1, key.parts)

    def random(init_key: jax.Array, run_key: jax.Array, filters: jax.Array | None) -> TrainState:
        adjust = make_adjust(recipe.init, filters)
        return new_state(stage.model, stage.tx, recipe.image_size, init_key, run_key, adjust)

    return FirstPrograms(quickly_compiled(random), quickly_compiled(partial(state_of, stage.tx)))


def forget_first_programs() -> None:
    """Let go of them."""
    _first_programs.cache_clear()


def restore_state(
    recipe: Recipe,
    checkpoints: Checkpoints,
    sharding: Sharding | None = None,
    parts: Parts = NO_PARTS,
) -> TrainState:
    """The last checkpoint's state; its optimizer is that of the parameters trained then."""
    step = checkpoints.find("last")
    stage = make_stage(recipe, max(1, -(-step // recipe.steps_per_epoch)), parts)
    shapes = state_shapes(stage.model, stage.tx, image_size=recipe.image_size)
    return checkpoints.restore_state(shapes, step, sharding=sharding)
