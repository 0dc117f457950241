"""The shapes of the JSON files in a run directory, which may come from anyone, and their check.

See `json_shape.misfit` for how a shape is written.
"""

from pathlib import Path
from typing import Any

from jaxcifar.common.errors import RunError
from jaxcifar.common.files import MAX_JSON, Unusable, read_json
from jaxcifar.common.json_shape import AnyNumber, AnyText, Shape, misfit

# A line of metrics.jsonl. Everything else in it is a number or null.
ROW: Shape = {
    "epoch": int,
    "step": int,
    "seconds?": float,
    "validation_seconds?": float,
    "images_per_second?": float,
}
# What resuming needs of every line, besides epoch and step.
COLUMNS = (
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "seconds",
    "validation_seconds",
    "images_per_second",
)
CONFIG: Shape = {
    "recipe": dict,
    "experiment?": AnyText,
    "data_fingerprint?": str,
    "parts?": (None, dict),
    "weights?": (None, {"source": AnyText, "sha256": str}),
    "resumed?": [{"step": int, "machine?": dict}],  # the machine where it is another one
    "asked_to_stop?": {"after_epoch": int, "of": int},  # by on_epoch
}
SCORE: Shape = {
    "step?": int,
    "validation_accuracy": AnyNumber,
    "test": {"accuracy": AnyNumber, "loss?": AnyNumber, "examples?": int},
}
SUMMARY: Shape = {
    "epochs?": int,
    "stopped_after_epoch?": (None, int),
    "stopped_by?": (None, str),
    "limit_batches?": (None, int),
    "parameters?": int,
    "trainable_parameters?": int,
    "train_accuracy": AnyNumber,
    "train_seconds": float,
    "validation_seconds?": float,
    "images_per_second?": float,
    "best": SCORE,
    "last": SCORE,
}


def read_object(path: Path, max_bytes: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RunError: the file cannot be read, or holds something else.
    """
    try:
        value = read_json(path, max_bytes)
    except Unusable as error:
        raise RunError(str(error)) from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def check_shape(value: dict[str, Any], shape: Shape, path: Path) -> None:
    """Refuse an object that does not have the shape its file should have.

    Raises:
        RunError: naming the file and what is wrong.
    """
    if problem := misfit(value, shape):
        raise RunError(f"{path} is damaged: {problem}")
