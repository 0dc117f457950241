"""When a run stops early: a function of its recipe and of its rows, and of nothing else.

So the answer is the same after a resume, and the recipe alone determines the run.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.history import Row


class Stopped(NamedTuple):
    """The end of a run before its last epoch."""

    epoch: int  # the last one trained
    reason: str  # "patience" or "on_epoch"


def higher_is_better(recipe: Recipe) -> bool:
    """Whether more of `patience_metric` is better: of a loss it is less."""
    if recipe.patience_mode == "auto":
        return recipe.patience_metric != "validation_loss"
    return recipe.patience_mode == "max"


def best_score(recipe: Recipe, row: Row) -> float:
    """What chooses the best checkpoint: higher is better; -inf without a finite validation."""
    value = row[recipe.patience_metric]
    if value is None or not math.isfinite(value):
        return -math.inf
    return float(value) if higher_is_better(recipe) else -float(value)


def score_to_store(recipe: Recipe, row: Row) -> float | None:
    """The score for a checkpoint; None where the validation accuracy itself is the score."""
    by_accuracy = recipe.patience_metric == "validation_accuracy" and higher_is_better(recipe)
    return None if by_accuracy else best_score(recipe, row)


def first_without_patience(
    scores: Iterable[tuple[int, float]], patience: int, min_delta: float = 0.0
) -> int | None:
    """The epoch after which the best score had not improved for `patience` validations, or None.

    Args:
        scores: (epoch, score) of each validation in order; higher is better.
        patience: validations, at least 1.
        min_delta: a score improves on the best one if it is larger by more than this.

    Example:
        >>> first_without_patience([(1, 0.5), (2, 0.7), (3, 0.6), (4, 0.7), (5, 0.9)], 2)
        4
    """
    best, since = -math.inf, 0
    for epoch, score in scores:
        if score > best + min_delta:
            best, since = score, 0
        else:
            since += 1
        if since == patience:
            return epoch
    return None


def stop_epoch(recipe: Recipe, rows: Iterable[Row]) -> int | None:
    """The epoch after which the recipe's patience ran out, or None if it has not."""
    if recipe.patience is None:
        return None
    validated = (row for row in rows if row["validation_accuracy"] is not None)
    scores = ((row["epoch"], best_score(recipe, row)) for row in validated)
    return first_without_patience(scores, recipe.patience, recipe.patience_min_delta)
