"""Settings that do nothing beside the others of a recipe."""

from collections.abc import Callable

from jaxcifar.common.messages import shown
from jaxcifar.recipes.checks import changed_settings
from jaxcifar.recipes.reached import ACTING_ON_SOME, unreached
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.settings import OWN
from jaxcifar.step.state import param_shapes

_SCHEDULE = "a schedule that is not constant"
# Settings that only mean something beside another one: when they do, and what they are for.
_BESIDE: dict[str, tuple[Callable[[Recipe], bool], str]] = {
    "momentum": (lambda recipe: recipe.optimizer not in ("adam", "adamw"), "--optimizer sgd, muon"),
    "t_max": (lambda recipe: recipe.schedule != "constant", _SCHEDULE),
    "final_scale": (lambda recipe: recipe.schedule != "constant", _SCHEDULE),
    # A warm-up counts steps for either unit.
    "schedule_unit": (lambda recipe: recipe.schedule != "constant", _SCHEDULE),
    "interpolation": (lambda recipe: recipe.rotate_degrees > 0, "--rotate-degrees"),
    "translate_fill": (lambda recipe: recipe.translate_pixels > 0, "--translate-pixels"),
}


def why_unused(recipe: Recipe, name: str) -> str | None:
    """What a setting is for, if it does nothing beside the recipe's others; else None."""
    if name in ACTING_ON_SOME:
        return _why_unreached(recipe, name)
    used, text = _BESIDE.get(name, (None, ""))
    return text if used is not None and not used(recipe) else None


def unused_settings(recipe: Recipe) -> dict[str, str]:
    """Settings that are not at their defaults and do nothing, and what they are for."""
    changed = changed_settings(recipe, (*_BESIDE, *ACTING_ON_SOME))
    return {name: text for name in changed if (text := why_unused(recipe, name)) is not None}


def _why_unreached(recipe: Recipe, name: str) -> str | None:
    """For a built-in network, which has all kinds of parameters; see `own.check_reached`."""
    if recipe.freeze == "none" or recipe.architecture == OWN:
        return None
    params = param_shapes(recipe.make_model().clone(dropout_rate=0.0))
    text = unreached(recipe, params, recipe.make_labels(params=params)).get(name)
    return text and f"{text}, and freeze {shown(recipe.freeze)} trains none of them"
