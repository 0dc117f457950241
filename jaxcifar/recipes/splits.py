"""The data of a recipe."""

from dataclasses import replace
from pathlib import Path

from jaxcifar.common.errors import RecipeError
from jaxcifar.data import Splits, dataset_info, load_dataset
from jaxcifar.recipes.recipe import Recipe


def load_splits(
    recipe: Recipe, data_dir: str | Path | None = None, *, lazy: bool = False
) -> Splits:
    """The data a recipe names, split as it says.

    Args:
        recipe: names the data and the split.
        data_dir: where TFDS data lies; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        lazy: see `data.load_dataset`.

    Raises:
        RecipeError: the data in `data_dir` are not those that the recipe was checked with.
        DataError: the data are not available.

    Example:
        >>> from jaxcifar import Recipe, load_splits
        >>> recipe = Recipe(
        ...     dataset="digits", normalization="half", train_size=100, validation_size=50,
        ...     batch_size=50,
        ... )
        >>> splits = load_splits(recipe)
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (100, 50, 360)
    """
    links, known = recipe.follow_links, recipe.dataset_info
    found = known
    if data_dir:
        found = dataset_info(recipe.dataset, data_dir=data_dir, follow_links=links)
    if replace(found, default_split=known.default_split) != known:
        raise RecipeError(
            f"{recipe.dataset} in {data_dir} is not the dataset the recipe was checked with: set "
            f"TFDS_DATA_DIR={data_dir}"
        )
    return load_dataset(
        recipe.dataset,
        split=recipe.split_sizes,
        stratified=recipe.stratified,
        seed=recipe.split_seed,
        data_dir=data_dir,
        side=recipe.resize,
        lazy=lazy,
        follow_links=links,
    )


def check_side(recipe: Recipe, splits: Splits) -> None:
    """Refuse pictures that were scaled to another side when they were loaded.

    Where the pictures of a dataset have several sizes, the recipe's `resize` is the side that they
    are decoded at; scaled again from another side they would be other images.

    Raises:
        RecipeError: with both sides.
    """
    expected = recipe.dataset_info.side or recipe.resize
    for part in (splits.train, splits.validation, splits.test):
        if part.side != expected:
            raise RecipeError(
                f"the images of {splits.name} were loaded at {part.side} pixels, and the recipe "
                f"takes them at {expected}: load them with load_splits(recipe)"
            )
