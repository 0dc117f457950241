"""What a run can do, but is seldom meant to: a warning each, before anything is compiled."""

from typing import Any

import jax

from jaxcifar.common.messages import counted, shown, warn
from jaxcifar.models.names import named_leaves
from jaxcifar.recipes.parts import Parts, own_variables
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.sides import train_side
from jaxcifar.recipes.stage import make_labels, make_stage
from jaxcifar.recipes.unused import unused_settings
from jaxcifar.step.freeze import stage_starts
from jaxcifar.step.state import state_shapes


def warn_of_doubts(recipe: Recipe, parts: Parts) -> None:
    """Warn of settings that are allowed, and most often a slip."""
    doubts = (
        of_last_side(recipe),
        of_warm_up(recipe),
        of_muon(recipe, parts),
        of_thawing(recipe, parts),
        of_unused(recipe),
    )
    for doubt in doubts:
        if doubt is not None:
            warn(doubt, stacklevel=4)


def of_last_side(recipe: Recipe) -> str | None:
    """A run that ends on smaller images than those it is evaluated on.

    It may be meant: for some networks, larger test images than training images score better
    (Touvron et al. 2019, arXiv:1906.06423).
    """
    last, full = train_side(recipe, recipe.epochs), recipe.image_size
    if last == full:
        return None
    return (
        f"train_resize {recipe.train_resize!r} ends with training images of {last} pixels, "
        f"and evaluation is at {full}; if that is not meant, end it with {full}@EPOCH"
    )


def of_warm_up(recipe: Recipe) -> str | None:
    """A warm-up that no epoch follows, as of a preset whose epochs alone were changed."""
    if recipe.warmup_epochs < recipe.epochs or not recipe.warmup_epochs:
        return None
    return (
        f"warmup_epochs {recipe.warmup_epochs:g} is as long as the run of "
        f"{counted(recipe.epochs, 'epoch')} or longer, so its whole rate of "
        f"{recipe.learning_rate:g} comes at the end or never: lower --warmup-epochs"
    )


_NOTHING, _INSTEAD = "does nothing", {"optimizer": "is --optimizer sgd"}


def of_unused(recipe: Recipe) -> str | None:
    """Settings that do nothing beside the others: perhaps another one was meant, too."""
    found = unused_settings(recipe)
    if not found:
        return None
    texts = []
    for name, text in found.items():
        does = _INSTEAD.get(name, _NOTHING)
        texts.append(f"{name} {getattr(recipe, name)} {does} in this run: it is for {text}")
    return "; ".join(texts)


def of_thawing(recipe: Recipe, parts: Parts) -> str | None:
    """An own transformation like Adam, whose one step count is wrong for what begins later.

    Adam divides its young moments by how far they have grown in that many steps. The recipe's
    optimizers have a count for each label.
    """
    if parts.transformation is None or "@" not in recipe.freeze:
        return None
    late = [start for start in stage_starts(make_labels(recipe, parts)) if start > 1]
    if not late:
        return None
    stage = make_stage(recipe, 1, parts)
    shapes = state_shapes(stage.model, stage.tx, image_size=recipe.image_size)
    if not _corrects_bias(shapes.opt_state):
        return None
    return (
        f"tx counts its steps once for all parameters: those that freeze {shown(recipe.freeze)} "
        f"thaws in epoch {late[0]} begin with empty moments under an old count, and their first "
        "steps have the wrong size, with Adam's defaults more than six times too large: use the "
        "recipe's optimizer, which counts for each label; a tx that is a schedule goes with it"
    )


def _corrects_bias(state: Any) -> bool:
    """Whether an optimizer's state holds a count beside second moments, as Adam's and its kin's."""

    def like_adam(node: Any) -> bool:
        return {"count", "nu"} <= set(getattr(node, "_fields", ()))

    return any(map(like_adam, jax.tree.leaves(state, is_leaf=like_adam)))


def of_muon(recipe: Recipe, parts: Parts) -> str | None:
    """Muon with a network of convolutions and no normalization.

    It normalises each kernel, which changes nothing where a normalization follows the convolution,
    and is another network where none does.
    """
    if recipe.optimizer != "muon" or parts.model is None:
        return None
    variables = own_variables(parts.model, recipe.image_size)
    params = named_leaves(variables["params"])
    if not any(leaf.ndim == 4 for leaf in params.values()):  # those that muon trains
        return None
    # As Flax's BatchNorm, GroupNorm and LayerNorm have them.
    if variables.get("batch_stats") or any(name.split(".")[-1] == "scale" for name in params):
        return None
    return (
        "optimizer muon gives each convolution kernel a fixed norm in every step, which only a "
        "normalization behind it, such as BatchNorm, makes up for, and none was recognised in your "
        'network: use the optimizer "sgd" or "adamw", unless it has one'
    )
