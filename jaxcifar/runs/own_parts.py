"""What a run says of its own parts in config.json, and whether given ones are the same.

Code is not stored. A part is known by its name, a model also by its fields and the shapes of its
variables, a transformation by the shapes of its state. Two functions of one name, and two rates
inside a transformation, cannot be told apart.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from jaxcifar.common.errors import RunError
from jaxcifar.common.messages import shown
from jaxcifar.recipes.parts import Parts, name_of, named_shapes, own_variables
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MOST_SHOWN = 5  # differing shapes in a message
_LONGEST_FIELD = 500  # characters


def describe_parts(recipe: Recipe, parts: Parts) -> dict[str, Any] | None:
    """The section "parts" of config.json; None for a run that its recipe makes alone."""
    described: dict[str, Any] = {}
    if parts.model is not None:
        described["model"] = _describe_model(parts.model, recipe.image_size)
    if parts.schedule is not None:
        described["schedule"] = _short_name(parts.schedule)
    if parts.transformation is not None:
        described["tx"] = _describe_transformation(recipe, parts)
    for name, function in (("loss", parts.loss), ("augment", parts.augment)):
        if function is not None:
            described[name] = _short_name(function)
    if parts.metrics:
        described["metrics"] = {name: _short_name(metric) for name, metric in parts.metrics}
    if parts.mixes:
        described["labels"] = "distributions"
    return described or None


def check_same_parts(path: Path, config: Mapping[str, Any], recipe: Recipe, parts: Parts) -> None:
    """Refuse to continue a run with other parts than its own.

    Args:
        path: of the run.
        config: its config.json.
        recipe, parts: of the run that would continue it.

    Raises:
        RunError: naming the part, with both sides.
    """
    before, now = config.get("parts") or {}, describe_parts(recipe, parts) or {}
    for part in sorted({*before, *now}):
        if part == "model" and part in before and part in now:
            _check_model(path, before[part], now[part])
        elif before.get(part) != now.get(part):
            raise RunError(
                f"{path} was started with {_in_words(part, before)}, not with "
                f"{_in_words(part, now)}: give the same to continue it"
            )


def check_same_model(path: Path, config: Mapping[str, Any], model: nn.Module, side: int) -> None:
    """Refuse a model that is not the one a run has trained.

    Raises:
        RunError: with both names, fields or shapes.
    """
    stored = (config.get("parts") or {}).get("model")
    _check_model(path, stored, _describe_model(model, side))


def mixes_labels(config: Mapping[str, Any]) -> bool:
    """Whether the run's loss gets labels as distributions."""
    return (config.get("parts") or {}).get("labels") == "distributions"


def check_scored_alike(path: Path, config: Mapping[str, Any], parts: Parts) -> None:
    """Refuse to score a run by another loss than the one it was trained with.

    Raises:
        RunError: naming both.
    """
    before = (config.get("parts") or {}).get("loss")
    now = None if parts.loss is None else _short_name(parts.loss)
    if before != now:
        raise RunError(
            f"{path} was trained with {_loss_in_words(before)}, not with {_loss_in_words(now)}: "
            "give the same as the argument loss"
        )


def _loss_in_words(name: Any) -> str:
    return "the cross-entropy" if name is None else f"the loss {shown(name)}"


def _describe_model(model: nn.Module, side: int) -> dict[str, Any]:
    fields = {
        name: _field(value)
        for name, value in vars(model).items()
        if name in model.__dataclass_fields__ and name not in ("parent", "name")
    }
    return {
        "class": _short_name(model),
        "fields": fields,
        "shapes": {
            name: f"{dtype} {shape}"
            for name, (shape, dtype) in named_shapes(own_variables(model, side)).items()
        },
    }


def _check_model(path: Path, before: Any, now: dict[str, Any]) -> None:
    """The class and the shapes must agree; then the fields, which may change what is computed."""
    if not isinstance(before, Mapping):
        raise RunError(f"{path} was not trained with a model of your own: leave out the model")
    old, new = before.get("shapes"), now["shapes"]
    if before.get("class") != now["class"]:
        raise RunError(
            f"{path} was trained with the model {shown(before.get('class'))}, not with "
            f"{shown(now['class'])}"
        )
    if old != new and isinstance(old, Mapping):
        lines = [
            f"  {name}: {old.get(name, 'absent')} in the run, {new.get(name, 'absent')} now"
            for name in [*new, *(name for name in old if name not in new)]
            if old.get(name) != new.get(name)
        ]
        more = [f"  and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else []
        raise RunError(
            f"{path} was trained with a {now['class']} of other shapes; give the same fields:",
            *lines[:_MOST_SHOWN],
            *more,
        )
    if before.get("fields") != now["fields"]:
        raise RunError(
            f"{path} was trained with {now['class']}({_fields(before.get('fields'))}), not with "
            f"{now['class']}({_fields(now['fields'])})"
        )


def _fields(fields: Any) -> str:
    if not isinstance(fields, Mapping):
        return shown(fields)
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def _describe_transformation(recipe: Recipe, parts: Parts) -> dict[str, Any]:
    stage = make_stage(recipe, 1, parts)
    params = own_variables(stage.model, recipe.image_size)["params"]
    state = jax.eval_shape(stage.tx.init, params)
    shapes = json.dumps(named_shapes(state), sort_keys=True)
    return {
        "states": list(_state_names(state)),
        "shapes": hashlib.sha256(shapes.encode()).hexdigest()[:16],
    }


def _state_names(state: Any) -> Iterator[str]:
    """The types of the states in a transformation's state, such as ScaleByAdamState."""
    if isinstance(state, tuple):
        if hasattr(state, "_fields"):
            yield type(state).__name__
        for inner in state:
            yield from _state_names(inner)


def _in_words(part: str, described: Mapping[str, Any]) -> str:
    if part not in described:
        return f"no {part} of its own"
    value = described[part]
    if part == "model":
        return f"the model {shown(value.get('class') if isinstance(value, Mapping) else value)}"
    return f"the {part} {shown(value)}"


def _field(value: Any) -> str:
    if callable(value) and not isinstance(value, nn.Module):
        return _short_name(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    return _ADDRESS.sub("", repr(value))[:_LONGEST_FIELD]


def _short_name(part: Any) -> str:
    """A part's own name, without the module: it may move from a notebook to a file."""
    return name_of(part).rsplit(".", 1)[-1]


def named_model(config: Mapping[str, Any]) -> str:
    """What a run calls its own model."""
    described = (config.get("parts") or {}).get("model")
    return shown(described.get("class") if isinstance(described, Mapping) else None)
