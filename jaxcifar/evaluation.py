"""Score variables on a dataset, or a run's checkpoint on one of its splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcifar import metrics
from jaxcifar.augment import make_normalize
from jaxcifar.checkpoint import Checkpoints, Which
from jaxcifar.data import Dataset, Rows
from jaxcifar.epoch import Data, make_evaluation
from jaxcifar.progress import ProgressBar
from jaxcifar.recipe import Recipe, load_splits, read_recipe
from jaxcifar.resnet import ResNet
from jaxcifar.run_files import RunError, RunFiles
from jaxcifar.state import init_variables
from jaxcifar.steps import Normalize, make_eval_step

SplitName = Literal["train", "validation", "test"]


def to_device(dataset: Dataset | Rows) -> Data:
    """Images (uint8) and labels (int32) on the default device."""
    dataset = dataset.load()
    return {"image": jnp.asarray(dataset.images), "label": jnp.asarray(dataset.labels)}


def evaluate(
    model: ResNet,
    variables: Mapping[str, Any],
    dataset: Dataset | Rows,
    *,
    normalize: str | Normalize = "cifar10",
    batch_size: int = 500,
    progress: bool = False,
) -> dict[str, float]:
    """``{"loss", "accuracy", "examples"}`` over every image exactly once, in evaluation mode.

    Args:
        variables: ``{"params", "batch_stats"}``.
        normalize: what was used in training: a name in `augment.NORMALIZATIONS` or a function.
        batch_size: changes the time, not the result beyond rounding of the loss.
        progress: draw a bar, on a terminal.
    """
    if isinstance(normalize, str):
        normalize = make_normalize(normalize)
    eval_step = make_eval_step(model, normalize=normalize)
    evaluation = make_evaluation(eval_step, size=len(dataset), batch_size=batch_size)
    with ProgressBar("evaluate", len(dataset), progress) as bar:
        return metrics.compute(evaluation.run(variables, to_device(dataset), bar.advance))


def restore_run(run: str | Path, which: Which = "best") -> tuple[Recipe, ResNet, dict[str, Any]]:
    """A run's recipe, model and weights; its optimizer is neither needed nor built.

    Raises:
        RunError, RecipeError, CheckpointError: what of the run cannot be used, and why.
    """
    files = RunFiles(Path(run))
    recipe = read_recipe(files)
    model = recipe.make_model()
    shapes = jax.eval_shape(
        lambda key: init_variables(model, key, recipe.image_size), jax.random.key(0)
    )
    with Checkpoints(files.checkpoints, read_only=True) as checkpoints:
        return recipe, model, checkpoints.restore_weights(shapes, which)


def evaluate_run(
    run: str | Path,
    *,
    split: SplitName = "test",
    which: Which = "best",
    data_dir: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """``{"split", "examples", "accuracy", "loss"}`` of a run's checkpoint.

    Raises:
        RunError: not a run; or the data found is not the data it was trained on, so that its
            train and validation images cannot be told apart.
        RecipeError, CheckpointError, DataError: what of the run or its data cannot be used.
    """
    files = RunFiles(Path(run))
    trained_on = files.read_config().get("data_fingerprint")
    recipe, model, variables = restore_run(run, which)
    splits = load_splits(recipe, data_dir, lazy=True)  # one split is needed, not three
    if split != "test" and splits.fingerprint != trained_on:
        raise RunError(
            f"{files.path} was trained on another preparation of {recipe.dataset}, in another "
            f"order: its {split} split cannot be found again; use --split test or its data"
        )
    result = evaluate(
        model,
        variables,
        getattr(splits, split),
        normalize=recipe.make_preprocess(),
        batch_size=recipe.eval_batch_size,
        progress=progress,
    )
    return {
        "split": split,
        "examples": result["examples"],
        "accuracy": result["accuracy"],
        "loss": result["loss"],
    }
