"""The course report from one call: a loop over the plan that runs what is left of it.

Everything is read from the directory again after each item, so that a call that is interrupted, or
killed, leaves a page of what there is, and the next call goes on.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxcifar.common.errors import EXPECTED, RunError, WeightsError
from jaxcifar.models.weights import read_weights
from jaxcifar.recipes.recipe import Recipe, load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.studies.reproduction.directory import ReportDirectory, complete_run
from jaxcifar.studies.reproduction.plan import PLAN, Item, Settings, recipe_of, select
from jaxcifar.studies.reproduction.report import without_folder
from jaxcifar.studies.sweeps import sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.training.fit import fit

Job = tuple[Item, int]  # and the seed


def reproduce(
    out: str | Path,
    settings: Settings | None = None,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    plan: Sequence[Item] = PLAN,
    verbose: bool = True,
) -> Path:
    """Run what is left of the plan and write the page; returns the page's path.

    An item that is complete is skipped, one that was begun goes on from its last epoch. An item
    that fails for a reason a user can act on (weights that cannot be had, say) is noted on the page
    and the others go on. However the call ends, the page says what there is.

    Args:
        out: the directory for all of it: new, empty, or of an earlier call; see `report_folder`.
        settings: scale, weights, seeds and departures; see `plan.Settings`.
        only, skip: ids of items; `-` and `_` are the same.
        plan: what to run, in order.
        verbose: print what is going on.

    Raises:
        RunError: `out` holds something else, or runs by other settings (nothing is changed); or,
            when all else is done, items that did not run.
        RecipeError: an unknown id or a setting that cannot be.
        DataError, WeightsError: the data, or the weights that were named, cannot be had.
    """
    settings = settings or Settings()
    folder = ReportDirectory(Path(out), plan)
    chosen = select(plan, only, skip)
    # Everything with the first seed, then the other seeds of what is trained alone.
    later = range(settings.seed + 1, settings.seed + settings.seeds)
    jobs = [(item, settings.seed) for item in chosen]
    jobs += [(item, seed) for seed in later for item in chosen if item.kind == "run"]
    mark = folder.open(settings, chosen)
    _check(folder, jobs, settings)

    folder.write_mark(mark)
    failed: dict[str, str] = {}
    unavailable: dict[str, str] = {}
    try:
        for number, job in enumerate(jobs, start=1):
            item, seed = job
            if _is_complete(folder, job, settings):
                mark.failed.pop(item.name, None)
                continue
            folder.write_page()
            if verbose:
                name = folder.run_path(item, seed, settings.seed).name
                print(f"\n[{number}/{len(jobs)}] {name}: {item.title}", flush=True)
            try:
                if item.kind == "pictures":
                    _draw(folder, item, settings)
                else:
                    _train(folder, job, settings, unavailable, verbose=verbose)
                mark.failed.pop(item.name, None)
            except EXPECTED as error:
                failed[item.name] = " ".join(str(error).split())
                mark.failed[item.name] = _for_page(str(error), folder, settings)
                if verbose:
                    print(f"{item.name} did not run: {failed[item.name]}", flush=True)
            folder.write_mark(mark)
    finally:
        folder.write_mark(mark)
        page = folder.write_page()
    if verbose:
        print(f"\nwrote {page} and {page.with_name('report.md')}", flush=True)
    if failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
        raise RunError(f"{len(failed)} of {len(chosen)} items did not run: {reasons}")
    return page


def describe_plan(out: str | Path, plan: Sequence[Item] = PLAN) -> str:
    """The plan, a line an item, with what `out` holds of it; nothing is run or written."""
    return ReportDirectory(Path(out), plan).describe()


def _check(folder: ReportDirectory, jobs: Iterable[Job], settings: Settings) -> None:
    """Find what would stop the call, before anything runs."""
    left = []
    for item, seed in jobs:
        if item.preset is None:
            continue
        recipe = recipe_of(item, settings, seed)
        found = [(folder.run_path(item, seed, settings.seed), recipe)]
        if item.swept is not None:
            found = [
                (path, Recipe.from_dict(recipe.to_dict() | {item.swept: value}))
                for value, path in folder.members(item)
            ]
        for path, wanted in found:
            if not RunDirectory(path).holds_run():
                continue
            differing = wanted.differences(read_recipe(RunDirectory(path)))
            if differing:
                raise RunError(
                    f"{path} was begun with another recipe ({'; '.join(differing)}): repeat the "
                    "options it was begun with, remove it, or choose another --out"
                )
        if not _is_complete(folder, (item, seed), settings):
            left.append(recipe)
    if settings.weights is not None and not RunDirectory(Path(settings.weights)).holds_run():
        read_weights(settings.weights)
    if left:
        load_splits(left[0], settings.data_dir)


def _is_complete(folder: ReportDirectory, job: Job, settings: Settings) -> bool:
    item, seed = job
    if item.kind == "pictures":
        drawings = folder.drawings(item)
        return bool(drawings) and all(drawing.is_done() for drawing in drawings)
    if item.kind == "sweep":
        return all(complete_run(path) is not None for _, path in folder.members(item))
    if complete_run(folder.run_path(item, seed, settings.seed)) is not None:
        return True
    first = seed == settings.seed
    return first and folder.shared_run(item, recipe_of(item, settings, seed)) is not None


def _for_page(reason: str, folder: ReportDirectory, settings: Settings) -> str:
    """A reason without folders of this machine: the page is for others, too."""
    places = [folder.path]
    if settings.data_dir is not None:
        places.insert(0, Path(settings.data_dir))
    if settings.weights is not None and Path(settings.weights).exists():
        weights = Path(settings.weights).absolute()
        places = [weights, weights.resolve().parent, weights.parent, *places]
    for place in places:
        reason = without_folder(reason, place)
    return " ".join(reason.split())


def _draw(folder: ReportDirectory, item: Item, settings: Settings) -> None:
    drawings = folder.drawings(item)
    if not drawings:
        raise RunError("no run is complete that it could be drawn from")
    for drawing in drawings:
        if not drawing.is_done():
            drawing.make(settings.data_dir)


def _train(
    folder: ReportDirectory,
    job: Job,
    settings: Settings,
    unavailable: dict[str, str],
    *,
    verbose: bool,
) -> None:
    """Run a run or a sweep, or the rest of it.

    Args:
        unavailable: weights -> why they cannot be had: a hub that does not answer is asked once.
    """
    item, seed = job
    recipe = recipe_of(item, settings, seed)
    if recipe.weights in unavailable:
        raise WeightsError(unavailable[recipe.weights])
    path = folder.run_path(item, seed, settings.seed)
    splits = load_splits(recipe, settings.data_dir)
    if item.swept is not None:
        result = sweep(
            recipe,
            item.swept,
            item.values,
            splits,
            workdir=path,
            experiment=item.preset,
            # Measuring which is faster takes longer than a smoke run.
            mode="auto" if settings.scale == "full" else "sequential",
            resume=SweepDirectory(path).holds_sweep(),
            verbose=verbose,
        )
        failures = [f"{m.path.name}: {m.failure}" for m in result.members if m.summary is None]
        if failures:
            raise RunError("; ".join(failures))
        return
    try:
        fit(
            recipe,
            splits,
            workdir=path,
            experiment=item.preset,
            resume=RunDirectory(path).holds_run(),
            verbose=verbose,
        )
    except WeightsError as error:
        unavailable[str(recipe.weights)] = str(error)
        raise
