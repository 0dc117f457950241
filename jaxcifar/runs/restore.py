"""Read a finished or begun run: its recipe, network and weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxcifar.common.errors import DataError, RecipeError
from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.checkpoints import Checkpoints, Which
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.step.state import init_variables


def restore_run(run: str | Path, which: Which = "best") -> tuple[Recipe, ResNet, dict[str, Any]]:
    """A run's recipe, model and weights; its optimizer is neither needed nor built.

    Raises:
        RunError, RecipeError, CheckpointError: what of the run cannot be used, and why.
    """
    files = RunDirectory(Path(run))
    recipe = read_recipe(files)
    model = recipe.make_model()
    shapes = jax.eval_shape(
        lambda key: init_variables(model, key, recipe.image_size), jax.random.key(0)
    )
    with Checkpoints(files.checkpoints, read_only=True) as checkpoints:
        return recipe, model, checkpoints.restore_weights(shapes, which)


def read_recipe(files: RunDirectory) -> Recipe:
    """The recipe a run was begun with.

    Raises:
        RunError: not a run, or a damaged config.json.
        RecipeError: a config.json with a field this version does not know or a value that cannot
            be.
    """
    return recipe_of_file(files.read_config()["recipe"], files.config)


def recipe_of_file(values: Mapping[str, Any], path: Path) -> Recipe:
    """The recipe that a file holds.

    Raises:
        RecipeError: as `Recipe.from_dict`, naming the file.
    """
    try:
        return Recipe.from_dict(values)
    except (RecipeError, DataError) as error:
        raise RecipeError(f"the recipe in {path}: {error}") from None
