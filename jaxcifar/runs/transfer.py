"""The weights a run starts from, and a run's weights for others to start from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.data import Splits, class_names
from jaxcifar.data.arrays import NAME as UNNAMED
from jaxcifar.models.load_report import LoadReport
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import digest_of, export_weights, fill_model, to_torch
from jaxcifar.models.weights import read_weights
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.settings import OWN
from jaxcifar.recipes.splits import Cut
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.description import class_names_of, to_metadata
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe, restore_run
from jaxcifar.step.augment import NORMALIZATIONS
from jaxcifar.step.state import seed_keys


class StartingWeights(NamedTuple):
    """The variables a run starts from, and where they come from."""

    variables: dict[str, Any]  # {"params", "batch_stats"}
    report: LoadReport


def starting_weights(recipe: Recipe, splits: Splits | None = None) -> StartingWeights:
    """Load what `recipe.weights` names into the recipe's model: a file, a name on the hub, or
    another run's best checkpoint.

    The new head, if the recipe asks for one, is drawn from the recipe's seed.

    Args:
        recipe: names them.
        splits: the data that the run will train on, to recognise those of the other run wherever
            they lie; without them they are recognised by name.

    Raises:
        WeightsError: they are not available or do not fit the model.
        RecipeError: they were trained with another normalization than the recipe's, or by a run on
            another split of the same data; or their head, which is kept, has other classes.
        RunError, CheckpointError: the run cannot be used.
    """
    assert recipe.weights is not None
    model = recipe.make_model()
    key, _ = seed_keys(recipe.seed)
    options: dict[str, Any] = {
        "key": key,
        "new_head": recipe.new_head,
        "adapt_stem": recipe.adapt_stem,
    }
    if RunDirectory(Path(recipe.weights)).holds_run():
        origin, variables = _restore_origin(recipe.weights)
        _check_split(recipe, origin, _same_data(recipe, origin, splits))
        _check_head(recipe, origin.dataset_info.class_names)
        filled, report = fill_model(
            model,
            to_torch(variables),
            source=recipe.weights,
            preprocessing=preprocessing_of(origin),
            **options,
        )
    else:
        file = read_weights(recipe.weights)
        _check_head(recipe, class_names_of(file.metadata, file.source))
        filled, report = fill_model(
            model,
            file.tensors,
            source=file.source,
            sha256=file.sha256,
            preprocessing=Preprocessing.from_metadata(file.metadata, file.source),
            **options,
        )
    _check_normalization(recipe, report)
    return StartingWeights(filled, report)


def weights_sha256(weights: str) -> str:
    """What a run that starts from these weights, named as for `starting_weights`, records of them.

    Raises:
        WeightsError: they are not available.
        RunError, CheckpointError: the run cannot be used.
    """
    if RunDirectory(Path(weights)).holds_run():
        return digest_of(to_torch(_restore_origin(weights)[1]))
    return read_weights(weights).sha256


def _restore_origin(run: str) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the variables of a run that another one starts from."""
    if read_recipe(RunDirectory(Path(run))).architecture == OWN:
        raise RunError(
            f"{run} was trained with a network of your own, and --weights takes runs of the "
            "built-in ones only: jaxcifar.load(run, model=...).variables gives its weights to a "
            "loop of your own"
        )
    origin, _, variables = restore_run(run)
    return origin, variables


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """What a recipe's network is trained to see."""
    mean, std = NORMALIZATIONS[recipe.normalization]
    return Preprocessing(mean, std, recipe.image_size)


def export_run(
    run: str | Path, out: str | Path, *, which: Which = "best", overwrite: bool = False
) -> None:
    """Write a run's checkpoint as `.safetensors` under torchvision's names.

    torchvision's ResNet of that depth and number of classes loads it with `strict=True`, where the
    run has its stem, its width and a linear head; one with a sequential head fits after
    ``model.fc = Sequential(Linear(512, 256), ReLU(), Dropout(), Linear(256, classes))``. Mean,
    standard deviation and size, architecture, stem, head, class names, sizes of the splits,
    interpolation, views, precision and dtype of the scores are in the metadata, so that
    `jaxcifar.load` needs nothing else.

    Raises:
        RunError, RecipeError, CheckpointError: the run cannot be used.
        WeightsError: `out` exists, is not called .safetensors, or cannot be written.

    Example:
        >>> from jaxcifar import export_run
        >>> export_run("runs/demo", "demo.safetensors")  # doctest: +SKIP
    """
    if read_recipe(RunDirectory(Path(run))).architecture == OWN:
        raise RunError(
            f"{run} was trained with a network of your own, and export writes the built-in ones: "
            "save jaxcifar.load(run, model=...).variables yourself, as by Orbax"
        )
    recipe, _, variables = restore_run(run, which)
    export_weights(
        jax.device_get(variables),
        out,
        preprocessing=preprocessing_of(recipe),
        metadata=run_metadata(recipe, RunDirectory(Path(run)).read_config()),
        overwrite=overwrite,
    )


def run_metadata(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, str]:
    """What an exported file says of its run besides mean, std and size; see `description`."""
    network = {"arch": recipe.architecture, "stem": recipe.stem, "head": recipe.head}
    return network | to_metadata(recipe, config.get("data_fingerprint"))


def _same_data(recipe: Recipe, origin: Recipe, splits: Splits | None) -> bool:
    """Whether the run that the weights come from was trained on the data of this recipe."""
    if splits is not None:
        trained_on = RunDirectory(Path(str(recipe.weights))).read_config().get("data_fingerprint")
        if trained_on and trained_on in (splits.fingerprint, splits.names_and_sizes):
            return True
    # Any arrays may have no name; of those with one, the contents are those of the three splits.
    ours, theirs = recipe.located().dataset, origin.located().dataset
    return ours == theirs and ours != UNNAMED


def _check_head(recipe: Recipe, names: tuple[str, ...] | None) -> None:
    """Refuse to keep a head whose outputs mean other classes, where their names are known."""
    wanted = recipe.dataset_info.class_names
    if names is not None and not recipe.new_head and names != wanted:
        raise RecipeError(
            f"the head of {recipe.weights} has other classes than {recipe.dataset}, or the same in "
            "another order: use --new-head, or data with the classes of the weights",
            *class_names.difference_lines(
                names, wanted, of_known="the weights", of_found="the data"
            ),
        )


def _check_split(recipe: Recipe, origin: Recipe, same_data: bool) -> None:
    """Refuse weights from another split: some images that validate here were trained on there.

    A validation accuracy of 0.81 was seen beside a test accuracy of 0.72.
    """
    differing = Cut.of(origin).differences(Cut.of(recipe))
    if same_data and differing:
        raise RecipeError(
            f"{recipe.weights} was trained on another split of {origin.dataset} "
            f"({', '.join(differing)}), so that its training images would validate here: use the "
            "same split; or export its weights and use the file, if you accept that"
        )


def _check_normalization(recipe: Recipe, report: LoadReport) -> None:
    if report.preprocessing is None:
        return
    theirs = report.preprocessing_values()
    if _same(theirs, NORMALIZATIONS[recipe.normalization]):
        return
    fitting = [name for name, values in NORMALIZATIONS.items() if _same(theirs, values)]
    advice = (
        f"use --normalization {fitting[0]}" if fitting else "no --normalization has these values"
    )
    raise RecipeError(
        f"normalization {recipe.normalization}: the weights of {report.source} were trained on "
        f"mean {theirs[0]}, std {theirs[1]}: {advice}"
    )


def _same(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, atol=5e-4))
