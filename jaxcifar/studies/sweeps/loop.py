"""Several runs that differ in one number, with a table and a plot. Start reading at `sweep`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from jaxcifar.common.drawing import try_to_draw
from jaxcifar.common.errors import ExhaustedError, RecipeError
from jaxcifar.common.figure import save_figure
from jaxcifar.common.messages import counted, did_you_mean, reason_of, say, warn
from jaxcifar.common.writing import write_atomically
from jaxcifar.data import Splits
from jaxcifar.devices.backend import find_devices
from jaxcifar.devices.machine import describe_machine
from jaxcifar.devices.memory import is_exhausted
from jaxcifar.recipes.own import with_parts
from jaxcifar.recipes.parts import NO_PARTS
from jaxcifar.recipes.recipe import Recipe, check_is_recipe
from jaxcifar.runs.curves import CurvesFile
from jaxcifar.runs.directory import RunDirectory, refuse_links
from jaxcifar.runs.transfer import starting_weights
from jaxcifar.studies.sweeps.directory import (
    SweepDirectory,
    check_origin,
    check_resumable,
    check_same_start,
    is_finished,
)
from jaxcifar.studies.sweeps.measured_mode import Choice, Mode, choose, images_too_large, too_large
from jaxcifar.studies.sweeps.members import (
    Member,
    check_pictures,
    chooses_images,
    make_members,
    why_not_together,
)
from jaxcifar.studies.sweeps.plot import plot_sweep
from jaxcifar.studies.sweeps.result import (
    MemberResult,
    SweepResult,
    markdown_table,
    scores,
    text_table,
)
from jaxcifar.studies.sweeps.vmapped import make_groups, train_together
from jaxcifar.training.fit import fit
from jaxcifar.training.plan import check_splits, check_stages, limit_splits

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

    The members are ordinary runs, each in its own directory inside `workdir`. They have the numbers
    of a `fit` by themselves: to the bit if they run one after another, to rounding if they run as
    one program. A member whose numbers are no longer finite stops, and the others continue.

    Args:
        recipe: every setting but that field.
        field: any numeric one, see `members.numeric_fields`.
        values: of the field, each once.
        splits: the data, which may be arrays, see `Recipe.on`; for a field that chooses images, a
            function such as `load_splits`.
        workdir: for `sweep.json`, the members, `table.md` and `figures/sweep.png`.
        experiment: a name for titles, sweep.json and the members' config.json.
        mode: "vmap" is one program, "sequential" one run after another; where both are possible
            "auto" measures both and takes the faster.
        resume: continue the sweep in `workdir`: finished members are kept, the others continued,
            and new values started.
        overwrite: replace the sweep in `workdir`.
        verbose: print how it runs and why, an epoch a line, and the table.

    Raises:
        RecipeError: the field, a value or the mode is not possible; nothing has been written.
        RunError: `workdir` holds something that may not be overwritten, or another sweep; or, when
            all else is done, members ran out of memory.
        WeightsError, FeatureError, DeviceError: as for `fit`.

    Example:
        >>> import tempfile
        >>> from jaxcifar import Recipe, load_splits, sweep
        >>> recipe = Recipe(
        ...     dataset="digits", normalization="half", width=1, resize=8, epochs=1,
        ...     train_size=100, validation_size=50, batch_size=50,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = sweep(
        ...         recipe, "seed", [0], load_splits(recipe), workdir=folder + "/sweep",
        ...         mode="sequential",
        ...     )
        >>> [member.value for member in result.members]
        [0]
    """
    find_devices()
    check_is_recipe(recipe)
    if isinstance(splits, Splits) or not callable(splits):
        recipe = recipe.on(splits)
    members = make_members(recipe, field, values)
    for member in members:  # before anything is overwritten
        with_parts(member.recipe, NO_PARTS)
    sweep_dir = SweepDirectory(Path(workdir))
    sweep_dir.check_usable(resume=resume, overwrite=overwrite)
    with sweep_dir.lock():
        plan = _plan(
            recipe, field, members, splits, sweep_dir, experiment, mode, resume=resume,
            overwrite=overwrite,
        )  # fmt: skip
        if not resume and sweep_dir.holds_sweep():
            sweep_dir.clear()
        plan.write()
        _train(plan, verbose=verbose)
        result = _result(plan)
        _write_result(plan, result)
    if verbose:
        say(*text_table(result).rstrip("\n").split("\n"))
        say(*(f"{name}: {text}" for name, text in plan.failures.items()))
        plot = "figures/sweep.png, " if sweep_dir.figure.is_file() else ""
        say(f"wrote {sweep_dir.path}: table.md, {plot}and a run for each member")
    if plan.exhausted:
        raise _out_of_memory(plan)
    return result


@dataclass
class SweepPlan:
    """A sweep, checked and with its data, before anything is written.

    Attributes:
        name: of the experiment.
        recipe: every setting but the field.
        field: the one in which the members differ.
        members: all of them, in the order of their values.
        pending: those that are not finished.
        data: of each member, by its name.
        choice: how the pending ones run, and why.
        failures: members whose numbers were no longer finite -> the message.
        sweep_dir: where all is written.
        machine: that which began the sweep; every member notes its own.
        exhausted: members that ran out of memory in this call -> the reason; the next tries again.
    """

    name: str
    recipe: Recipe
    field: str
    members: Sequence[Member]
    pending: Sequence[Member]
    data: dict[str, Splits]
    choice: Choice
    failures: dict[str, str]
    sweep_dir: SweepDirectory
    machine: dict[str, Any]
    exhausted: dict[str, str]

    def write(self) -> None:
        """Write sweep.json."""
        self.sweep_dir.write(
            {
                "experiment": self.name,
                "field": self.field,
                "values": [member.value for member in self.members],
                "recipe": self.recipe.located().to_dict(),
                **self.choice._asdict(),
                "failures": self.failures,
                "machine": self.machine,
            }
        )


def _plan(
    recipe: Recipe,
    field: str,
    members: Sequence[Member],
    splits: Splits | SplitsOf,
    sweep_dir: SweepDirectory,
    experiment: str | None,
    mode: Mode,
    *,
    resume: bool,
    overwrite: bool,
) -> SweepPlan:
    """Check everything that can be checked before anything is written, in this order."""
    blocked = why_not_together(field, members) if len(members) > 1 else "it has one member"
    _check_mode(mode, blocked, members)
    before = check_resumable(sweep_dir, recipe, experiment, field, members) if resume else None
    name = experiment or (recipe.dataset if before is None else before["experiment"])
    # Once more: another process may have held it until now.
    sweep_dir.check_usable(resume=resume, overwrite=overwrite)
    if not resume:
        check_origin(sweep_dir, recipe)
    refuse_links(sweep_dir.figure.parent, *(sweep_dir.run(m.name).path for m in members))
    data = _member_data(field, members, splits)
    for member in members:
        check_stages(member.recipe, limit_splits(member.recipe, data[member.name]))
    if not resume and recipe.weights is not None:
        # Weights that do not fit leave everything as it was.
        starting_weights(members[0].recipe, data[members[0].name])
    failures: dict[str, str] = {} if before is None else before["failures"]
    # Members of a sweep that is replaced are not finished members of this one.
    pending = [
        m
        for m in members
        if not resume or (m.name not in failures and not is_finished(sweep_dir.run(m.name), m))
    ]
    if resume:
        check_same_start(sweep_dir, members, pending, data)
    new = [m for m in pending if not (resume and sweep_dir.run(m.name).holds_run())]
    check_pictures(field, new, data)
    choice = _choose(mode, blocked, before, field, pending, data)
    if before is not None:
        # The weights may be gone, and then a path that was given says less than the sweep's.
        recipe = replace(recipe, weights=before["recipe"].get("weights"))
    machine = (before or {}).get("machine") or describe_machine()
    return SweepPlan(
        name, recipe, field, members, pending, data, choice, failures, sweep_dir, machine, {}
    )


def _train(plan: SweepPlan, *, verbose: bool) -> None:
    """Train the pending members to their end, each in its run directory."""
    groups = make_groups(plan.pending, plan.sweep_dir) if plan.choice.mode == "vmap" else []
    if verbose:
        alone = plan.choice.mode == "vmap" and plan.pending and not groups
        form = "as one program" if plan.choice.mode == "vmap" else "one after another"
        why = "those left are by themselves" if alone else plan.choice.why
        say(f"{len(plan.members)} members, {form}: {why}", flush=True)
    together = {member.name for group in groups for member in group}
    for group in groups:
        run_dirs = [plan.sweep_dir.run(member.name) for member in group]
        data = plan.data[group[0].name]
        try:
            plan.failures |= train_together(
                plan.field, group, data, run_dirs, experiment=plan.name, verbose=verbose
            )
        except Exception as error:
            if not is_exhausted(error):
                raise
            text = "memory ran out as one program"
            warn(f"{plan.sweep_dir.path}: {text}: the members run one after another instead")
            plan.choice = Choice("sequential", text, plan.choice.measured)
            together -= {member.name for member in group}
        plan.write()
    # One after another; of members that trained together it only scores the test images.
    for member in plan.pending:
        if member.name not in plan.failures:
            _train_alone(plan, member, verbose=verbose and member.name not in together)


def _train_alone(plan: SweepPlan, member: Member, *, verbose: bool) -> None:
    """Train a member by `fit`, or finish one that was trained together with others.

    Its end is not the end of the others if its numbers are not finite, or memory runs out.
    """
    run_dir = plan.sweep_dir.run(member.name)
    if verbose:
        say(member.name, flush=True)
    try:
        fit(
            member.recipe,
            plan.data[member.name],
            workdir=run_dir.path,
            experiment=plan.name,
            resume=run_dir.holds_run(),
            verbose=verbose,
        )
    except FloatingPointError as error:
        plan.failures[member.name] = str(error)
        plan.write()
    except Exception as error:
        if not is_exhausted(error):
            raise
        # Of the error nothing else is kept: its traceback holds the member's arrays.
        plan.exhausted[member.name] = reason_of(error)


def _out_of_memory(plan: SweepPlan) -> ExhaustedError:
    """Which members ran out of memory, and what to do."""
    names = "; ".join(f"{name} ({reason})" for name, reason in plan.exhausted.items())
    return ExhaustedError(
        f"{plan.sweep_dir.path}: out of memory: {names}; the rest is written",
        way_out="with more memory, or with a smaller --eval-batch-size if it ran out in scoring, "
        "resume=True (--resume) tries again; or sweep without such values in another --workdir",
    )


def _check_mode(mode: str, blocked: str | None, members: Sequence[Member]) -> None:
    if mode not in get_args(Mode):
        raise RecipeError(f"unknown mode {mode!r}{did_you_mean(mode, get_args(Mode))}")
    _check_together(mode, blocked or (too_large(members) if mode == "vmap" else None))


def _check_together(mode: str, blocked: str | None) -> None:
    if mode == "vmap" and blocked is not None:
        raise RecipeError(f"mode vmap: {blocked}; use mode sequential, or auto")


def _member_data(
    field: str, members: Sequence[Member], splits: Splits | SplitsOf
) -> dict[str, Splits]:
    """The data of each member, by its name; one copy where they are the same."""
    own_images = chooses_images(members[0].recipe, field)
    if isinstance(splits, Splits):
        if own_images and len(members) > 1:
            raise RecipeError(
                f"{field} chooses the images: pass a function of the recipe, such as load_splits, "
                "instead of the data"
            )
        data = {member.name: splits for member in members}
    elif own_images:
        data = {member.name: splits(member.recipe) for member in members}
    else:
        data = dict.fromkeys((m.name for m in members), splits(members[0].recipe))
    for member in members:
        check_splits(member.recipe, data[member.name])
    return data


def _choose(
    mode: Mode,
    blocked: str | None,
    before: dict[str, Any] | None,
    field: str,
    pending: Sequence[Member],
    data: dict[str, Splits],
) -> Choice:
    """How the pending members run.

    Raises:
        RecipeError: as one program, which is asked for, their images do not fit.
    """
    if blocked is None and mode != "sequential" and len(pending) > 1:
        blocked = images_too_large(pending[0].recipe, data[pending[0].name])
        _check_together(mode, blocked)
    # For a single member there was nothing to choose.
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


def _result(plan: SweepPlan) -> SweepResult:
    results = []
    for member in plan.members:
        run_dir = plan.sweep_dir.run(member.name)
        results.append(
            MemberResult(
                member.value,
                run_dir.path,
                run_dir.read_history(),
                run_dir.read_summary(),
                plan.failures.get(member.name),
            )
        )
    values = tuple(member.value for member in plan.members)
    return SweepResult(plan.field, values, plan.choice.mode, plan.choice.why, tuple(results))


def _write_result(plan: SweepPlan, result: SweepResult) -> None:
    """Write the table; then draw the plot, and the curves that finished members lack."""
    write_atomically(plan.sweep_dir.table, markdown_table(result))
    if not result.finished:
        return
    then = "the sweep is complete; --resume draws it when the reason is mended"
    drawn = try_to_draw(plan.sweep_dir.figure, lambda: _draw(plan, result), then)
    for member in result.finished if drawn else ():
        CurvesFile(RunDirectory(member.path)).finish_if_absent(then)


def _draw(plan: SweepPlan, result: SweepResult) -> None:
    columns = {"train": "train", "validation": "validation, last", "test": "test, last"}
    same_length = result.field not in ("epochs", "patience") and plan.recipe.patience is None
    after = f" after {counted(plan.recipe.epochs, 'epoch')}" if same_length else ""
    figure = plot_sweep(
        result.field,
        [member.value for member in result.finished],
        {split: scores(result, column) for split, column in columns.items()},
        title=f"{plan.name}: accuracy{after} against {result.field}",
    )
    save_figure(figure, plan.sweep_dir.figure)
