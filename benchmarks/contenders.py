"""Recipes from the words of a command line: a preset, perhaps with a name and other settings."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.settings import parse_settings, without_paths
from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe

# Settings of a recipe that a race does not heed, and the way to what was meant.
UNHEEDED = {
    "seed": "name the seeds by --seeds",
    "patience": "it trains every run to its last epoch",
}


@dataclass(frozen=True)
class Contender:
    """A recipe with a name.

    Attributes:
        name: what a table calls it.
        preset: what the settings are compared with.
        recipe: complete, but for the seed.
    """

    name: str
    preset: str
    recipe: Recipe

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that differ from the preset's; without the seed."""
        usual = get_experiment(self.preset).recipe.to_dict()
        own = self.recipe.to_dict()
        differing = {k: v for k, v in own.items() if k != "seed" and v != usual[k]}
        return without_paths(differing)


def read_contender(text: str, common: Mapping[str, Any]) -> Contender:
    """A contender from "NAME: PRESET FIELD=VALUE ..." or "PRESET FIELD='VALUE OF WORDS' ...".

    Another number of epochs moves the warm-up in proportion, and the only validation to the end,
    unless they are among the settings.

    Args:
        text: its own settings win over the common ones.
        common: settings of all contenders.

    Raises:
        RecipeError: the preset or a setting is unknown, or a value cannot be used.

    Example:
        >>> read_contender("hot: speedrun learning_rate=0.4", {"epochs": 8}).recipe.learning_rate
        0.4
    """
    before, colon, after = text.partition(":")
    named = bool(colon) and not {" ", "="} & set(before.strip())  # or a value has the colon
    words = _words(after if named else text)
    name = before.strip() if named else " ".join(words)
    if not words or not name:
        raise RecipeError(f"the contender {text!r} is not [NAME:] PRESET [FIELD=VALUE ...]")
    recipe = recipe_of(words[0], {**common, **read_settings(words[1:])})
    return Contender(name, words[0].replace("-", "_"), recipe)


def _words(text: str) -> list[str]:
    """As a shell would split them: a value with spaces is quoted."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise RecipeError(f"the contender {text!r} cannot be read: {error}") from None


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings from "field=value" words.

    Raises:
        RecipeError: a word is not of that form.
    """
    try:
        return parse_settings(words)
    except ValueError as error:
        raise RecipeError(f"{error}, such as learning_rate=0.1") from None


def recipe_of(preset: str, settings: Mapping[str, Any]) -> Recipe:
    """A preset's recipe with other settings; for other epochs, see `read_contender`.

    Raises:
        RecipeError: the preset or a setting is unknown, or a value cannot be used.
    """
    recipe = get_experiment(preset).recipe
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in settings:
        if name not in known:
            raise RecipeError(f"unknown setting {name!r}{did_you_mean(name, known)}")
    epochs = settings.get("epochs")
    return replace(recipe, **(_scaled(recipe, epochs) | dict(settings)))


def _scaled(recipe: Recipe, epochs: Any) -> dict[str, Any]:
    """What else changes with the number of epochs; nothing if that is not one."""
    if not isinstance(epochs, int):
        return {}
    once = recipe.validate_every == recipe.epochs
    return {
        "warmup_epochs": recipe.warmup_epochs * epochs / recipe.epochs,
        **({"validate_every": epochs} if once and epochs > 0 else {}),
    }


def check_contenders(contenders: Sequence[Contender]) -> None:
    """Refuse two contenders of one name or of the same settings, and settings that no race heeds.

    Raises:
        RecipeError: naming them.
    """
    for number, one in enumerate(contenders):
        usual = get_experiment(one.preset).recipe
        for setting, instead in UNHEEDED.items():
            if getattr(one.recipe, setting) != getattr(usual, setting):
                raise RecipeError(f"{one.name!r} sets {setting}, which a race ignores: {instead}")
        for other in contenders[:number]:
            if one.name == other.name:
                raise RecipeError(
                    f"{one.name!r} runs twice: give each a name, as in 'hot: {one.name}'"
                )
            if _raced(one.recipe) == _raced(other.recipe):
                raise RecipeError(
                    f"{other.name!r} and {one.name!r} have the same settings: remove one of them; "
                    "further runs of one contender are further --seeds"
                )


def _raced(recipe: Recipe) -> Recipe:
    """The recipe without what makes no difference to a race."""
    return replace(recipe, validate_every=1)


def plain_views(recipe: Recipe) -> Recipe:
    """The recipe, but the test images are scored as they are."""
    return replace(recipe, test_mirror=False, test_shift_pixels=0)
