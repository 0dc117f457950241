"""The directory of a report: which files it holds, what has run in it, and its page.

::

    plan.json    marks the directory as a report's; its scale, the options with which each item was
                 requested, and why items failed
    runs/        a run directory for each run of the plan, see `runs.directory`
    pictures/
    index.html   the page, in one file
    report.md    the same page
    .lock        exists while a process writes the report
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from jaxcifar.common.drawing import try_to_draw
from jaxcifar.common.errors import RunError
from jaxcifar.common.json_shape import AnyText, Shape
from jaxcifar.common.lock import hold
from jaxcifar.common.messages import join_lines, printable
from jaxcifar.common.writing import is_empty, make_folder, write_atomically
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.curves import DRAWN
from jaxcifar.runs.directory import RunDirectory, check_path, refuse_links
from jaxcifar.runs.restore import read_recipe
from jaxcifar.runs.shapes import check_shape, read_object
from jaxcifar.studies.reproduction.drawings import (
    Drawing,
    comparison_drawing,
    confusion_drawing,
    curve_drawing,
    pictures,
)
from jaxcifar.studies.reproduction.entries import (
    NOT_RUN,
    Entry,
    Gallery,
    Report,
    Scale,
    SweepEntry,
)
from jaxcifar.studies.reproduction.galleries import GALLERIES, gallery_drawings
from jaxcifar.studies.reproduction.page import Picture, to_html, to_markdown
from jaxcifar.studies.reproduction.plan import MAX_SEEDS, PLAN, Item, Settings
from jaxcifar.studies.reproduction.report import build_page
from jaxcifar.studies.reproduction.stored_run import complete_run
from jaxcifar.studies.reproduction.words import shell_line
from jaxcifar.studies.sweeps.directory import SweepDirectory

_MADE_BY = "jaxcifar reproduce"
_MARK: Shape = {
    "scale?": str,
    "seed?": int,
    "asked?": {"*": {"*": (AnyText, int)}},
    "failed?": {"*": str},
}


@dataclass
class Mark:
    """The contents of plan.json.

    Attributes:
        scale, seed: of the directory; a call with others is refused.
        asked: id of an item -> the options with which it was last requested, see
            `Settings.options`; of seeds, the largest number ever requested.
        failed: the name of a run's directory, or the id of another item -> why it did not run when
            it was last tried.
    """

    scale: Scale = "full"
    seed: int = 0
    asked: dict[str, dict[str, str | int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def seeds(self, item: str) -> int:
        """The largest number of runs of an item that was requested."""
        return int(self.asked.get(item, {}).get("seeds", 1))

    def ask(self, item: str, settings: Settings) -> None:
        """Record that an item is requested."""
        seeds = max(self.seeds(item), settings.seeds)
        self.asked[item] = settings.options() | ({"seeds": seeds} if seeds > 1 else {})


@dataclass(frozen=True)
class ReportDirectory:
    """The directory of a report, and the plan it follows."""

    path: Path
    plan: Sequence[Item] = PLAN

    def open(self, settings: Settings, chosen: Iterable[Item]) -> Mark:
        """Read the mark, or make a new one, and add the request to it; nothing is written.

        Raises:
            RunError: the directory holds something else, or a report at another scale or seed.
        """
        check_path(self.path, "--out")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a directory: choose another --out")
        runs = self.path / "runs"
        refuse_links(self.path / "pictures", runs, *(runs.iterdir() if runs.is_dir() else ()))
        mark = self.read_mark()
        if mark is None:
            if self.path.is_dir() and not is_empty(self.path):
                raise RunError(
                    f"{self.path} is not empty and holds no report (no plan.json); nothing was "
                    "changed: choose another --out"
                )
            mark = Mark(settings.scale, settings.seed)
        for name in ("scale", "seed"):
            stored, requested = getattr(mark, name), getattr(settings, name)
            if stored != requested:
                raise RunError(
                    f"{self.path} was made with --{name} {stored}, not {requested}: continue with "
                    f"--{name} {stored}, or choose another --out"
                )
        for item in chosen:
            mark.ask(item.name, settings)
        return mark

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing the report, see `lock.hold`."""
        return hold(self.path, "--out")

    def read_mark(self) -> Mark | None:
        """The mark, or None if there is none.

        Raises:
            RunError: plan.json is damaged or belongs to another program.
        """
        file = self.path / "plan.json"
        if not file.is_file():
            return None
        values = read_object(file)
        if values.pop("made_by", None) != _MADE_BY:
            raise RunError(f"{file} belongs to another program: choose another --out")
        check_shape(values, _MARK, file)
        if "seeds" in values:  # the first version: one number for all items
            values.pop("seeds")
            values["asked"] = {item.name: self._seeds_started(item) for item in self.plan}
        try:
            mark = Mark(**values)
        except TypeError as error:
            raise RunError(
                f"{file} is damaged ({printable(str(error))}): choose another --out"
            ) from None
        seeds = [options.get("seeds", 1) for options in mark.asked.values()]
        if mark.scale not in get_args(Scale) or any(s not in range(MAX_SEEDS + 1) for s in seeds):
            raise RunError(f"{file} is damaged (its scale or seeds): choose another --out")
        return mark

    def write_mark(self, mark: Mark) -> None:
        """Write plan.json, making the directory."""
        make_folder(self.path)
        text = json.dumps({"made_by": _MADE_BY, **vars(mark)}, indent=2)
        write_atomically(self.path / "plan.json", text + "\n")

    def run_path(self, item: Item, seed: int, first_seed: int) -> Path:
        """The run directory of an item, or the directory of a sweep."""
        suffix = "" if seed == first_seed else f"-seed{seed}"
        return self.path / "runs" / (item.name + suffix)

    def _seeds_started(self, item: Item) -> dict[str, str | int]:
        later = len(list((self.path / "runs").glob(f"{item.name}-seed*")))
        return {"seeds": later + 1} if later else {}

    def command(self, mark: Mark) -> str:
        """The commands that make the same page: a line for each set of requested options."""
        groups: dict[tuple[tuple[str, str | int], ...], list[str]] = {}
        for item in self.plan:
            if item.name in mark.asked:
                key = tuple(mark.asked[item.name].items())
                # The group of the last pictures comes last: they are drawn from all runs.
                groups[key] = [*groups.pop(key, []), item.name]
        start = ["jaxcifar", "reproduce", "--scale", mark.scale]
        start += ["--seed", str(mark.seed)] if mark.seed else []
        name = self.path.resolve().name
        start += ["--out", name] if name != "report" else []
        lines = []
        for key, names in (groups or {(): [item.name for item in self.plan]}).items():
            others = [item.name for item in self.plan if item.name not in names]
            chosen = ["--skip", *others] if len(others) < len(names) else ["--only", *names]
            options = [word for option, value in key for word in (f"--{option}", str(value))]
            lines.append(shell_line([*start, *options, *(chosen if others else [])]))
        return "\n".join(lines)

    def members(self, item: Item) -> list[tuple[float, Path]]:
        """The values of a sweep and their run directories."""
        folder = self.path / "runs" / item.name
        return [(value, folder / f"{item.swept}={value}") for value in item.values]

    def shared_run(self, item: Item, recipe: Recipe | None = None) -> Path | None:
        """The run of a sweep that serves for an item, if it is complete (and has that recipe).

        An item whose own run has trained is shown by that, which may have another recipe.
        """
        if RunDirectory(self.path / "runs" / item.name).holds_training():
            return None
        for sweep in self.plan:
            if item.member is None or sweep.name != item.member[0]:
                continue
            path = dict(self.members(sweep))[item.member[1]]
            if not complete_run(path):
                continue
            if recipe is None or not recipe.differences(read_recipe(RunDirectory(path))):
                return path
        return None

    def entries(self) -> tuple[Entry, ...]:
        """The runs of the plan, whether they have run or not."""
        mark = self.read_mark() or Mark()
        return tuple(self._entry(item, mark) for item in self.plan if item.kind == "run")

    def drawings(self, item: Item) -> list[Drawing]:
        """The pictures of an item that can be drawn from what is complete now."""
        folder, entries = self.path / "pictures", self.entries()
        complete = [entry for entry in entries if entry.complete()]
        if item.name == "confusion":
            mark = self.read_mark() or Mark()
            # Each predicts the whole test set again; in a smoke run, those of the report suffice.
            if mark.scale != "full":
                complete = [entry for entry in complete if entry.preset == entry.faithful]
            return [confusion_drawing(folder, entry) for entry in complete]
        if item.name == "compare":
            comparable = any(entry.compared for entry in complete)
            return [comparison_drawing(folder, entries)] if comparable else []
        return gallery_drawings(item.name, folder, entries)

    def curves(self) -> list[Drawing]:
        """The curves of every run that has finished an epoch."""
        paths = [path for entry in self.entries() for path in entry.paths]
        paths += [p for item in self.plan if item.values for _, p in self.members(item)]
        return [self._curve(path) for path in dict.fromkeys(paths) if _has_curves(path)]

    def read_report(self) -> Report:
        """Everything the page shows, as it is now."""
        mark = self.read_mark() or Mark()
        items = {item.name: item for item in self.plan}
        sweeps = [item for item in self.plan if item.kind == "sweep"]
        compared = pictures(self.drawings(items["compare"])) if "compare" in items else ()
        return Report(
            scale=mark.scale,
            entries=self.entries(),
            sweeps=tuple(self._sweep(item, mark) for item in sweeps),
            comparison=compared[0] if compared else None,
            galleries=tuple(
                self._gallery(items[name], title, text, mark)
                for name, (title, text) in GALLERIES.items()
                if name in items
            ),
            command=self.command(mark),
        )

    def write_page(self) -> Path:
        """Draw the curves and the comparison, which is cheap; write index.html and report.md."""
        compared = [item for item in self.plan if item.name == "compare"]
        cheap = [*self.curves(), *(d for item in compared for d in self.drawings(item))]
        for drawing in cheap:
            if not drawing.is_done():
                try_to_draw(drawing.path, drawing.make, "the page is written without it")
        page = build_page(self.read_report())
        write_atomically(self.path / "report.md", to_markdown(page, self.path))
        write_atomically(self.path / "index.html", to_html(page))
        return self.path / "index.html"

    def describe(self) -> str:
        """The plan, one line per item, with its state."""
        states = {entry.name: entry.state() for entry in self.entries()}
        for item in self.plan:
            if item.kind == "sweep":
                done = sum(complete_run(path) is not None for _, path in self.members(item))
                states[item.name] = f"{done} of {len(item.values)} complete"
            elif item.kind == "pictures":
                drawings = self.drawings(item)
                done = sum(drawing.is_done() for drawing in drawings)
                states[item.name] = f"{done} of {len(drawings)} drawn" if drawings else NOT_RUN
        width = min(max(map(len, states.values()), default=0), 30)  # a damaged file has a long one
        return join_lines(f"{i.name:<20}{states[i.name]:<{width}}  {i.title}" for i in self.plan)

    def _curve(self, run: Path) -> Drawing:
        name = run.relative_to(self.path / "runs").as_posix()
        return curve_drawing(self.path / "pictures", run, name)

    def _entry(self, item: Item, mark: Mark) -> Entry:
        assert item.preset is not None
        seeds = range(mark.seed, mark.seed + mark.seeds(item.name))
        first, *others = (self.run_path(item, seed, mark.seed) for seed in seeds)
        if complete_run(first) is None:
            first = self.shared_run(item) or first
        paths = (first, *others)
        drawings = [self._curve(path) for path in paths]
        title = item.title
        if item.member is not None and first != self.run_path(item, mark.seed, mark.seed):
            title += f" This is the run of {item.member[0]} with {item.member[1]}."
        entry = Entry(
            item.name,
            title,
            item.preset,
            item.faithful or item.preset,
            item.reported,
            paths,
            _reason([self.run_path(item, seed, mark.seed).name for seed in seeds], mark),
            item.compared,
        )
        if entry.complete():
            drawings.append(confusion_drawing(self.path / "pictures", entry))
        return replace(entry, pictures=pictures(drawings))

    def _sweep(self, item: Item, mark: Mark) -> SweepEntry:
        assert item.swept is not None
        assert item.preset is not None
        plot = self.path / "runs" / item.name / "figures" / "sweep.png"
        text = f"Accuracy against {item.swept}"
        drawn = (Picture(plot, text, f"{text}."),) if plot.is_file() else ()
        return SweepEntry(
            item.name,
            f"{item.title} {_how(self.path / 'runs' / item.name)}".strip(),
            item.preset,
            item.swept,
            tuple(self.members(item)),
            mark.failed.get(item.name),
            drawn + pictures(self._curve(path) for _, path in self.members(item)),
        )

    def _gallery(self, item: Item, title: str, text: str, mark: Mark) -> Gallery:
        drawings = self.drawings(item)
        drawn = pictures(drawings)
        missing = None
        if not drawings or len(drawn) < len(drawings):
            because = mark.failed.get(item.name)
            missing = f"{item.name}: {NOT_RUN}" + (f": {because}" if because else "")
        return Gallery(title, text, drawn, missing)


def _reason(names: Sequence[str], mark: Mark) -> str | None:
    """Why runs of an item did not run, with their names where there are several."""
    found = {name: mark.failed[name] for name in names if name in mark.failed}
    if len(names) > 1:
        return "; ".join(f"{name}: {reason}" for name, reason in found.items()) or None
    return next(iter(found.values()), None)


def _how(sweep: Path) -> str:
    """How a sweep ran, and why."""
    sweep_dir = SweepDirectory(sweep)
    if not sweep_dir.holds_sweep():
        return ""
    description = sweep_dir.read()
    form = "as one program" if description["mode"] == "vmap" else "one after another"
    return f"The members ran {form}: {description['why']}."


def _has_curves(path: Path) -> bool:
    """Whether a run has finished an epoch, and has the drawn values for all of them."""
    try:
        history = RunDirectory(path).read_history()
        return bool(history.rows) and all(history.column(name) for name in DRAWN)
    except RunError:
        return False
