"""More epochs for a run: what of its recipe may change without changing what was trained."""

from dataclasses import replace

from jaxcifar.common.errors import RunError
from jaxcifar.common.messages import counted
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.settings import OWN
from jaxcifar.runs.directory import RunDirectory, writing
from jaxcifar.runs.patience import stop_epoch
from jaxcifar.runs.restore import read_recipe


def with_stored_schedule(recipe: Recipe, run_dir: RunDirectory) -> Recipe:
    """The recipe to continue a run with: its schedule ends where the run's always did.

    A schedule that ends with the run (`t_max` not set) would be stretched by more epochs, the past
    with it. It keeps its length as `t_max`, and `after_schedule` says what follows.

    Args:
        recipe: what is asked for.
        run_dir: of the run; without one in it the recipe is returned as it is.

    Raises:
        RunError: the choice is missing, or there is none; with the rates that each would have.
    """
    if not run_dir.holds_run():
        return recipe
    before = read_recipe(run_dir, dataset=recipe.dataset)
    if recipe.t_max is not None or recipe.schedule == "constant" or has_own_rate(before, run_dir):
        return recipe
    if before.t_max is not None:
        # The same call once more: the first one has stored the length.
        same = recipe.after_schedule == before.after_schedule != "formula"
        return replace(recipe, t_max=before.t_max) if same else recipe
    if recipe.epochs <= before.epochs or recipe.schedule != before.schedule:
        return recipe
    check_lookahead(recipe, run_dir)
    kept = replace(recipe, t_max=float(before.epochs))
    if recipe.after_schedule == "formula":
        raise RunError(
            f"{run_dir.path} has a {recipe.schedule} schedule that ends with its "
            f"{counted(before.epochs, 'epoch')}, so --epochs {recipe.epochs} needs "
            f"--after-schedule: {_choices(kept)}"
        )
    if recipe.after_schedule == "final" and recipe.final_scale == 0:
        raise RunError(
            f"--after-schedule final: the final rate of {run_dir.path} is 0, which would train "
            "nothing; use --after-schedule restart"
        )
    return kept


def _choices(kept: Recipe) -> str:
    """What may follow the schedule's end, with the rates."""
    final, length = kept.final_scale * kept.learning_rate, kept.t_max
    assert length is not None
    added = kept.epochs - int(length)
    nothing = ", which would train nothing" if final == 0 else ""
    again = replace(kept, after_schedule="restart")
    last = kept.epochs * kept.steps_per_epoch - 1
    periods = f"in periods of {counted(int(length), 'epoch')}"
    in_added = ""
    if added != length:
        in_added = f" (--restart-epochs {added} lets it fall to {final:.3g} by then)"
    return (
        f"final keeps the final rate, {final:.3g}{nothing}; restart begins again at "
        f"{kept.learning_rate:.3g} {periods}, and ends epoch {kept.epochs} at "
        f"{float(again.make_schedule()(last)):.3g}{in_added}"
    )


def has_own_rate(before: Recipe, run_dir: RunDirectory) -> bool:
    """Whether a run's rate is of a schedule or transformation of the user's, which go on."""
    own = run_dir.read_config().get("parts") or {}
    return before.optimizer == OWN or "schedule" in own


def check_lookahead(recipe: Recipe, run_dir: RunDirectory) -> None:
    """Refuse more epochs for a run with Lookahead.

    Raises:
        RunError: with the reason.
    """
    if recipe.lookahead_steps is not None:
        raise RunError(
            f"{run_dir.path} cannot be given more epochs (epochs: {recipe.epochs}): the periods of "
            "its Lookahead are counted from the run's end; start a run in another --workdir"
        )


def allowed_changes(recipe: Recipe, before: Recipe, run_dir: RunDirectory) -> Recipe:
    """The run's recipe, with those settings of `recipe` that change nothing already trained.

    Args:
        recipe: to continue with.
        before: the run's.
        run_dir: of the run.

    Raises:
        RunError: fewer epochs, or less patience than the run has already needed.
    """
    if recipe.epochs < before.epochs:
        raise RunError(
            f"{run_dir.path} has {counted(before.epochs, 'epoch')}, so it cannot end "
            f"after {recipe.epochs} (epochs: {recipe.epochs}, not {before.epochs}): "
            "give it as many or more, or start a run in another --workdir"
        )
    grown = before
    end, new_end = before.t_max or before.epochs, recipe.t_max or recipe.epochs
    known = recipe.schedule == "constant" or end == new_end or has_own_rate(before, run_dir)
    if recipe.epochs > before.epochs and known:
        check_lookahead(recipe, run_dir)
        grown = replace(grown, epochs=recipe.epochs)
    if recipe.schedule != "constant" and end == new_end:
        grown = replace(grown, t_max=recipe.t_max)
        if before.epochs <= end:  # nothing after the schedule's end was trained
            after, repeated = recipe.after_schedule, recipe.restart_epochs
            grown = replace(grown, after_schedule=after, restart_epochs=repeated)
    if recipe.patience is None and before.patience is not None:
        return _without_patience(grown, recipe, before, run_dir)
    if recipe.patience != before.patience:
        _check_patience(recipe, run_dir)
        grown = replace(grown, patience=recipe.patience)
    return grown


def _without_patience(
    grown: Recipe, recipe: Recipe, before: Recipe, run_dir: RunDirectory
) -> Recipe:
    """A run that had patience goes on without it, and without the margin that was for it alone."""
    for name in ("patience_metric", "patience_mode"):
        if getattr(before, name) != getattr(recipe, name):
            raise RunError(
                f"{run_dir.path} chose its best checkpoint by {before.patience_metric}, with a "
                f"patience of {before.patience} ({name}: {getattr(recipe, name)}, not "
                f"{getattr(before, name)}): continue it with all of them, or with more patience"
            )
    return replace(grown, patience=None, patience_min_delta=recipe.patience_min_delta)


def _check_patience(recipe: Recipe, run_dir: RunDirectory) -> None:
    """Refuse another patience that has run out in the epochs already trained."""
    rows = run_dir.read_history().rows
    ended = stop_epoch(recipe, rows)
    if ended is not None:
        raise RunError(
            f"--patience {recipe.patience} would have stopped {run_dir.path} after epoch {ended}, "
            f"and it has trained {len(rows)}: use more patience"
        )


def remove_old_summary(recipe: Recipe, before: Recipe, run_dir: RunDirectory) -> None:
    """Before a complete run goes on: its summary is of a shorter one."""
    more = recipe.epochs > before.epochs
    if not more and recipe.patience != before.patience:
        summary = run_dir.read_summary()
        more = summary is not None and summary.get("stopped_by") == "patience"
    if more:
        with writing(run_dir.summary):
            run_dir.summary.unlink(missing_ok=True)
