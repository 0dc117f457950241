"""Settings that do nothing beside the others of a recipe."""

from collections.abc import Callable

from jaxcifar.recipes.checks import changed_settings
from jaxcifar.recipes.recipe import Recipe

_SCHEDULE = "a schedule that is not constant"
# Settings that only mean something beside another one: when they do, and what they are for.
_BESIDE: dict[str, tuple[Callable[[Recipe], bool], str]] = {
    "momentum": (lambda recipe: recipe.optimizer not in ("adam", "adamw"), "--optimizer sgd, muon"),
    "t_max": (lambda recipe: recipe.schedule != "constant", _SCHEDULE),
    "final_scale": (lambda recipe: recipe.schedule != "constant", _SCHEDULE),
    "schedule_unit": (
        lambda recipe: recipe.schedule != "constant" or recipe.warmup_epochs > 0,
        f"{_SCHEDULE}, or a warm-up",
    ),
    "interpolation": (lambda recipe: recipe.rotate_degrees > 0, "--rotate-degrees"),
    "translate_fill": (lambda recipe: recipe.translate_pixels > 0, "--translate-pixels"),
}


def why_unused(recipe: Recipe, name: str) -> str | None:
    """What a setting is for, if it does nothing beside the recipe's others; else None."""
    used, text = _BESIDE.get(name, (None, ""))
    return text if used is not None and not used(recipe) else None


def unused_settings(recipe: Recipe) -> dict[str, str]:
    """Settings that are not at their defaults and do nothing, and what they are for."""
    changed = changed_settings(recipe, _BESIDE)
    return {name: text for name in changed if (text := why_unused(recipe, name)) is not None}
