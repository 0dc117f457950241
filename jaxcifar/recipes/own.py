"""Checks of the parts that are given to `fit`, before anything is compiled or written.

They are tried on shapes alone, and an augmentation on a few images, too: what does not fit fails
here with one error, and not minutes later inside a compiled program.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from jaxcifar.common.errors import RecipeError, message_lines
from jaxcifar.common.messages import shown, warn
from jaxcifar.recipes.checks import (
    SCHEDULE_SETTINGS,
    changed_settings,
    check_choice,
    check_late_labels,
)
from jaxcifar.recipes.parts import Parts, name_of, named_shapes, own_variables
from jaxcifar.recipes.reached import unreached
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.settings import OWN, PATIENCE_METRICS
from jaxcifar.recipes.sides import train_sides
from jaxcifar.recipes.stage import make_labels, make_stage
from jaxcifar.step.augment import unit_range
from jaxcifar.step.metrics import per_example
from jaxcifar.step.state import TrainState, state_shapes

COLLECTIONS = {"params", "batch_stats"}
_LEAST, _MOST = -1.0, 2.0  # of floats that an augmentation returns
_NEARLY_BLACK = 1.5 / 255  # images in [0, 1] divided by 255 once more are darker
# A row of the history has "validation_seconds", and scores have these.
RESERVED_METRICS = (
    *("loss", "accuracy", "examples", "seconds", "top5_accuracy"),
    *("split", "dataset", "views", "macro_f1", "per_class"),
)


def with_parts(recipe: Recipe, parts: Parts) -> tuple[Recipe, Parts]:
    """The recipe and the parts of a run that uses these parts.

    The recipe's `architecture` and `optimizer` become "own" where they are, and the parts know
    whether labels are mixed.

    Raises:
        RecipeError: a part does not fit the data, the recipe or another part; naming it.
    """
    _check_given(recipe, parts)
    changes: dict[str, Any] = {}
    if parts.model is not None:
        changes["architecture"] = OWN
    if parts.transformation is not None:
        changes["optimizer"] = OWN
    if any(getattr(recipe, name) != value for name, value in changes.items()):
        recipe = replace(recipe, **changes)
    if parts.model is not None:
        _check_model(parts.model, recipe)
        _check_rules(recipe)
        check_late_labels(recipe, make_labels(recipe, parts))
    if parts.tx is not None:
        _check_tx(recipe, parts)
    if parts.augment is not None:
        parts = replace(parts, mixes=_check_augment(recipe, parts))
    _check_functions(recipe, parts)
    return recipe, parts


def _check_given(recipe: Recipe, parts: Parts) -> None:
    """What is given is of the right kind, and what the recipe says to be own is given."""
    if parts.model is not None and not isinstance(parts.model, nn.Module):
        instance = ", not the class: call it" if isinstance(parts.model, type) else ""
        raise RecipeError(f"model must be a flax.linen module{instance}, not {shown(parts.model)}")
    if parts.tx is not None and parts.transformation is None and not callable(parts.tx):
        raise RecipeError(
            "tx must be an optax transformation, or a schedule (a function of the step), not "
            f"{shown(parts.tx)}"
        )
    functions = {"loss": parts.loss, "augment": parts.augment, **dict(parts.metrics)}
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise RecipeError(f"{name} must be a function, not {shown(function)}")
    for name, _ in parts.metrics:
        if not (isinstance(name, str) and name.isidentifier()) or name in RESERVED_METRICS:
            raise RecipeError(
                f"a metric cannot be called {shown(name)}: use a Python name that is none of "
                f"{', '.join(RESERVED_METRICS)}"
            )
    watched = (*PATIENCE_METRICS, *(f"validation_{name}" for name in parts.metric_names))
    check_choice("patience_metric", recipe.patience_metric, watched)
    if recipe.architecture == OWN and parts.model is None:
        raise RecipeError("architecture own: give your network as the argument model")
    if recipe.optimizer == OWN and parts.transformation is None:
        raise RecipeError("optimizer own: give your optax transformation as the argument tx")
    for part, name in ((parts.model, "architecture"), (parts.transformation, "optimizer")):
        asked = getattr(recipe, name)
        if part is not None and asked != OWN and changed_settings(recipe, [name]):
            raise RecipeError(
                f"{name} {shown(asked)} does not go with one of your own, which would take its "
                "place: leave it at its default"
            )
    if parts.loss is not None and recipe.label_smoothing:
        raise RecipeError(
            f"label_smoothing {recipe.label_smoothing} is of the recipe's cross-entropy: with a "
            "loss of your own leave it at 0, and smooth in your loss"
        )
    if parts.augment is not None and recipe.cache_features:
        raise RecipeError(
            "cache_features: only the recipe's own augmentations can be stored with the features; "
            "leave out augment, or use --no-cache-features"
        )


def _check_model(model: nn.Module, recipe: Recipe) -> None:
    """The model takes `train`, and turns images into logits."""
    name, classes, side = name_of(model), recipe.dataset_info.num_classes, recipe.image_size
    try:
        hash(model)
    except TypeError as error:
        raise RecipeError(
            f"the model {name} has a field without a hash ({error}): use tuples instead of lists "
            "and arrays"
        ) from None
    parameters = inspect.signature(type(model).__call__).parameters.values()
    if not any(p.name == "train" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise RecipeError(
            f"the model {name} takes no argument train: define __call__(self, images, *, train), "
            "where train is True in training and False in evaluation"
        )
    variables = _try(f"the model {name}", side, lambda: own_variables(model, side))
    others = sorted(set(variables) - COLLECTIONS)
    if others:
        raise RecipeError(
            f"the model {name} has variables in {', '.join(others)}: only params and batch_stats "
            "are trained and saved"
        )
    if not jax.tree.leaves(variables["params"]):
        raise RecipeError(f"the model {name} has no parameters: there is nothing to train")

    def logits_of(side: int, train: bool) -> Any:
        images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)

        def apply(variables: Any, images: jax.Array, key: jax.Array) -> Any:
            if not train:
                return model.apply(variables, images, train=False)
            rngs = {"dropout": key}
            output = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
            return output[0]

        return jax.eval_shape(apply, variables, images, jax.random.key(0))

    training = {side.pixels: True for side in train_sides(recipe)}
    for pixels, train in ((side, False), *training.items()):
        of = "" if pixels == side else f" on a side of train_resize {shown(recipe.train_resize)}"
        what = f"the model {name} with train={train}{of}"
        logits = _try(what, pixels, partial(logits_of, pixels, train))
        is_array = hasattr(logits, "shape")
        if not is_array or logits.shape != (2, classes) or not _is_float(logits):
            found = f"{logits.dtype} {list(logits.shape)}" if is_array else type(logits).__name__
            raise RecipeError(
                f"the model {name} must return logits [n, {classes}], one for each class of "
                f"{recipe.dataset}, but for 2 images of {pixels}x{pixels} it returns {found}"
            )


def check_reached(model: nn.Module, recipe: Recipe) -> None:
    """Refuse settings that know parameters by names or shapes which nothing trained has.

    For a new run: one of an earlier version is continued as it began. Of a built-in network a
    warning says so, see `unused`.

    Raises:
        RecipeError: naming the setting.
    """
    params = own_variables(model, recipe.image_size)["params"]
    missed = unreached(recipe, params, recipe.make_labels(params=params))
    trains = "" if recipe.freeze == "none" else f" that freeze {shown(recipe.freeze)} trains"
    for name in changed_settings(recipe, missed):
        raise RecipeError(
            f"{name} {shown(getattr(recipe, name))} acts on {missed[name]}, and the model "
            f"{name_of(model)} has none{trains}: leave it at its default, or give your own "
            "transformation as tx"
        )


def _check_rules(recipe: Recipe) -> None:
    """Rules that follow the order of the layers are for networks whose order is known."""
    names = (word.partition(":")[0] for word in recipe.freeze.replace(",", " ").split())
    ordered = {"freeze_a", "freeze_b", "up_to", "layer_decay"}
    if ordered & {name.replace("-", "_") for name in names if "=" not in name}:
        raise RecipeError(
            f"freeze {shown(recipe.freeze)} is for the built-in networks, whose layers and their "
            "order are known: name the modules of yours, as in 'Conv_0=frozen *=trained' or "
            "all_but:Dense_0"
        )


def _check_tx(recipe: Recipe, parts: Parts) -> None:
    """The transformation gives updates for the parameters that are trained; a schedule, a rate."""
    name = name_of(parts.tx)
    if parts.schedule is not None:
        schedule = parts.schedule
        if isinstance(_attempt(schedule), optax.GradientTransformation):
            raise RecipeError(
                f"tx is the function {name}, not a transformation: call it with a rate"
            )
        rate = _try(f"the schedule {name}", None, lambda: jax.eval_shape(schedule, jnp.int32(0)))
        if getattr(rate, "shape", ()) != ():
            raise RecipeError(f"the schedule {name} must return one rate, not {rate.shape}")
        changed = changed_settings(recipe, SCHEDULE_SETTINGS)
        if changed:
            raise RecipeError(
                f"{changed[0]} {shown(getattr(recipe, changed[0]))} is of the recipe's own "
                "schedule: leave it at its default if tx is a schedule"
            )
    stage = make_stage(recipe, 1, parts)

    def update() -> Any:
        state = state_shapes(stage.model, stage.tx, image_size=recipe.image_size)
        return jax.eval_shape(stage.tx.update, state.params, state.opt_state, state.params), state

    (updates, opt_state), state = _try(f"the transformation {name}", None, update)
    assert isinstance(state, TrainState)
    for what, new, old in (
        ("updates", updates, state.params),
        ("state", opt_state, state.opt_state),
    ):
        if named_shapes(new) != named_shapes(old):
            raise RecipeError(
                f"the {what} of the transformation {name} have other shapes than before the step"
            )


def _check_augment(recipe: Recipe, parts: Parts) -> bool:
    """Whether the labels become distributions."""
    assert parts.augment is not None
    name, classes, n = name_of(parts.augment), recipe.dataset_info.num_classes, 4
    own, first, preprocess = parts.augment, recipe.make_augment(), recipe.make_preprocess()
    side = recipe.dataset_info.side or recipe.image_size

    def call(images: jax.Array) -> Any:
        keys = jax.random.split(jax.random.key(0), n)
        images = images if first is None else first(keys, images)
        return own(keys, images, jnp.zeros(n, jnp.int32))

    stored = jax.ShapeDtypeStruct((n, side, side, 3), jnp.uint8)
    result = _try(f"augment {name}", side, lambda: jax.eval_shape(call, stored))
    if not isinstance(result, tuple) or len(result) != 2:
        raise RecipeError(
            f"augment {name} must return (images, labels), not {type(result).__name__}"
        )
    images, labels = result
    seen = _try(f"augment {name}", side, lambda: jax.eval_shape(preprocess, images))
    expected = (n, recipe.image_size, recipe.image_size, 3)
    if seen.shape != expected or not (images.dtype == jnp.uint8 or _is_float(images)):
        raise RecipeError(
            f"augment {name} must keep the images {list(stored.shape)}, uint8 or floats in [0, 1], "
            f"but returns {images.dtype} {list(images.shape)}"
        )
    mixes = labels.shape == (n, classes) and _is_float(labels)
    if not mixes and not (labels.shape == (n,) and labels.dtype == jnp.int32):
        raise RecipeError(
            f"augment {name} must return the labels as they are, int32 [n], or as distributions "
            f"[n, {classes}] of floats; for {n} images it returns {labels.dtype} "
            f"{list(labels.shape)}"
        )
    return mixes


def check_augmented(
    recipe: Recipe, parts: Parts, images: NDArray[np.uint8], *, resume: bool = False
) -> None:
    """Refuse an augmentation of the user's own whose floats normalising would spoil.

    They must be in [0, 1]; noise and colour changes may go a little beyond. Images that have
    become nearly black were divided by 255 twice.

    Args:
        recipe, parts: of the run.
        images: uint8 [n, h, w, 3], a few of those to train on.
        resume: the run has begun, perhaps before nearly black images were refused: warn of them.

    Raises:
        RecipeError: with the range it returns.
    """
    assert parts.augment is not None
    keys, first = jax.random.split(jax.random.key(0), len(images)), recipe.make_augment()
    batch = jnp.asarray(images)
    batch = batch if first is None else first(keys, batch)
    name = name_of(parts.augment)
    labels = jnp.zeros(len(images), jnp.int32)
    augmented, _ = _try(f"augment {name}", None, partial(parts.augment, keys, batch, labels))
    low, high = float(augmented.min()), float(augmented.max())
    if _is_float(augmented) and not (low >= _LEAST and high <= _MOST):
        raise RecipeError(
            f"augment {name} must return uint8, or floats in [0, 1], but its floats go from "
            f"{low:.3g} to {high:.3g}: divide by 255, and leave normalising to the recipe"
        )
    given = float(unit_range(batch).max())
    if _is_float(augmented) and high < _NEARLY_BLACK < given:
        text = (
            f"augment {name} returns images that are nearly black: their largest value is "
            f"{high:.3g}, and was {given:.3g} before. What it gets may be floats in [0, 1] "
            "already: instead of dividing by 255, use jaxcifar.step.augment.unit_range"
        )
        if not resume:
            raise RecipeError(text)
        if jax.process_index() == 0:
            warn(text, stacklevel=4)


def _check_functions(recipe: Recipe, parts: Parts) -> None:
    """The loss and the metrics return a number for each example."""
    classes = recipe.dataset_info.num_classes
    n = 3 if classes != 3 else 5  # so that [n] and [classes] differ
    logits, labels = jnp.zeros((n, classes)), jnp.zeros(n, jnp.int32)
    target = jax.nn.one_hot(labels, classes) if parts.mixes else labels
    functions = [(f"metric {name}", function, labels) for name, function in parts.metrics]
    if parts.loss is not None:
        functions.append(("the loss", parts.loss, target))
    for name, function, of_labels in functions:
        call = partial(per_example, function, name)
        what = f"{name} ({name_of(function)})"
        if of_labels.ndim == 2:
            what += f", given distributions [n, {classes}] because augment mixes the labels,"
        _try(what, None, partial(jax.eval_shape, call, logits, of_labels))


def _attempt(schedule: Callable[[Any], Any]) -> Any:
    """What a schedule returns for the first step; None if it fails."""
    try:
        return schedule(0)
    except Exception:
        return None


def _is_float(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _try(what: str, side: int | None, call: Callable[[], Any]) -> Any:
    """The result of the user's code on shapes, or what is wrong with it."""
    try:
        return call()
    except RecipeError:
        raise
    except Exception as error:
        on = "" if side is None else f" on images of {side}x{side} pixels"
        raise RecipeError(
            f"{what} fails{on}: {type(error).__name__}: {' '.join(message_lines(error))[:500]}"
        ) from error
