"""The members of a sweep: recipes that differ in one number."""

import dataclasses
from collections.abc import Sequence
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import jax
import numpy as np

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.data import Rows, Splits, check_readable
from jaxcifar.recipes.numbers import TRACED_SETTINGS
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.sides import side_starts
from jaxcifar.recipes.stage import schedule_end, stage_epochs
from jaxcifar.recipes.unused import why_unused
from jaxcifar.step.state import state_shapes

Number = int | float
# Fields that change neither a shape nor the program, so that one program can take any value.
PLAIN_FIELDS = ("seed", *TRACED_SETTINGS)
# Fields on which cached features depend.
_FEATURE_FIELDS = ("seed", "flip_rate", "rotate_degrees", "translate_pixels", "cutout_pixels")


class Member(NamedTuple):
    """One run of a sweep."""

    value: Number
    name: str  # of its directory: "dropout_rate=0.1"
    recipe: Recipe


def numeric_fields() -> dict[str, type[int] | type[float]]:
    """The fields of a recipe that can be swept, and whether each is an int or a float."""
    fields: dict[str, type[int] | type[float]] = {}
    for name, hint in get_type_hints(Recipe).items():
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
        if kinds in ([int], [float]):
            fields[name] = kinds[0]
    return fields


def make_members(recipe: Recipe, field: str, values: Sequence[Any]) -> list[Member]:
    """One member for each value, in the order given.

    Raises:
        RecipeError: an unknown field (with the nearest name) or one that is not numeric, no value,
            a repeated value, or one that the recipe refuses or does not use.
    """
    kind = _kind(field)
    if not len(values):
        raise RecipeError(f"a sweep over {field} needs at least one value")
    members: list[Member] = []
    for raw in values:
        value = raw.item() if isinstance(raw, np.generic) else raw
        if kind is float and type(value) is int:
            value = float(value)
        if any(member.value == value for member in members):
            raise RecipeError(f"{field} {value} is given twice: each member needs its own value")
        if type(value) not in (int, float):  # a recipe allows None for some fields
            raise RecipeError(f"{field} must be of type {kind.__name__}, not {shown(value)}")
        of_member = dataclasses.replace(recipe, **{field: value})
        members.append(Member(value, f"{field}={value}", of_member))
    unused = [why_unused(member.recipe, field) for member in members]
    if all(unused):
        raise RecipeError(f"{field} is for {unused[0]}: without that all members would be the same")
    return members


def chooses_images(recipe: Recipe, field: str) -> bool:
    """Whether members that differ in this field train on other images.

    Pictures of several sizes are decoded at the side that `resize` says.
    """
    several_sizes = recipe.dataset_info.side is None
    fields = ("train_size", "validation_size", "split_seed")
    return field in fields or (field == "resize" and several_sizes)


def parse_values(field: str, texts: Sequence[str]) -> list[Number]:
    """The values of a field as a command line gives them.

    Raises:
        RecipeError: as `make_members`, or a text that is not a number of the field's type.
    """
    kind = _kind(field)
    values = []
    for text in texts:
        try:
            values.append(kind(text))
        except ValueError:
            raise RecipeError(
                f"{field} must be of type {kind.__name__}, not {shown(text)}"
            ) from None
    return values


def _kind(field: str) -> type[int] | type[float]:
    """The type of a field's numbers."""
    numeric = numeric_fields()
    if field in numeric:
        return numeric[field]
    if field in {f.name for f in dataclasses.fields(Recipe)}:
        raise RecipeError(
            f"{field} is not numeric and cannot be swept; numeric are {', '.join(numeric)}"
        )
    raise RecipeError(f"unknown field {field!r}{did_you_mean(field, numeric)}")


def why_not_together(field: str, members: Sequence[Member]) -> str | None:
    """Why the members cannot run as one program, or None if they can."""
    recipe = members[0].recipe
    if field not in PLAIN_FIELDS:
        return (
            f"{field} changes the data, a shape or the program itself; one program can only vary "
            f"{', '.join(PLAIN_FIELDS)}"
        )
    if recipe.patience is not None:
        return "with --patience the members may stop after different epochs"
    if schedule_end(recipe) is not None:
        return f"after_schedule {recipe.after_schedule} is another program after epoch t_max"
    if side_starts(recipe):
        return f"train_resize {recipe.train_resize!r} is another program for each side"
    if stage_epochs(recipe, 1)[1] < recipe.epochs:
        return f"with freeze {recipe.freeze!r} something thaws later, which is another program"
    if recipe.cache_features and field in _FEATURE_FIELDS:
        return f"the cached features follow from {field}, so members cannot share them"
    params = state_shapes(
        recipe.make_model(), recipe.make_optimizer(), image_size=recipe.image_size
    ).params
    kinds = {
        jax.tree.structure(jax.eval_shape(member.recipe.make_optimizer().init, params)): member
        for member in members
    }
    if len(kinds) > 1:
        odd = " and ".join(str(member.value) for member in kinds.values())
        return f"{field} {odd} are optimizers with different state (zero does without)"
    return None


def check_pictures(field: str, members: Sequence[Member], data: dict[str, Splits]) -> None:
    """Find damaged pictures of members with images of their own before any is trained.

    Each picture is decoded once, whatever members use it.

    Raises:
        DataError: naming them.
    """
    if len({id(splits) for splits in data.values()}) == 1:  # they were loaded together
        return
    used: dict[str, Rows] = {}
    for member in members[: 1 if field == "resize" else None]:
        for source in (data[member.name].train, data[member.name].validation):
            if isinstance(source, Rows):
                place = getattr(source.source, "title", "")
                before = used[place].rows if place in used else source.rows[:0]
                used[place] = Rows(source.source, np.union1d(before, source.rows))
    for rows in used.values():
        check_readable(rows)
