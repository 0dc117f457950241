"""The state a run starts from: new, from weights, or restored."""

from dataclasses import replace

from jax.sharding import Sharding

from jaxcifar.common.errors import RunError
from jaxcifar.data import Splits
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_not_lost
from jaxcifar.runs.transfer import StartingWeights, starting_weights
from jaxcifar.step.state import TrainState, init_state, start_state, state_shapes
from jaxcifar.training.disk import Disk, NoDisk
from jaxcifar.training.initialization import make_adjust
from jaxcifar.training.partial import PartialEpoch
from jaxcifar.training.plan import RunPlan


def begin(plan: RunPlan, disk: NoDisk, *, resume: bool) -> tuple[TrainState, PartialEpoch]:
    """The state to continue from, on every device, and what is done of its epoch."""
    recipe, layout = plan.recipe, plan.layout
    if not resume or not isinstance(disk, Disk) or not disk.saved_steps():
        if resume and plan.run_dir is not None:
            check_not_lost(plan.run_dir)
        state = first_state(recipe, plan.splits, plan.weights, plan.run_dir)
        return layout.replicate(state), PartialEpoch(1)
    step = disk.checkpoints.find("last")
    state = restore_state(recipe, disk.checkpoints, layout.replicated)
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
) -> TrainState:
    """The state before the first step: random, or from the weights the recipe names.

    Args:
        weights: those weights; loaded if they are not given.
        run_dir: of a run that was started before, whose weights must be the same.
    """
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
    variables, report = weights or starting_weights(recipe, splits)
    before = None if run_dir is None else run_dir.read_config().get("weights")
    if before is not None and before["sha256"] != report.sha256:
        raise RunError(f"{recipe.weights} is no longer the file that the run was started from")
    return start_state(variables, tx, seed=recipe.seed)


def restore_state(
    recipe: Recipe, checkpoints: Checkpoints, sharding: Sharding | None = None
) -> TrainState:
    """The last checkpoint's state; its optimizer is that of the parameters trained then."""
    step = checkpoints.find("last")
    tx = recipe.make_optimizer(max(1, -(-step // recipe.steps_per_epoch)))
    shapes = state_shapes(recipe.make_model(), tx, image_size=recipe.image_size)
    return checkpoints.restore_state(shapes, step, sharding=sharding)
