"""The data of a recipe."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxcifar.common.errors import RecipeError
from jaxcifar.data import Splits, class_names, dataset_info, load_dataset
from jaxcifar.recipes.recipe import Recipe, check_is_recipe

_FACTS = {  # of a `DatasetInfo`
    "pool": "images to train on:",
    "validation": "images of a validation split:",
    "test": "test images:",
    "side": "pixels of a side:",
}


class Cut(NamedTuple):
    """How images are divided into train and validation images."""

    train_size: int
    validation_size: int
    split_seed: int
    stratified: bool

    @classmethod
    def of(cls, source: Recipe | Splits) -> "Cut":
        """That of a recipe, or of data that are loaded."""
        if isinstance(source, Splits):
            sizes = len(source.train), len(source.validation)
            return cls(*sizes, source.seed, source.stratified)
        return cls(*source.split_sizes, source.split_seed, source.stratified)

    def differences(self, other: "Cut") -> list[str]:
        """What differs, as "name: mine, not theirs"."""
        pairs = zip(self._fields, self, other, strict=True)
        return [f"{name}: {mine}, not {its}" for name, mine, its in pairs if mine != its]


def load_splits(
    recipe: Recipe, data_dir: str | Path | None = None, *, lazy: bool = False
) -> Splits:
    """The data a recipe names, split as it says.

    Args:
        recipe: names the data and the split.
        data_dir: where TFDS data lies; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        lazy: see `data.load_dataset`.

    Raises:
        RecipeError: the recipe is something else, or the data in `data_dir` are not those that it
            was checked with.
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
    check_is_recipe(recipe)
    if data_dir:
        _check_known(recipe, data_dir)
    return load_dataset(
        recipe.dataset,
        split=recipe.split_sizes,
        stratified=recipe.stratified,
        seed=recipe.split_seed,
        data_dir=data_dir,
        side=recipe.resize,
        lazy=lazy,
        follow_links=recipe.follow_links,
    )


def _check_known(recipe: Recipe, data_dir: str | Path) -> None:
    """Refuse data in `data_dir` that are not those which the recipe knows."""
    known = recipe.dataset_info
    found = dataset_info(recipe.dataset, data_dir=data_dir, follow_links=recipe.follow_links)
    if replace(found, default_split=known.default_split) == known:
        return
    place = f"{recipe.dataset} in {data_dir}"
    if vars(recipe)["info"] is None:
        raise RecipeError(
            f"{place} is not the dataset the recipe was checked with: set TFDS_DATA_DIR={data_dir}"
        )
    # As a run describes them, which looking in another place would not change.
    differing = [
        f"{text} {getattr(found, name) or 'none'}, not {getattr(known, name) or 'none'}"
        for name, text in _FACTS.items()
        if getattr(found, name) != getattr(known, name)
    ]
    names: tuple[str, ...] = ()
    if found.class_names != known.class_names:
        differing.append("classes")
        names = class_names.difference_lines(
            known.class_names, found.class_names, of_known="the run", of_found="the data"
        )
    raise RecipeError(
        f"{place} has other data than the run was trained on ({'; '.join(differing)}): put those "
        "back, or name their place with --data-dir or --dataset",
        *names,
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
