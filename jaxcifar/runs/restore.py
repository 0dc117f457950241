"""Read the recipe, model and weights of a run, finished or not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from jaxcifar.common.errors import DataError, DataNotThereError, RecipeError, RunError
from jaxcifar.common.messages import warn
from jaxcifar.data import DATASETS, DatasetInfo
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.settings import OWN
from jaxcifar.runs.checkpoints import Checkpoints, Which
from jaxcifar.runs.description import described_info
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.own_parts import check_same_model, named_model
from jaxcifar.step.state import init_variables


def restore_run(
    run: str | Path,
    which: Which = "best",
    *,
    dataset: str | None = None,
    model: nn.Module | None = None,
) -> tuple[Recipe, nn.Module, dict[str, Any]]:
    """Restore a run's recipe, model and weights; its optimizer is neither needed nor built.

    Args:
        run: the run directory.
        which: the checkpoint: "best", "last" or a step.
        dataset: where the data of the run are now; only a run that does not describe them needs it.
        model: the run's own network, which was given to `fit`.

    Returns:
        The recipe, the model, and its variables ``{"params", "batch_stats"}``.

    Raises:
        RunError, RecipeError, CheckpointError: naming the part of the run that cannot be used, and
            why; or a model of its own that is not given, or is another.

    Example:
        The run here was never trained: all its parameters are zero.

        >>> import json, os, tempfile
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxcifar import Checkpoints, Recipe, restore_run, start_state
        >>> recipe = Recipe(dataset="digits", width=4)
        >>> model = recipe.make_model()
        >>> image = jnp.zeros((1, 32, 32, 3))
        >>> zeros = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
        >>> zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), zeros)
        >>> state = start_state(zeros, recipe.make_optimizer(), seed=0)
        >>> with tempfile.TemporaryDirectory() as run:
        ...     with open(os.path.join(run, "config.json"), "w") as file:
        ...         json.dump({"recipe": recipe.to_dict()}, file)
        ...     with Checkpoints(os.path.join(run, "checkpoints")) as checkpoints:
        ...         checkpoints.save(state, validation_accuracy=0.1)
        ...     recipe, model, variables = restore_run(run)
        >>> recipe.dataset, model.width, sorted(variables)
        ('digits', 4, ['batch_stats', 'params'])
    """
    run_dir = RunDirectory(Path(run))
    recipe = read_recipe(run_dir, dataset=dataset)
    if recipe.dataset not in DATASETS and "data" not in run_dir.read_config():
        warn(
            f"{run_dir.path} was written before runs described their data: its class names are not "
            f"known, and are taken from {recipe.dataset} as it is now"
        )
    model = _network(run_dir, recipe, model)
    shapes = jax.eval_shape(
        lambda key: init_variables(model, key, recipe.image_size), jax.random.key(0)
    )
    with Checkpoints(run_dir.checkpoints, read_only=True) as checkpoints:
        return recipe, model, checkpoints.restore_weights(shapes, which)


def _network(run_dir: RunDirectory, recipe: Recipe, given: nn.Module | None) -> nn.Module:
    """The recipe's network, or the run's own one, which must be the same as it was."""
    config = run_dir.read_config()
    if recipe.architecture != OWN:
        if given is not None:
            raise RunError(
                f"{run_dir.path} was trained with the built-in {recipe.architecture}, not with a "
                "model of your own: leave out the model"
            )
        return recipe.make_model()
    if given is None:
        name = named_model(config)
        raise RunError(
            f"{run_dir.path} was trained with a model of your own ({name}), which is not stored: "
            "give it from Python, as in jaxcifar.load(run, model=...)"
        )
    check_same_model(run_dir.path, config, given, recipe.image_size)
    return given


def read_recipe(run_dir: RunDirectory, *, dataset: str | None = None) -> Recipe:
    """The recipe that a run was started with.

    Args:
        run_dir: the run's.
        dataset: where its data are now, for a run that does not describe them, if they are not
            where they were.

    Raises:
        RunError: the directory holds no run, or a damaged config.json.
        RecipeError: config.json has a field that this version does not know, or an invalid value.
    """
    config = run_dir.read_config()
    values = config["recipe"]
    info = described_info(config, values.get("dataset"))
    try:
        return recipe_of_file(values, run_dir.config, info)
    except (RecipeError, DataNotThereError) as error:
        if info is not None or not str(values.get("dataset")).startswith(("folder:", "tfds:")):
            raise
        if dataset is not None:
            return recipe_of_file(values | {"dataset": dataset}, run_dir.config)
        way_out = "it was written before runs described their data: put them back, or name their "
        raise RecipeError(*error.args, f"  {way_out}place with --dataset") from None


def recipe_of_file(
    values: Mapping[str, Any], path: Path, info: DatasetInfo | None = None
) -> Recipe:
    """The recipe in a file.

    Args:
        values: its fields.
        path: the file, for the message.
        info: what the file says of the data; None if it says nothing, and they must be there.

    Raises:
        RecipeError: as `Recipe.from_dict`, naming the file.
        DataNotThereError: the data are not there.
    """
    try:
        return Recipe.from_dict(values, info)
    except DataNotThereError as error:
        raise DataNotThereError(f"the recipe in {path}: {error}") from None
    except (RecipeError, DataError) as error:
        raise RecipeError(f"the recipe in {path}: {error}") from None
