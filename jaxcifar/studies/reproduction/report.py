"""Runs and pictures to a page: it reads run directories and has no figure from elsewhere."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxcifar.common.errors import RunError
from jaxcifar.common.files import Shape
from jaxcifar.common.messages import printable, shown
from jaxcifar.recipes.presets import EXPERIMENTS
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.directory import RunDirectory, check_shape
from jaxcifar.runs.history import History
from jaxcifar.studies.reproduction.comparison import ComparisonPoint
from jaxcifar.studies.reproduction.page import (
    Block,
    Code,
    Heading,
    Notice,
    Page,
    Picture,
    Table,
    Text,
)

Scale = Literal["smoke", "full"]
NOT_RUN = "not run"
# What the page shows of a run's config.json and summary.json, beyond what `run_files` checks.
_CONFIG: Shape = {
    "recipe": {"epochs": int, "seed": int},
    "machine": {
        "device": str,
        "devices": int,
        "processor": str,
        "cores": (None, int),
        "python": str,
        "versions": {"jax": str, "*": str},
    },
}
_SCORE: Shape = {"step": int, "test": {"accuracy": float, "examples": int}}
_SUMMARY: Shape = {
    "epochs": int,
    "parameters": int,
    "trainable_parameters": int,
    "train_accuracy": float,
    "validation_seconds": float,
    "images_per_second": float,
    "best": _SCORE,
    "last": _SCORE,
}


@dataclass(frozen=True)
class Reported:
    """Figures of the course report: one run, on a Colab GPU."""

    train: float
    validation: float
    test: float
    seconds: int

    @property
    def accuracies(self) -> tuple[float, float, float]:
        """Train, validation, test."""
        return self.train, self.validation, self.test


@dataclass(frozen=True)
class Run:
    """What a run directory holds; `summary` is None until the run is complete."""

    path: Path
    config: Mapping[str, Any]
    history: History
    summary: Mapping[str, Any] | None

    @property
    def accuracies(self) -> tuple[float, float, float]:
        """Train (over the last epoch, as it trained), validation and test of the last epoch."""
        assert self.summary is not None
        last = self.summary["last"]
        return (
            self.summary["train_accuracy"],
            last["validation_accuracy"],
            last["test"]["accuracy"],
        )

    @property
    def epochs(self) -> int:
        """How many the run was to have."""
        return int(self.config["recipe"]["epochs"])


def read_run(path: Path) -> Run | None:
    """The run in a directory, or None where none was begun.

    Raises:
        RunError: what it holds is damaged.
    """
    files = RunDirectory(path)
    if not files.config.is_file():
        return None
    config, summary = files.read_config(), files.read_summary()
    check_shape(config, _CONFIG, files.config)
    if summary is not None:
        check_shape(summary, _SUMMARY, files.summary)
    run = Run(path, config, files.read_history(), summary)
    # A run that was given more epochs keeps its summary until it goes on.
    complete = summary is not None and summary.get("epochs") == run.epochs
    return run if complete else dataclasses.replace(run, summary=None)


@dataclass(frozen=True)
class Entry:
    """A training run of the plan, in as many seeds as were asked for.

    Attributes:
        name: its id.
        title: one line on what it trains.
        preset: the experiment whose recipe it follows, in `experiments.EXPERIMENTS`.
        faithful: the one of the course report that it is measured by.
        reported: that report's figures.
        paths: run directories, one a seed.
        reason: why it did not run, where that is known.
        compared: whether it has a place in the comparison of accuracy against time.
        pictures: curves of every seed, and the confusion matrix of the first.
    """

    name: str
    title: str
    preset: str
    faithful: str
    reported: Reported | None
    paths: tuple[Path, ...]
    reason: str | None = None
    compared: bool = True
    pictures: tuple[Picture, ...] = ()

    def runs(self) -> list[Run]:
        """The runs begun; a damaged one counts as none (`state` says so)."""
        return [run for run in map(_read_or_none, self.paths) if run is not None]

    def complete(self) -> list[Run]:
        """The complete ones."""
        return [run for run in self.runs() if run.summary is not None]

    def state(self) -> str:
        """In words: complete, or what there is of it."""
        complete, begun = self.complete(), self.runs()
        because = f": {self.reason}" if self.reason else ""
        if len(complete) == len(self.paths):
            return "complete"
        if complete:
            return f"complete for {len(complete)} of {len(self.paths)} seeds{because}"
        if begun:
            epochs = len(begun[0].history.rows)
            return f"stopped after epoch {epochs} of {begun[0].epochs}{because}"
        for path in self.paths:
            try:
                read_run(path)
            except RunError as error:
                return f"{NOT_RUN}: {without_folder(str(error), path)}"
        return NOT_RUN + because


@dataclass(frozen=True)
class SweepEntry:
    """A sweep: a run for each value of one field of a preset's recipe."""

    name: str
    title: str
    preset: str
    field: str
    members: tuple[tuple[float, Path], ...]  # (value, run directory)
    reason: str | None = None
    pictures: tuple[Picture, ...] = ()

    def runs(self) -> list[Run]:
        """The members begun; a damaged one counts as none."""
        runs = (_read_or_none(path) for _, path in self.members)
        return [run for run in runs if run is not None]


@dataclass(frozen=True)
class Gallery:
    """A section of pictures; those that are not there are said to be missing."""

    title: str
    text: str
    pictures: tuple[Picture, ...]
    missing: str | None = None  # why, where some are


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    scale: Scale
    entries: tuple[Entry, ...]
    sweeps: tuple[SweepEntry, ...] = ()
    comparison: Picture | None = None
    galleries: tuple[Gallery, ...] = ()
    command: str = "python scripts/reproduce.py"


def build_page(report: Report) -> Page:
    """The page of a report, whatever part of it has run."""
    blocks: list[Block] = [*_notices(report)]
    blocks += _results(report)
    blocks += _comparison(report)
    for sweep in report.sweeps:
        blocks += _sweep(sweep, report.scale)
    for gallery in report.galleries:
        blocks += [Heading(gallery.title), Text(gallery.text), *gallery.pictures]
        if gallery.missing is not None:
            blocks.append(Notice(gallery.missing))
    named = [(_run_name(entry, run), run) for entry in report.entries for run in entry.runs()]
    named += [
        (f"{sweep.name}/{run.path.name}", run) for sweep in report.sweeps for run in sweep.runs()
    ]
    blocks += _what_ran(named)
    blocks.append(Heading("Each run"))
    for entry in report.entries:
        blocks += _details(entry)
    several = "\n" in report.command
    again = "These commands, one after another, make" if several else "This command makes"
    blocks += [
        Heading("Again"),
        Text(
            f"{again} this page again: what is complete is skipped, and what is not goes on from "
            "its last epoch. Of a local file or directory the name is given, without its folder."
        ),
        Code(report.command),
    ]
    smoke = " (smoke run)" if report.scale == "smoke" else ""
    return Page(f"ResNet-18 on CIFAR-10: the course report again{smoke}", tuple(blocks))


def comparison_points(
    entries: Iterable[Entry],
) -> tuple[list[ComparisonPoint], list[ComparisonPoint]]:
    """Test accuracy (last epoch) against minutes of training: (ours, the report's).

    Of several seeds the mean. Entries without a complete run have no point of ours, counterparts
    of an experiment of the report none of its.
    """
    ours, theirs = [], []
    for entry in entries:
        if not entry.compared:
            continue
        runs = entry.complete()
        if runs:
            accuracy = statistics.fmean(run.accuracies[2] for run in runs)
            minutes = statistics.fmean(_seconds(run) for run in runs) / 60
            ours.append(ComparisonPoint(entry.name, minutes, accuracy))
        if entry.reported is not None and entry.preset == entry.faithful:
            theirs.append(
                ComparisonPoint(entry.name, entry.reported.seconds / 60, entry.reported.test)
            )
    return ours, theirs


def time_text(seconds: float) -> str:
    """Seconds as the course report writes them: "6m 4s"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    parts = [f"{hours}h"] if hours else []
    parts += [f"{minutes}m"] if whole >= 60 else []
    return " ".join([*parts, f"{whole % 60}s"])


def without_folder(text: str, path: Path) -> str:
    """A message without the folder of this machine that a path lies in: of the path, its name."""
    for form in (path.resolve(), path.absolute()):  # links followed, and not
        if form.name:  # else it is the root
            text = text.replace(str(form), form.name)
    return text


def departures(recipe: Mapping[str, Any], preset: str) -> list[str]:
    """How a run's recipe (of its config.json) differs from a preset's, as "epochs 2, not 20".

    Seeds and the place weights come from are no departure: the page shows them elsewhere.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    wanted = defaults | EXPERIMENTS[preset].settings
    ignored = ("seed", "weights", "eval_batch_size")
    return [
        f"{name} {_value(value)}, not {_value(wanted[name])}"
        for name, value in recipe.items()
        if name in wanted and name not in ignored and value != wanted[name]
    ]


def _notices(report: Report) -> list[Block]:
    blocks: list[Block] = []
    if report.scale == "smoke":
        blocks.append(
            Notice(
                "Smoke run: real data and real networks, but few images and few epochs. It shows "
                "that everything runs; its accuracies are no results and are not comparable with "
                "the report's."
            )
        )
    done = [entry for entry in report.entries if entry.state() == "complete"]
    if len(done) < len(report.entries):
        blocks.append(
            Notice(
                f"{len(done)} of {len(report.entries)} runs are complete. What did not run is "
                f'called "{NOT_RUN}" below and has no numbers.'
            )
        )
    return blocks


def _results(report: Report) -> list[Block]:
    columns = (
        "run",
        "train / validation / test accuracy",
        "the report's",
        "difference",
        "best epoch: test",
        "training time",
        "the report's",
        "remarks",
    )
    rows = tuple(_result_row(entry, report.scale) for entry in report.entries)
    several = any(len(entry.paths) > 1 for entry in report.entries)
    spread = (
        " Of several seeds, which change initial weights, order, augmentation and dropout but not "
        "the split, the table has the mean and the standard deviation (n - 1)."
        if several
        else " Each of ours is a single run, too."
    )
    text = (
        "Accuracies are of the last epoch; train accuracy is the mean over that epoch, as it "
        "trained. The best epoch is chosen by validation accuracy. Training time excludes "
        "compiling (but for the pass that caches features) and validation. The report's figures "
        "are single runs on a Colab GPU, from torchvision's ImageNet weights where weights are "
        "used." + spread
    )
    return [Heading("Results"), Table(columns, rows), Text(text)]


def _result_row(entry: Entry, scale: Scale) -> tuple[str, ...]:
    reported = entry.reported
    theirs = "-" if reported is None else _triple([[a] for a in reported.accuracies])
    their_time = "-" if reported is None else time_text(reported.seconds)
    runs = entry.complete()
    if not runs:
        return (entry.name, NOT_RUN, theirs, "-", "-", "-", their_time, entry.state())
    ours = list(zip(*(run.accuracies for run in runs), strict=True))
    difference = "-"
    if reported is not None and scale == "full":
        difference = " / ".join(
            f"{statistics.fmean(mine) - theirs:+.3f}"
            for mine, theirs in zip(ours, reported.accuracies, strict=True)
        )
    elif reported is not None:
        difference = "not comparable"
    best = [run.summary["best"]["test"]["accuracy"] for run in runs if run.summary]
    return (
        entry.name,
        _triple(ours),
        theirs,
        difference,
        _mean(best),
        time_text(statistics.fmean(map(_seconds, runs))),
        their_time,
        _remarks(entry, runs, scale),
    )


def _remarks(entry: Entry, runs: Sequence[Run], scale: Scale) -> str:
    remarks = ["smoke run"] if scale == "smoke" else []
    if len(runs) > 1:
        remarks.append(f"n = {len(runs)}")
    if entry.state() != "complete":
        remarks.append(entry.state())
    remarks += departures(runs[0].config["recipe"], entry.preset)
    if entry.preset != entry.faithful:
        remarks.append(f"{entry.faithful} under another recipe, see below")
    return "; ".join(remarks)


def _comparison(report: Report) -> list[Block]:
    rows = []
    for entry in report.entries:
        if not entry.compared or entry.reported is None or entry.preset != entry.faithful:
            continue
        runs = entry.complete()
        rows.append(
            (
                entry.name,
                _mean([run.accuracies[2] for run in runs]) if runs else NOT_RUN,
                f"{entry.reported.test:.3f}",
                time_text(statistics.fmean(map(_seconds, runs))) if runs else NOT_RUN,
                time_text(entry.reported.seconds),
            )
        )
    columns = ("run", "test accuracy", "the report's", "training time", "the report's")
    picture: Block = report.comparison or Notice(f"The plot: {NOT_RUN}, no run is complete.")
    return [Heading("Accuracy against time"), picture, Table(columns, tuple(rows))]


def _sweep(sweep: SweepEntry, scale: Scale) -> list[Block]:
    rows: list[tuple[str, ...]] = []
    for value, path in sweep.members:
        run = _read_or_none(path)
        if run is None or run.summary is None:
            rows.append((f"{value:g}", NOT_RUN, NOT_RUN, NOT_RUN))
        else:
            rows.append((f"{value:g}", *(f"{accuracy:.3f}" for accuracy in run.accuracies)))
    complete = [row for row in rows if NOT_RUN not in row]
    blocks: list[Block] = [
        Heading(sweep.name.replace("_", " ").capitalize()),
        Text(sweep.title),
        *sweep.pictures,
    ]
    remarks = _sweep_remarks(sweep, scale)
    if remarks:
        blocks.append(Text(f"Recipe, against {sweep.preset}: {'; '.join(remarks)}."))
    if len(complete) < len(rows):
        because = f": {sweep.reason}" if sweep.reason else ""
        blocks.append(Notice(f"{len(rows) - len(complete)} of {len(rows)} {NOT_RUN}{because}"))
    columns = (sweep.field, "train accuracy", "validation accuracy", "test accuracy")
    return [*blocks, Table(columns, tuple(rows))]


def _sweep_remarks(sweep: SweepEntry, scale: Scale) -> list[str]:
    """How the members depart from the preset in what they share."""
    runs = sweep.runs()
    if not runs:
        return []
    shared = {n: v for n, v in runs[0].config["recipe"].items() if n != sweep.field}
    smoke = ["smoke run"] if scale == "smoke" else []
    return smoke + departures(shared, sweep.preset)


def _what_ran(named: Iterable[tuple[str, Run]]) -> list[Block]:
    machines: dict[tuple[str, ...], list[str]] = {}
    weights: dict[tuple[str, ...], list[str]] = {}
    data: dict[str, list[str]] = {}
    for name, run in named:
        machines.setdefault(_machine_cells(run.config["machine"]), []).append(name)
        weights.setdefault(_weights_cells(run), []).append(name)
        fingerprint = str(run.config.get("data_fingerprint"))[:12]
        data.setdefault(fingerprint, []).append(name)
    if not machines:
        return [Heading("What ran where"), Text("Nothing has run yet.")]
    return [
        Heading("What ran where"),
        Table(
            ("device", "processor", "cores", "versions", "runs"),
            tuple((*cells, ", ".join(names)) for cells, names in machines.items()),
        ),
        Table(
            ("weights", "SHA-256", "runs"),
            tuple((*cells, ", ".join(names)) for cells, names in weights.items()),
        ),
        Table(
            ("data, SHA-256 of the source", "runs"),
            tuple((f"{name}...", ", ".join(names)) for name, names in data.items()),
        ),
    ]


def _details(entry: Entry) -> list[Block]:
    blocks: list[Block] = [Heading(entry.name, level=3), Text(entry.title)]
    runs = entry.runs()
    if entry.state() != "complete":
        blocks.append(Notice(f"{entry.name}: {entry.state()}"))
    if runs:
        columns = ("", *(_seed_name(entry, run) for run in runs))
        facts = [_facts(entry, run) for run in runs]
        blocks.append(Table(columns, tuple((name, *(f[name] for f in facts)) for name in facts[0])))
    return [*blocks, *entry.pictures]


def _facts(entry: Entry, run: Run) -> dict[str, str]:
    machine, recipe = run.config["machine"], run.config["recipe"]
    weights, digest = _weights_cells(run)
    differing = departures(recipe, entry.faithful)
    facts = {
        "state": entry.state() if run.summary is None else "complete",
        "epochs": f"{len(run.history.rows)} of {run.epochs}",
        "device": f"{_device(machine)}, {machine['cores']} cores, JAX {machine['versions']['jax']}",
        "weights": weights if digest == "-" else f"{weights}, SHA-256 {digest}",
        f"recipe, against {entry.faithful}": "; ".join(differing) or "the report's",
        "parameters trained": NOT_RUN,
        "training time": NOT_RUN,
        "validation time": NOT_RUN,
        "images per second": NOT_RUN,
        "last epoch": NOT_RUN,
        "best epoch": NOT_RUN,
    }
    if run.summary is not None:
        summary = run.summary
        facts |= {
            "parameters trained": f"{summary['trainable_parameters']:,} "
            f"of {summary['parameters']:,}",
            "training time": time_text(summary["train_seconds"]),
            "validation time": time_text(summary["validation_seconds"]),
            "images per second": f"{summary['images_per_second']:,.0f} (median epoch)",
            "last epoch": _checkpoint(run, "last"),
            "best epoch": _checkpoint(run, "best"),
        }
    return facts


def _checkpoint(run: Run, which: str) -> str:
    assert run.summary is not None
    part = run.summary[which]
    epochs = [row["epoch"] for row in run.history.rows if row["step"] == part["step"]]
    name = f"epoch {epochs[0]}" if epochs else f"step {part['step']}"
    return (
        f"{name}: validation {part['validation_accuracy']:.3f}, "
        f"test {part['test']['accuracy']:.3f} ({part['test']['examples']:,} images)"
    )


def _run_name(entry: Entry, run: Run) -> str:
    """A run's name, which tells its seed; of a sweep's member that an entry is, the entry's."""
    return run.path.name if run.path.name.startswith(entry.name) else entry.name


def _seed_name(entry: Entry, run: Run) -> str:
    return f"{_run_name(entry, run)}, seed {run.config['recipe']['seed']}"


def _seconds(run: Run) -> float:
    assert run.summary is not None
    return float(run.summary["train_seconds"])


def _mean(values: Sequence[float]) -> str:
    """To 3 decimals; of several the mean and the standard deviation."""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def _triple(columns: Iterable[Sequence[float]]) -> str:
    return " / ".join(_mean(column) for column in columns)


def _read_or_none(path: Path) -> Run | None:
    try:
        return read_run(path)
    except RunError:
        return None


def _value(value: Any) -> str:
    """A recipe's value, which is as the file has it."""
    if value is None:
        return "the default"
    return printable(value) if isinstance(value, str) else shown(value)


def _device(machine: Mapping[str, Any]) -> str:
    return str(machine["device"]) + (f" x {machine['devices']}" if machine["devices"] > 1 else "")


def _machine_cells(machine: Mapping[str, Any]) -> tuple[str, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        _device(machine),
        str(machine["processor"]),
        str(machine["cores"]),
        f"Python {machine['python']}, {versions}",
    )


def _weights_cells(run: Run) -> tuple[str, ...]:
    """Name and short SHA-256; of a file of this machine its name only."""
    weights = run.config.get("weights")
    if weights is None:
        return "none: random initial weights", "-"
    source = Path(weights["source"])
    name = source.name if source.is_absolute() else weights["source"]
    return name, f"{weights['sha256'][:12]}..."
