"""The settings that are arguments of a compiled program: to change one of them compiles nothing.

One that is zero or None is left out of the program (no dropout, no weight decay), which costs
nothing then. So a change from zero to another value is another program.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.numbers import is_zero
from jaxcifar.recipes.recipe import Recipe

# They change neither a shape nor the form of the program.
TRACED_SETTINGS = (
    "dropout_rate",
    "learning_rate",
    "final_scale",
    "momentum",
    "weight_decay",
    "label_smoothing",
    "clip_norm",
    "flip_rate",
    "rotate_degrees",
    "translate_pixels",
    "cutout_pixels",
)
# The seed is in the state, as the run's key.
_NOT_IN_PROGRAMS: dict[str, Any] = {
    "seed": 0,
    "weights": None,
    "new_head": False,
    "adapt_stem": False,
    "split_seed": 0,
    "stratified": False,
    "follow_links": False,
    "validate_every": 1,
    "patience": None,
    "patience_metric": "validation_accuracy",
    "patience_mode": "auto",
    "patience_min_delta": 0.0,
}
Numbers = Mapping[str, NDArray[Any] | jax.Array]  # a setting's name -> its value, []


def numbers_of(recipe: Recipe, varied: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """The arguments of a recipe's programs: its numbers that are neither zero nor None.

    Args:
        varied: settings that are arguments in any case, because others of the same program differ.
    """
    # Floats are float32, or float64 where JAX has it enabled.
    kinds: dict[type, Any] = {float: jax.dtypes.canonicalize_dtype(float), int: np.int32}
    return {
        name: np.asarray(value, kinds[type(value)])
        for name, value in _present(recipe, varied).items()
    }


def without_numbers(recipe: Recipe) -> Recipe:
    """The recipe that all recipes with the same programs share; it is for building them only."""
    stand_ins = {
        name: 0.5 if isinstance(value, float) else 1 for name, value in _present(recipe).items()
    }
    return recipe.with_traced(**stand_ins, **_NOT_IN_PROGRAMS)


def _present(recipe: Recipe, varied: Iterable[str] = ()) -> dict[str, Any]:
    values = {name: getattr(recipe, name) for name in TRACED_SETTINGS}
    return {
        name: value
        for name, value in values.items()
        if name in varied or (value is not None and not is_zero(value))
    }
