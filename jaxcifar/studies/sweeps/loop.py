"""Several runs that differ in one number, with a table and a plot. Read it from `sweep` down."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.common.figure import save_figure
from jaxcifar.common.files import write_atomically
from jaxcifar.common.messages import did_you_mean
from jaxcifar.data import Splits
from jaxcifar.devices.machine import describe_machine
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_not_lost
from jaxcifar.runs.transfer import starting_weights
from jaxcifar.studies.sweeps.directory import SweepDirectory, check_resumable
from jaxcifar.studies.sweeps.measured_mode import Choice, Mode, choose, too_large
from jaxcifar.studies.sweeps.members import DATA_FIELDS, Member, make_members, why_not_together
from jaxcifar.studies.sweeps.plot import plot_sweep
from jaxcifar.studies.sweeps.result import (
    MemberResult,
    SweepResult,
    markdown_table,
    scores,
    text_table,
)
from jaxcifar.studies.sweeps.vmapped import train_together
from jaxcifar.training.fit import fit
from jaxcifar.training.plan import check_splits, check_stages

SplitsOf = Callable[[Recipe], Splits]


def sweep(
    recipe: Recipe,
    field: str,
    values: Sequence[Any],
    splits: Splits | SplitsOf,
    *,
    workdir: str | Path,
    experiment: str | None = None,
    mode: Mode = "auto",
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
) -> SweepResult:
    """Train a recipe once for each value of one of its fields.

    The members are ordinary runs, each in a directory of its own inside `workdir`, and have the
    numbers of their own `fit` whichever way they run: one program (to rounding) or one after
    another (to the bit). A member whose numbers are no longer finite stops, and the others go on.

    Args:
        recipe: every setting but that field.
        field: any numeric one, see `members.numeric_fields`.
        values: of the field, each once.
        splits: the data; a function such as `recipe.load_splits` for a field that chooses images.
        workdir: for `sweep.json`, the members, `table.md` and `figures/sweep.png`.
        experiment: a name for titles, sweep.json and the members' config.json.
        mode: "vmap" is one program, "sequential" one run after another; "auto" measures, where
            both are possible, and takes the faster.
        resume: go on with the sweep in `workdir`: finished members are kept, the others continued,
            values that are new begun.
        overwrite: replace the sweep in `workdir`.
        verbose: print how it runs and why, an epoch a line, and the table.

    Raises:
        RecipeError: the field, a value or the mode cannot be; nothing has been written.
        RunError: `workdir` holds something that may not be overwritten, or another sweep.
        WeightsError, FeatureError: as for `fit`.
    """
    name = experiment or recipe.dataset
    members = make_members(recipe, field, values)
    blocked = why_not_together(field, members) if len(members) > 1 else "it has one member"
    _check_mode(mode, blocked, members)
    if resume and overwrite:
        raise RunError("resume and overwrite exclude each other: continue the sweep or replace it")
    files = SweepDirectory(Path(workdir))
    before = check_resumable(files, recipe, name, field, members) if resume else None
    if not resume:
        files.check_free(overwrite=overwrite)
        _check_origin(files, recipe)
    data = _member_data(field, members, splits)
    for member in members:
        check_stages(member.recipe, data[member.name])
    if not resume and recipe.weights is not None:
        starting_weights(members[0].recipe)  # what cannot be had leaves everything as it was

    failures: dict[str, str] = {} if before is None else before["failures"]
    # What lies there of a sweep that is replaced does not count.
    pending = [
        m
        for m in members
        if not resume or (m.name not in failures and files.run(m.name).read_summary() is None)
    ]
    choice = _choose(mode, blocked, before, field, pending, data)
    if overwrite and files.holds_sweep():
        files.clear()
    description = {
        "experiment": name,
        "field": field,
        "values": [member.value for member in members],
        "recipe": recipe.to_dict(),
        **choice._asdict(),
        "failures": failures,
        "machine": describe_machine(),
    }
    files.write(description)
    if verbose:
        form = "as one program" if choice.mode == "vmap" else "one after another"
        print(f"{len(members)} members, {form}: {choice.why}", flush=True)

    groups = _groups(pending, files) if choice.mode == "vmap" else []
    together = {member.name for group in groups for member in group}
    for group in groups:
        runs = [files.run(member.name) for member in group]
        failures |= train_together(
            field, group, data[group[0].name], runs, experiment=name, verbose=verbose
        )
        files.write(description | {"failures": failures})
    # One after another; of members trained together it only scores the test images.
    for member in pending:
        if member.name in failures:
            continue
        run = files.run(member.name)
        alone = member.name not in together
        if verbose and alone:
            print(member.name, flush=True)
        try:
            fit(
                member.recipe,
                data[member.name],
                workdir=run.path,
                experiment=name,
                resume=run.holds_run(),
                verbose=verbose and alone,
            )
        except FloatingPointError as error:
            failures[member.name] = str(error)
            files.write(description | {"failures": failures})
    result = _result(field, members, choice, failures, files)
    _write_result(result, files, name, recipe)
    if verbose:
        print(text_table(result), end="")
        print("".join(f"{name}: {text}\n" for name, text in failures.items()), end="")
        print(f"wrote {files.path}: table.md, figures/sweep.png, and a run for each member")
    return result


def _check_mode(mode: str, blocked: str | None, members: Sequence[Member]) -> None:
    if mode not in get_args(Mode):
        raise RecipeError(f"unknown mode {mode!r}{did_you_mean(mode, get_args(Mode))}")
    reason = blocked or (too_large(members) if mode == "vmap" else None)
    if mode == "vmap" and reason is not None:
        raise RecipeError(f"mode vmap: {reason}; use mode sequential, or auto")


def _check_origin(files: SweepDirectory, recipe: Recipe) -> None:
    """A sweep that begins from a run must not replace it."""
    # Not Path.resolve, which fails on a loop of links.
    origin = None if recipe.weights is None else Path(os.path.realpath(recipe.weights))
    if origin is not None and origin.is_relative_to(os.path.realpath(files.path)):
        raise RunError(
            f"the weights come from {recipe.weights}, inside {files.path}: choose another --workdir"
        )


def _member_data(
    field: str, members: Sequence[Member], splits: Splits | SplitsOf
) -> dict[str, Splits]:
    """The data of each member, by its name; one copy where they are the same."""
    if isinstance(splits, Splits):
        if field in DATA_FIELDS and len(members) > 1:
            raise RecipeError(
                f"{field} chooses the images: give a function of the recipe, such as load_splits, "
                "in place of the data"
            )
        found = {member.name: splits for member in members}
    elif field in DATA_FIELDS:
        found = {member.name: splits(member.recipe) for member in members}
    else:
        found = dict.fromkeys((m.name for m in members), splits(members[0].recipe))
    for member in members:
        check_splits(member.recipe, found[member.name])
    return found


def _choose(
    mode: Mode,
    blocked: str | None,
    before: dict[str, Any] | None,
    field: str,
    pending: Sequence[Member],
    data: dict[str, Splits],
) -> Choice:
    """How the members that are left run."""
    # What was said of a single member was no choice.
    if before is not None and (not pending or (mode == "auto" and len(before["values"]) > 1)):
        stored = Choice(before["mode"], before["why"], before["measured"])
        if stored.mode == "sequential" or blocked is None or not pending:
            return stored
    if blocked is not None:
        return Choice("sequential", blocked, None)
    if mode != "auto":
        return Choice(mode, "as asked", None)
    if len(pending) < 2:
        return Choice("sequential", "one member is left", None)
    return choose(field, pending, data[pending[0].name])


def _groups(members: Sequence[Member], files: SweepDirectory) -> list[list[Member]]:
    """Members that stand at the same step and have some left; a crash can leave them apart.

    One that was stopped in the middle of an epoch goes on by itself.
    """
    by_step: dict[int, list[Member]] = {}
    for member in members:
        step = _last_step(files.run(member.name))
        if step is not None:
            by_step.setdefault(step, []).append(member)
    recipe = members[0].recipe if members else None
    return [
        group
        for step, group in by_step.items()
        if len(group) > 1 and recipe and step < recipe.epochs * recipe.steps_per_epoch
    ]


def _last_step(run: RunDirectory) -> int | None:
    """Where a member stands, None in the middle of an epoch.

    Raises:
        CheckpointError: it has trained, and its checkpoints are gone or all damaged.
    """
    if not run.checkpoints.is_dir():
        if run.holds_run():
            check_not_lost(run)
        return 0
    with run.lock(), Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.set_damaged_aside()  # before they are grouped by where they stand
        step = max(checkpoints.steps(), default=0)
        if step == 0:
            check_not_lost(run)
        return None if step and checkpoints.progress(step) is not None else step


def _result(
    field: str,
    members: Sequence[Member],
    choice: Choice,
    failures: dict[str, str],
    files: SweepDirectory,
) -> SweepResult:
    found = []
    for member in members:
        run = files.run(member.name)
        found.append(
            MemberResult(
                member.value,
                run.path,
                run.read_history(),
                run.read_summary(),
                failures.get(member.name),
            )
        )
    values = tuple(member.value for member in members)
    return SweepResult(field, values, choice.mode, choice.why, tuple(found))


def _write_result(result: SweepResult, files: SweepDirectory, name: str, recipe: Recipe) -> None:
    write_atomically(files.table, markdown_table(result))
    if not result.finished:
        return
    columns = {"train": "train", "validation": "validation, last", "test": "test, last"}
    after = "" if result.field == "epochs" else f" after {recipe.epochs} epochs"
    figure = plot_sweep(
        result.field,
        [member.value for member in result.finished],
        {split: scores(result, column) for split, column in columns.items()},
        title=f"{name}: accuracy{after} against {result.field}",
    )
    save_figure(figure, files.figure)
