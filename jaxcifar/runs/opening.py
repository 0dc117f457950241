"""Open a run directory: make a new run in it, or check that the run in it can continue."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from jaxcifar.common.errors import CheckpointError, RunError
from jaxcifar.data import Splits
from jaxcifar.devices.machine import describe_machine
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.runs.transfer import Start


def check_not_lost(files: RunDirectory) -> None:
    """Refuse to begin anew silently where there must have been checkpoints.

    A run killed early leaves two rows and none: the second is noted before the first is complete.

    Raises:
        CheckpointError: naming the way out.
    """
    rows = len(files.read_history().rows)
    if rows > 2 or files.read_summary() is not None:
        raise CheckpointError(
            f"{files.path} has trained {rows} epochs, and {files.checkpoints} holds no checkpoint: "
            "put it back, or begin anew with --overwrite"
        )


@contextmanager
def own_run(
    files: RunDirectory,
    recipe: Recipe,
    splits: Splits,
    name: str,
    start: Start | None,
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[None]:
    """`open_run`, and no other process writes the run until the end."""
    # Before the lock, which is a file: a directory of somebody else's stays as it is.
    if resume:
        files.read_config()
    else:
        files.check_free(overwrite=overwrite)
    with files.lock():
        open_run(files, recipe, splits, name, start, resume=resume, overwrite=overwrite)
        yield


def open_run(
    files: RunDirectory,
    recipe: Recipe,
    splits: Splits,
    name: str,
    start: Start | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make the run directory, or check that the run in it can go on by this recipe.

    Raises:
        RunError: it cannot be written, or holds another run.
    """
    if resume and overwrite:
        raise RunError("resume and overwrite exclude each other: continue the run or replace it")
    config = {
        "experiment": name,
        "recipe": recipe.to_dict(),
        "data_fingerprint": splits.fingerprint,
        "weights": None if start is None else start[1].to_dict(),
        "machine": describe_machine(),
    }
    if not resume:
        files.check_free(overwrite=overwrite)
        files.create(config)
        return
    before = read_recipe(files)
    begun = files.read_config()
    if begun.get("experiment") != name:
        raise RunError(f"{files.path} holds a run of {begun.get('experiment')!r}, not of {name!r}")
    if begun.get("data_fingerprint") != splits.fingerprint:
        raise RunError(f"{files.path} was trained on other data than the {recipe.dataset} found")
    # More epochs are welcome where that leaves what was done in the epochs done as it was.
    longer = (
        recipe.epochs > before.epochs
        and (recipe.t_max or recipe.schedule == "constant")
        and recipe.lookahead_steps is None  # whose periods are counted from the run's end
    )
    allowed = replace(
        before,
        epochs=recipe.epochs if longer else before.epochs,
        eval_batch_size=recipe.eval_batch_size,
    )
    differing = recipe.differences(allowed)
    if differing:
        raise RunError(
            f"{files.path} was begun with another recipe ({'; '.join(differing)}): resume it "
            "without these options, or begin a run in another --workdir"
        )
    if longer:
        files.summary.unlink(missing_ok=True)
    if recipe != before:
        files.write_config(config | {"weights": begun.get("weights")})


def _check_origin(files: RunDirectory, recipe: Recipe) -> None:
    """A run that begins from another must not replace it."""
    # Not Path.resolve, which raises a RuntimeError at a loop of links.
    if recipe.weights is not None and os.path.realpath(recipe.weights) == os.path.realpath(
        files.path
    ):
        raise RunError(
            f"{files.path} is the run that the weights come from: choose another --workdir"
        )
