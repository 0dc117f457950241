"""Open a run directory: start a run in it, or check that the run in it can continue."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jaxcifar.common.errors import CheckpointError, DataError, DataNotThereError, RunError
from jaxcifar.common.messages import counted, warn
from jaxcifar.data import Splits, check_readable, class_names
from jaxcifar.devices.machine import describe_machine
from jaxcifar.recipes.parts import NO_PARTS, Parts
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.description import describe_data
from jaxcifar.runs.directory import RunDirectory, writing
from jaxcifar.runs.extending import allowed_changes, remove_old_summary
from jaxcifar.runs.old_muon import check_muon
from jaxcifar.runs.own_parts import check_same_parts, describe_parts
from jaxcifar.runs.restore import read_recipe
from jaxcifar.runs.transfer import StartingWeights

# Of a run's own config.json, whatever it is opened with.
_KEPT = ("machine", "resumed", "asked_to_stop")


@contextmanager
def hold_directory(
    run_dir: RunDirectory,
    recipe: Recipe,
    splits: Splits,
    name: str,
    weights: StartingWeights | None,
    parts: Parts = NO_PARTS,
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[None]:
    """`prepare_directory`, and keep other processes from writing the run until the end."""
    # Before the lock, which is a file: a directory of somebody else's stays as it is.
    run_dir.check_links()
    if resume:
        run_dir.read_config()
    else:
        run_dir.check_free(overwrite=overwrite)
        # Read only after the last epoch; mended then, they would be other data than the run's.
        check_readable(splits.test)
    with run_dir.lock():
        prepare_directory(
            run_dir, recipe, splits, name, weights, parts, resume=resume, overwrite=overwrite
        )
        yield


def prepare_directory(
    run_dir: RunDirectory,
    recipe: Recipe,
    splits: Splits,
    name: str,
    weights: StartingWeights | None,
    parts: Parts = NO_PARTS,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make the run directory, or check that the run in it can continue with this recipe.

    Args:
        name: of the experiment.
        weights: those the run starts from, for config.json.
        parts: the user's own.

    Raises:
        RunError: it cannot be written, or holds another run.
    """
    if resume and overwrite:
        raise RunError("resume and overwrite exclude each other: continue the run or replace it")
    config = {
        "experiment": name,
        "recipe": recipe.located().to_dict(),
        "data_fingerprint": splits.fingerprint,
        "data": describe_data(recipe, splits),
        "weights": None if weights is None else weights.report.to_dict(),
        "machine": describe_machine(),
    }
    own = describe_parts(recipe, parts)
    if own is not None:
        config["parts"] = own
    if not resume:
        run_dir.check_free(overwrite=overwrite)
        run_dir.create(config)
        return
    before = read_recipe(run_dir, dataset=recipe.dataset)
    stored = run_dir.read_config()
    check_same_parts(run_dir.path, stored, recipe, parts)
    _check_same_run(run_dir, stored, recipe, before, splits, name)
    check_muon(run_dir, recipe)
    remove_old_summary(recipe, before, run_dir)
    config["weights"] = stored.get("weights")
    # Their file may be gone, and then a path that was given says less than the run's.
    config["recipe"] = recipe.located().to_dict() | {"weights": before.weights}
    del config["machine"]  # that which began the run stays; `note_resumed` names the others
    config |= {name: stored[name] for name in _KEPT if name in stored}
    # More epochs or patience, another place of the data, or data that were not described before.
    if config != stored:
        with writing(run_dir.config):
            run_dir.write_config(config)


def _check_same_run(
    run_dir: RunDirectory,
    stored: dict[str, Any],
    recipe: Recipe,
    before: Recipe,
    splits: Splits,
    name: str,
) -> None:
    """Refuse to continue a run with another name, other data or another recipe."""
    if stored.get("experiment") != name:
        raise RunError(
            f"{run_dir.path} holds a run of {stored.get('experiment')!r}, not of {name!r}"
        )
    check_same_data(run_dir, stored, splits)
    allowed = replace(
        allowed_changes(recipe, before, run_dir),
        dataset=recipe.dataset,  # the same contents, perhaps in another place
        follow_links=recipe.follow_links,
        eval_batch_size=recipe.eval_batch_size,
        info=recipe.dataset_info,
    )
    differing = recipe.differences(allowed)
    if differing:
        raise RunError(
            f"{run_dir.path} was started with another recipe ({'; '.join(differing)}): resume it "
            "without these options, or start a run in another --workdir"
        )


def check_same_data(
    run_dir: RunDirectory, stored: dict[str, Any], splits: Splits, way_out: str | None = None
) -> None:
    """Refuse data that are not those a run was trained on; where they lie does not matter.

    Runs written before contents were recorded are compared by names and sizes, with a warning.

    Args:
        run_dir: of the run.
        stored: its config.json.
        splits: the data that are there.
        way_out: what to do; by default, name the run's own data with --dataset.

    Raises:
        RunError: with both classes or fingerprints.
    """
    path, fingerprint = run_dir.path, stored.get("data_fingerprint")
    if "data" in stored:
        trained_on = tuple(stored["data"]["class_names"])
        if trained_on != splits.class_names:
            raise RunError(
                f"{path} was trained on other classes than those of {splits.name}:",
                *class_names.difference_lines(
                    trained_on, splits.class_names, of_known="the run", of_found="the data"
                ),
            )
    elif splits.names_and_sizes is not None and fingerprint == splits.names_and_sizes:
        warn(
            f"{path} was written before contents were recorded: its data are compared by names and "
            "sizes only"
        )
        return
    if fingerprint != splits.fingerprint:
        revision = stored.get("data", {}).get("revision")
        if splits.info is not None:
            raise RunError(
                f"{path} was trained on other arrays: these have the fingerprint "
                f"{splits.fingerprint[:12]}..., not {str(fingerprint)[:12]}...; "
                f"{way_out or 'give the own ones of the run'}"
            )
        commit = f", which were those of commit {revision} on the hub" if revision else ""
        way_out = way_out or f"name the place of the run's data{commit} with --dataset"
        raise RunError(
            f"{path} was trained on other data than the {splits.name} found: their contents have "
            f"the fingerprint {splits.fingerprint[:12]}..., not {str(fingerprint)[:12]}...; "
            f"{way_out}"
        )


def check_same_weights(
    run_dir: RunDirectory,
    source: str | None,
    sha256: str,
    way_out: str = "put those back, or start again in another --workdir",
) -> None:
    """Refuse weights that are not those a run was started from, where it has recorded them.

    Args:
        run_dir: of the run.
        source: of the weights that are there now, as the recipe names them.
        sha256: theirs.
        way_out: what to do.

    Raises:
        RunError: with both digests.
    """
    before = run_dir.read_config().get("weights")
    if before is not None and before["sha256"] != sha256:
        raise RunError(
            f"{source} holds other weights now than {run_dir.path} was started from: their SHA-256 "
            f"is {sha256[:12]}..., not {before['sha256'][:12]}...; {way_out}"
        )


def check_not_lost(run_dir: RunDirectory) -> None:
    """Refuse to start again silently where there must have been checkpoints.

    A run killed early leaves two rows and no checkpoint: the second row is written before the first
    checkpoint is complete.

    Raises:
        CheckpointError: naming the way out.
    """
    rows = len(run_dir.read_history().rows)
    if rows > 2 or run_dir.read_summary() is not None:
        raise CheckpointError(
            f"{run_dir.path} has trained {counted(rows, 'epoch')}, and {run_dir.checkpoints} "
            "holds no checkpoint: put it back, or start again with --overwrite"
        )


def check_origin(run_dir: RunDirectory, recipe: Recipe) -> None:
    """Refuse to let a run replace the run that its weights come from.

    Raises:
        RunError: naming the directory.
    """
    # Not Path.resolve, which raises a RuntimeError at a loop of links.
    if recipe.weights is not None and os.path.realpath(recipe.weights) == os.path.realpath(
        run_dir.path
    ):
        raise RunError(
            f"{run_dir.path} is the run that the weights come from: choose another --workdir"
        )


def moved_data(error: DataNotThereError) -> DataError:
    """The error, and how to name the place where a run's own data are now."""
    way_out = "if the data of the run were moved, name the place where they are with --dataset"
    return DataError(*error.args, f"  {way_out}")
