"""The JSON file beside the picture of a confusion matrix."""

import json
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.writing import write_atomically
from jaxcifar.runs.shapes import read_object

_MOST_BYTES = 64 << 20
_ROWS = "\0"  # a class may have any other name


def write_counts(path: Path, numbers: dict[str, Any]) -> None:
    """Write the numbers with a row of "confusion" a line.

    With a number a line, 1,000 classes would have 9 MB.
    """
    text = json.dumps(numbers | {"confusion": _ROWS}, indent=2)
    before, _, after = text.rpartition(json.dumps(_ROWS))
    rows = ",\n    ".join(map(json.dumps, numbers["confusion"]))
    write_atomically(path, f"{before}[\n    {rows}\n  ]{after}\n")


def check_counts(path: Path) -> None:
    """Refuse to replace a JSON file of somebody else's.

    Raises:
        RecipeError: it holds no confusion matrix.
        RunError: it cannot be read.
    """
    if path.exists() and "confusion" not in read_object(path, _MOST_BYTES):
        raise RecipeError(
            f"{path} exists and holds no confusion matrix: name another file with --out"
        )
