"""The state a run starts from: new, from weights, or restored."""

from dataclasses import replace

from jax.sharding import Sharding

from jaxcifar.common.errors import RunError
from jaxcifar.data import Splits
from jaxcifar.devices.layout import Layout
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_not_lost
from jaxcifar.runs.transfer import Start, starting_weights
from jaxcifar.step.state import TrainState, init_state, start_state, state_shapes
from jaxcifar.training.initialization import make_adjust
from jaxcifar.training.run import PartialEpoch


def begin(
    recipe: Recipe,
    splits: Splits,
    start: Start | None,
    files: RunDirectory | None,
    checkpoints: Checkpoints | None,
    layout: Layout,
    *,
    resume: bool,
) -> tuple[TrainState, PartialEpoch]:
    """The state to go on from, on every device, and the part of its epoch that is done."""
    if not resume or checkpoints is None or not checkpoints.steps():
        if resume and files is not None:
            check_not_lost(files)
        return layout.replicate(first_state(recipe, start, files, splits)), PartialEpoch(1)
    step = checkpoints.find("last")
    state = restore_state(recipe, checkpoints, layout.replicated)
    progress = checkpoints.progress(step)
    if progress is None:
        return state, PartialEpoch(step // recipe.steps_per_epoch + 1)
    part = PartialEpoch.from_dict(progress)
    return state, replace(part, sums=layout.replicate(part.sums))


def first_state(
    recipe: Recipe, start: Start | None, files: RunDirectory | None, splits: Splits
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
