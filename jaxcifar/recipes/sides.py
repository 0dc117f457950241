"""The side of the training images by epoch, from the setting `train_resize`."""

import re
from itertools import pairwise
from typing import Any, NamedTuple

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import shown

Recipe = Any  # recipes.recipe.Recipe, which imports this file


class Side(NamedTuple):
    """A side of the training images, and the first epoch that trains on it."""

    first_epoch: int
    pixels: int


def train_sides(recipe: Recipe) -> list[Side]:
    """The sides of the training images, in the order of their epochs; the first begins in epoch 1.

    Raises:
        RecipeError: `train_resize` cannot be read.
    """
    if recipe.train_resize is None:
        return [Side(1, recipe.image_size)]
    words = [word for word in re.split(r"[\s,]+", recipe.train_resize) if word]
    if not words:
        raise _refused(recipe, "names no side; leave it unset, or write '16 24@7 32@13'")
    return [_read(recipe, word, 1 if i == 0 else None) for i, word in enumerate(words)]


def train_side(recipe: Recipe, epoch: int) -> int:
    """The side of the images trained on in an epoch, pixels; epochs count from 1."""
    return [side.pixels for side in train_sides(recipe) if side.first_epoch <= max(epoch, 1)][-1]


def side_starts(recipe: Recipe) -> list[int]:
    """The epochs in which another side begins, ascending, without the first."""
    sides = train_sides(recipe)
    return [new.first_epoch for old, new in pairwise(sides) if new.pixels != old.pixels]


def smallest_side(recipe: Recipe) -> int:
    """The side of the smallest images trained on, pixels."""
    return min(side.pixels for side in train_sides(recipe))


def check_sides(recipe: Recipe) -> None:
    """Refuse sides of the training images that the run cannot follow.

    Raises:
        RecipeError: naming the side or the epoch, and the way out.
    """
    if recipe.train_resize is None:
        return
    sides, full = train_sides(recipe), recipe.image_size
    for side in sides:
        if side.pixels > full:
            raise _refused(
                recipe,
                f"has a side of {side.pixels} pixels, larger than the network's input of {full}; "
                f"use {full} or less, or raise --resize",
            )
    for old, new in pairwise(sides):
        if new.first_epoch <= old.first_epoch:
            raise _refused(
                recipe,
                f"has epoch {new.first_epoch} after epoch {old.first_epoch}; write the sides in "
                "the order of their epochs, each with an epoch of its own",
            )
    if sides[-1].first_epoch > recipe.epochs:
        raise _refused(
            recipe,
            f"begins a side in epoch {sides[-1].first_epoch}, and the run ends with epoch "
            f"{recipe.epochs}; leave that side out, or raise --epochs",
        )
    if recipe.cache_features:
        raise _refused(
            recipe,
            "does not go with cache_features, which are of one size; leave it unset, or use "
            "--no-cache-features",
        )


def sides_text(recipe: Recipe) -> str:
    """The sides of the training images in words, such as "16 pixels, 32 from epoch 7"."""
    first, *others = train_sides(recipe)
    return ", ".join(
        [f"{first.pixels} pixels", *(f"{pixels} from epoch {epoch}" for epoch, pixels in others)]
    )


def _read(recipe: Recipe, word: str, begins: int | None) -> Side:
    """A side from its word; `begins` is the epoch of a first one, which may go without."""
    # The digits are bounded: int() rejects thousands of them.
    match = re.fullmatch(r"([-+]?[0-9]{1,9})(?:@([0-9]{1,9}))?", word)
    if match is None:
        raise _refused(
            recipe, f"has {shown(word)}; write SIDE, then SIDE@EPOCH, as in '16 24@7 32@13'"
        )
    pixels, epoch = int(match[1]), begins if match[2] is None else int(match[2])
    if pixels < 1:
        raise _refused(recipe, f"has a side of {pixels} pixels; a side is at least 1")
    if epoch is None:
        raise _refused(recipe, f"has {word} without its first epoch; write {word}@EPOCH")
    if epoch < 1:
        raise _refused(recipe, f"has {word}; epochs count from 1")
    if begins is not None and epoch != begins:
        raise _refused(recipe, f"begins with {word}, and epoch 1 has no side; write {pixels} first")
    return Side(epoch, pixels)


def _refused(recipe: Recipe, text: str) -> RecipeError:
    return RecipeError(f"train_resize {shown(recipe.train_resize)} {text}")
