"""The whole course report from one call: a loop over the plan that runs the items left.

After each item, everything is read from the directory again. So a call that is interrupted or
killed leaves a page of what is done, and the next call continues.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import EXPECTED, ExhaustedError, RunError, WeightsError
from jaxcifar.common.messages import reason_of, say
from jaxcifar.data import Splits
from jaxcifar.devices.backend import find_devices
from jaxcifar.devices.memory import is_exhausted
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_same_data, check_same_weights
from jaxcifar.runs.restore import read_recipe
from jaxcifar.runs.transfer import weights_sha256
from jaxcifar.studies.reproduction.directory import Mark, ReportDirectory
from jaxcifar.studies.reproduction.entries import without_folder
from jaxcifar.studies.reproduction.plan import PLAN, Item, Settings, recipe_of, select
from jaxcifar.studies.reproduction.stored_run import complete_run
from jaxcifar.studies.sweeps import sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.training.fit import fit

_OR_LEAVE = "or choose another --out: the runs on one page are compared"
Job = tuple[Item, int]  # an item and a seed
_Started = tuple[RunDirectory, dict[str, Any]]  # a run and its config.json


def reproduce(
    out: str | Path,
    settings: Settings | None = None,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    plan: Sequence[Item] = PLAN,
    verbose: bool = True,
) -> Path:
    """Run the rest of the plan and write the page; returns the page's path.

    A complete item is skipped; a started one continues from its last epoch. If an item fails for a
    reason that the user can act on (missing weights, for instance), the page says so and the other
    items run. However the call ends, the page is up to date.

    Args:
        out: the directory for everything: new, empty, or from an earlier call; see `directory`.
        settings: scale, weights, seeds and changes to the recipes; see `plan.Settings`.
        only, skip: ids of items; `-` and `_` are the same.
        plan: the items, in order.
        verbose: print progress.

    Raises:
        RunError: `out` holds something else, or runs with other settings (nothing is changed); or,
            when everything else is done, items that did not run.
        RecipeError: an unknown id, or an invalid setting.
        DeviceError: JAX has no device of the platform that JAX_PLATFORMS names.
        DataError, WeightsError: the data, or the weights named in `settings`, are not available.
    """
    settings = settings or Settings()
    find_devices()
    report_dir = ReportDirectory(Path(out), plan)
    chosen = select(plan, only, skip)
    # All items with the first seed, then the single runs with the other seeds.
    later = range(settings.seed + 1, settings.seed + settings.seeds)
    jobs = [(item, settings.seed) for item in chosen]
    jobs += [(item, seed) for seed in later for item in chosen if item.kind == "run"]
    report_dir.open(settings, chosen)  # refuses a directory of something else
    with report_dir.lock():
        call = _Call(report_dir, settings, report_dir.open(settings, chosen), verbose)
        call.check(jobs)
        page = call.run_all(jobs)
    if verbose:
        say("", f"wrote {page} and {page.with_name('report.md')}", flush=True)
    if call.failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in call.failed.items())
        items = len(call.failed_items)
        raise RunError(f"{items} of {len(chosen)} items did not run: {reasons}")
    return page


def describe_plan(out: str | Path, plan: Sequence[Item] = PLAN) -> str:
    """The plan, one line per item, with its state in `out`; nothing is run or written."""
    return ReportDirectory(Path(out), plan).describe()


@dataclass
class _Call:
    """One call of `reproduce`.

    Attributes:
        report_dir, settings, mark, verbose: as in `reproduce`.
        failed: name of a run, or id of another item -> why it did not run in this call.
        failed_items: the ids of theirs.
        unavailable: weights -> the lines that say why; a hub that fails is asked only once.
    """

    report_dir: ReportDirectory
    settings: Settings
    mark: Mark
    verbose: bool
    failed: dict[str, str] = field(default_factory=dict)
    failed_items: set[str] = field(default_factory=set)
    unavailable: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, jobs: Iterable[Job]) -> None:
        """Find what would stop the call, before anything runs."""
        remaining: list[Recipe] = []
        beginning: list[Recipe] = []  # the others need their weights no more
        for item, seed in jobs:
            if item.preset is None:
                continue
            recipe = recipe_of(item, self.settings, seed)
            runs = [(self._path((item, seed)), recipe)]
            if item.swept is not None:
                runs = [
                    (path, Recipe.from_dict(recipe.to_dict() | {item.swept: value}))
                    for value, path in self.report_dir.members(item)
                ]
            for path, expected in runs:
                _check_recipe(RunDirectory(path), expected)
            if not self.is_complete((item, seed)):
                remaining.append(recipe)
                if not all(RunDirectory(path).holds_training() for path, _ in runs):
                    beginning.append(recipe)
        started = list(self._started())
        self._check_weights(beginning, started)
        if remaining:
            splits = load_splits(remaining[0], self.settings.data_dir)
            for run_dir, config in started:
                if config["recipe"].get("dataset") == remaining[0].located().dataset:
                    check_same_data(run_dir, config, splits, f"put them back, {_OR_LEAVE}")

    def _check_weights(self, beginning: Sequence[Recipe], started: Sequence[_Started]) -> None:
        """The runs on the page began from the weights that those which begin now will have.

        Weights given to the call must be there; a preset's may fail with its items.
        """
        given = self.settings.weights
        names = {recipe.weights for recipe in beginning if recipe.weights is not None}
        if given is not None and not names:
            weights_sha256(given)
        for name in sorted(names):
            compared = [run for run, about in started if about["recipe"].get("weights") == name]
            if given is None and not compared:
                continue
            try:
                sha256 = weights_sha256(name)
            except WeightsError as error:
                if given is not None:
                    raise
                self.unavailable[name] = error.args
                continue
            for run_dir in compared:
                check_same_weights(run_dir, name, sha256, f"put those back, {_OR_LEAVE}")

    def _started(self) -> Iterator[_Started]:
        """The runs on the page, also those that this call leaves out, with their config.json."""
        paths = [path for entry in self.report_dir.entries() for path in entry.paths]
        for item in self.report_dir.plan:
            paths += [path for _, path in self.report_dir.members(item)] if item.swept else []
        for run_dir in map(RunDirectory, dict.fromkeys(paths)):
            if run_dir.holds_training():
                try:
                    config = run_dir.read_config()
                except RunError:  # a damaged one is compared with nothing
                    continue
                yield run_dir, config

    def run_all(self, jobs: Sequence[Job]) -> Path:
        """Run what is left; however it ends, the page is up to date."""
        self.report_dir.write_mark(self.mark)
        try:
            for number, job in enumerate(jobs, start=1):
                if self.is_complete(job):
                    self.mark.failed.pop(self._path(job).name, None)
                    continue
                self.report_dir.write_page()
                self.run(job, f"{number}/{len(jobs)}")
                self.report_dir.write_mark(self.mark)
        finally:
            self.report_dir.write_mark(self.mark)
            page = self.report_dir.write_page()
        return page

    def is_complete(self, job: Job) -> bool:
        """Whether nothing is left to do."""
        item, seed = job
        if item.kind == "pictures":
            drawings = self.report_dir.drawings(item)
            return bool(drawings) and all(drawing.is_done() for drawing in drawings)
        if item.kind == "sweep":
            members = self.report_dir.members(item)
            return all(complete_run(path) is not None for _, path in members)
        if complete_run(self._path(job)) is not None:
            return True
        if seed != self.settings.seed:
            return False
        recipe = recipe_of(item, self.settings, seed)
        return self.report_dir.shared_run(item, recipe) is not None

    def run(self, job: Job, position: str) -> None:
        """Run an item, or the rest of it; an expected error is recorded."""
        item, _ = job
        name = self._path(job).name  # each seed has its own reason
        if self.verbose:
            say("", f"[{position}] {name}: {item.title}", flush=True)
        try:
            if item.kind == "pictures":
                self._draw(item)
            else:
                self._train(job)
            self.mark.failed.pop(name, None)
        except EXPECTED as error:
            self._note_failure(item, name, str(error))
        except Exception as error:
            if not is_exhausted(error):
                raise
            # Of the error nothing else is kept: its traceback holds the run's arrays.
            reason = f"out of memory ({reason_of(error)}); {_with_more_memory(item)}"
            self._note_failure(item, name, reason)

    def _note_failure(self, item: Item, name: str, reason: str) -> None:
        self.failed[name] = " ".join(reason.split())
        self.failed_items.add(item.name)
        self.mark.failed[name] = self._for_page(reason)
        if self.verbose:
            say(f"{name} did not run: {self.failed[name]}", flush=True)

    def _path(self, job: Job) -> Path:
        return self.report_dir.run_path(*job, self.settings.seed)

    def _for_page(self, reason: str) -> str:
        """A reason without this machine's folders: the page is for other people, too."""
        paths = [self.report_dir.path]
        if self.settings.data_dir is not None:
            paths.insert(0, Path(self.settings.data_dir))
        if self.settings.weights is not None and Path(self.settings.weights).exists():
            weights = Path(self.settings.weights).absolute()
            paths = [weights, weights.resolve().parent, weights.parent, *paths]
        for path in paths:
            reason = without_folder(reason, path)
        return " ".join(reason.split())

    def _draw(self, item: Item) -> None:
        drawings = self.report_dir.drawings(item)
        if not drawings:
            raise RunError("no run is complete, so there is nothing to draw")
        for drawing in drawings:
            if not drawing.is_done():
                drawing.make(self.settings.data_dir)

    def _train(self, job: Job) -> None:
        item, seed = job
        recipe = recipe_of(item, self.settings, seed)
        path = self._path(job)
        begun = RunDirectory(path).holds_training()  # then it needs its weights no more
        if recipe.weights in self.unavailable and not begun:
            raise WeightsError(*self.unavailable[recipe.weights])
        splits = load_splits(recipe, self.settings.data_dir)
        if item.swept is not None:
            self._sweep(item, recipe, splits, path)
            return
        try:
            fit(
                recipe,
                splits,
                workdir=path,
                experiment=item.preset,
                resume=RunDirectory(path).holds_training(),
                verbose=self.verbose,
            )
        except WeightsError as error:
            self.unavailable[str(recipe.weights)] = error.args
            raise

    def _sweep(self, item: Item, recipe: Recipe, splits: Splits, path: Path) -> None:
        assert item.swept is not None
        try:
            result = sweep(
                recipe,
                item.swept,
                item.values,
                splits,
                workdir=path,
                experiment=item.preset,
                # Measuring which mode is faster takes longer than a smoke run.
                mode="auto" if self.settings.scale == "full" else "sequential",
                resume=SweepDirectory(path).holds_training(),
                verbose=self.verbose,
            )
        except ExhaustedError as error:
            raise RunError(f"{error.problem}; {_with_more_memory(item)}") from None
        failures = [f"{m.path.name}: {m.failure}" for m in result.members if m.summary is None]
        if failures:
            raise RunError("; ".join(failures))


def _with_more_memory(item: Item) -> str:
    return f"with more memory the same call tries it again; or leave it out with --skip {item.name}"


def _check_recipe(run_dir: RunDirectory, expected: Recipe) -> None:
    """Refuse to continue a run with another recipe."""
    if not run_dir.holds_training():
        return
    differing = expected.differences(read_recipe(run_dir))
    if differing:
        raise RunError(
            f"{run_dir.path} was started with another recipe ({'; '.join(differing)}): repeat the "
            "options it was started with, leave it out with --skip, remove it, or choose another "
            "--out"
        )
