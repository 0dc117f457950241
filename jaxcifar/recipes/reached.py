"""Settings that know parameters by names or shapes: where none of theirs is trained, they do
nothing.
"""

from typing import Any

from jaxcifar.models.names import batch_norm_bias_mask, kernel_mask, named_leaves
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.freeze import FROZEN, Labels

ACTING_ON_SOME = ("weight_decay", "bias_scale", "optimizer")


def unreached(recipe: Recipe, params: Any, labels: Labels) -> dict[str, str]:
    """Those of `ACTING_ON_SOME` that act on nothing trained, and what they act on.

    At whatever value: weight decay is named even if it is zero.

    Args:
        recipe: names the optimizer.
        params: of the network, arrays or shapes.
        labels: of its parameters. One that is trained in a later epoch is reached.
    """
    leaves, muon = named_leaves(params), recipe.optimizer == "muon"
    trained = {name for name, label in named_leaves(labels).items() if label != FROZEN}
    of_muon = {name for name in trained if muon and leaves[name].ndim == 4}
    by_name: dict[str, tuple[bool, str]] = {
        "weight_decay": (
            bool(trained & _where(kernel_mask(params)) - of_muon),
            "parameters called kernel" + (" that muon does not train" if muon else ""),
        ),
        "bias_scale": (
            bool(trained & _where(batch_norm_bias_mask(params))),
            "the biases of modules that have a scale, too, as BatchNorm",
        ),
        "optimizer": (
            not muon or bool(of_muon),
            "the kernels of convolutions, of four dimensions",
        ),
    }
    return {name: text for name, (reached, text) in by_name.items() if not reached}


def _where(mask: Any) -> set[str]:
    return {name for name, found in named_leaves(mask).items() if found}
