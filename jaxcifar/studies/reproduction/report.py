"""The page of a report: its sections, in order. All its figures come from run directories."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxcifar.studies.reproduction.entries import NOT_RUN, Entry, Report, Scale, SweepEntry
from jaxcifar.studies.reproduction.page import (
    Block,
    Code,
    Heading,
    Notice,
    Page,
    Table,
    Text,
)
from jaxcifar.studies.reproduction.stored_run import StoredRun, complete_run
from jaxcifar.studies.reproduction.words import (
    checkpoint_text,
    device_text,
    machine_cells,
    mean_text,
    mean_time,
    preset_differences,
    resumed_text,
    shared_differences,
    shared_text,
    time_text,
    triple_text,
    weights_cells,
)


def build_page(report: Report) -> Page:
    """The page of a report, however much of it has run."""
    blocks: list[Block] = [*_notices(report)]
    shared = _shared(report)
    blocks += _results(report, shared)
    blocks += _comparison(report)
    for sweep in report.sweeps:
        blocks += _sweep(sweep, shared)
    for gallery in report.galleries:
        blocks += [Heading(gallery.title), Text(gallery.text), *gallery.pictures]
        if gallery.missing is not None:
            blocks.append(Notice(gallery.missing))
    blocks += _machines_and_data(report.named_runs())
    blocks.append(Heading("Each run"))
    for entry in report.entries:
        blocks += _details(entry, shared)
    blocks += _commands(report.command)
    smoke = " (smoke run)" if report.scale == "smoke" else ""
    return Page(f"ResNet-18 on CIFAR-10: the course report reproduced{smoke}", tuple(blocks))


def _notices(report: Report) -> list[Block]:
    blocks: list[Block] = []
    if report.scale == "smoke":
        blocks.append(
            Notice(
                "Smoke run: real data and real networks, but few images and few epochs. It shows "
                "that everything runs. Its accuracies are not results and cannot be compared with "
                "the report's."
            )
        )
    done = [entry for entry in report.entries if entry.state() == "complete"]
    with_some = sum(bool(entry.complete()) for entry in report.entries) - len(done)
    if len(done) < len(report.entries):
        some = f", and {with_some} more for some of the seeds" if with_some else ""
        none = len(report.entries) - len(done) - with_some
        others = " The others have no numbers." if none else ""
        blocks.append(
            Notice(
                f"{len(done)} of {len(report.entries)} runs are complete{some}.{others} The "
                "remarks say how far they are."
            )
        )
    return blocks


class Shared(NamedTuple):
    """The departures that rows of the page share, which it says once."""

    whose: Mapping[str, Sequence[str]]  # departure -> the rows that have it in all their runs
    rows: Sequence[str]  # with a run that was started

    def without(self, differences: Iterable[str], row: str) -> list[str]:
        """Those of a row's differences that are not said for it above the table."""
        return [each for each in differences if row not in self.whose.get(each, ())]


def _shared(report: Report) -> Shared:
    rows = {
        entry.name: [preset_differences(run.config["recipe"], entry.preset) for run in entry.runs()]
        for entry in report.entries
    }
    for sweep in report.sweeps:
        rows[sweep.name] = [_member_differences(sweep, run) for run in sweep.runs()]
    # Of a row of several runs, those that they have in common.
    common = {
        name: [difference for difference in runs[0] if all(difference in run for run in runs)]
        for name, runs in rows.items()
        if runs
    }
    return Shared(shared_differences(common), list(common))


def _results(report: Report, shared: Shared) -> list[Block]:
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
    rows = tuple(_result_row(entry, report.scale, shared) for entry in report.entries)
    several = any(len(entry.paths) > 1 for entry in report.entries)
    spread = (
        " With several seeds, the table shows the mean and the standard deviation (n - 1). A seed "
        "changes the initial weights, the order, the augmentation and the dropout, but not the "
        "split."
        if several
        else " Each of ours is a single run, too."
    )
    text = (
        "Accuracies are those of the last epoch; train accuracy is the mean over that epoch, while "
        "training. The best epoch is chosen by validation accuracy. Training time excludes "
        "compiling (except for the pass that caches features) and validation. The report's "
        "figures are single runs on a Colab GPU; its pretrained runs start from torchvision's "
        "ImageNet weights." + spread
    )
    departures = [Text(shared_text(*shared))] if shared.whose else []
    return [Heading("Results"), *departures, Table(columns, rows), Text(text)]


def _result_row(entry: Entry, scale: Scale, shared: Shared) -> tuple[str, ...]:
    reported = entry.reported
    theirs = "-" if reported is None else triple_text([[a] for a in reported.accuracies])
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
        triple_text(ours),
        theirs,
        difference,
        mean_text(best),
        mean_time(runs),
        their_time,
        _remarks(entry, runs, shared),
    )


def _remarks(entry: Entry, runs: Sequence[StoredRun], shared: Shared) -> str:
    remarks = []
    if len(runs) > 1:
        remarks.append(f"n = {len(runs)}")
    if entry.state() != "complete":
        remarks.append(entry.state())
    differences = preset_differences(runs[0].config["recipe"], entry.preset)
    remarks += shared.without(differences, entry.name)
    if entry.preset != entry.faithful:
        remarks.append(f"{entry.faithful} with another recipe, see below")
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
                mean_text([run.accuracies[2] for run in runs]) if runs else NOT_RUN,
                f"{entry.reported.test:.3f}",
                mean_time(runs) if runs else NOT_RUN,
                time_text(entry.reported.seconds),
            )
        )
    columns = ("run", "test accuracy", "the report's", "training time", "the report's")
    picture: Block = report.comparison or Notice("There is no plot yet: no run is complete.")
    return [Heading("Accuracy and time"), picture, Table(columns, tuple(rows))]


def _sweep(sweep: SweepEntry, shared: Shared) -> list[Block]:
    rows: list[tuple[str, ...]] = []
    missing = 0
    for value, path in sweep.members:
        run = complete_run(path)
        if run is None:
            missing += 1
            rows.append((f"{value:g}", NOT_RUN, NOT_RUN, NOT_RUN))
        else:
            rows.append((f"{value:g}", *(f"{accuracy:.3f}" for accuracy in run.accuracies)))
    blocks: list[Block] = [
        Heading(sweep.name.replace("_", " ").capitalize()),
        Text(sweep.title),
        *sweep.pictures,
    ]
    started = sweep.runs()
    differences = _member_differences(sweep, started[0]) if started else []
    own = shared.without(differences, sweep.name)
    if own:
        blocks.append(Text(f"Differences from {sweep.preset}: {'; '.join(own)}."))
    if missing:
        because = f": {sweep.reason}" if sweep.reason else ""
        blocks.append(Notice(f"{missing} of {len(rows)} {NOT_RUN}{because}"))
    columns = (sweep.field, "train accuracy", "validation accuracy", "test accuracy")
    return [*blocks, Table(columns, tuple(rows))]


def _member_differences(sweep: SweepEntry, run: StoredRun) -> list[str]:
    """How a member differs from the preset in the settings that the members share."""
    recipe = run.config["recipe"]
    settings = {name: value for name, value in recipe.items() if name != sweep.field}
    return preset_differences(settings, sweep.preset)


def _machines_and_data(named: Iterable[tuple[str, StoredRun]]) -> list[Block]:
    machines: dict[tuple[str, ...], list[str]] = {}
    weights: dict[tuple[str, ...], list[str]] = {}
    data: dict[str, list[str]] = {}
    for name, run in named:
        for cells in dict.fromkeys(map(machine_cells, run.machines)):
            machines.setdefault(cells, []).append(name)
        weights.setdefault(weights_cells(run), []).append(name)
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


def _details(entry: Entry, shared: Shared) -> list[Block]:
    blocks: list[Block] = [Heading(entry.name, level=3), Text(entry.title)]
    runs = entry.runs()
    if entry.state() != "complete":
        blocks.append(Notice(f"{entry.name}: {entry.state()}"))
    if runs:
        seeds = (f"{entry.run_name(run)}, seed {run.config['recipe']['seed']}" for run in runs)
        facts = [_facts(entry, run, shared) for run in runs]
        rows = tuple((name, *(column[name] for column in facts)) for name in facts[0])
        blocks.append(Table(("", *seeds), rows))
    return [*blocks, *entry.pictures]


def _facts(entry: Entry, run: StoredRun, shared: Shared) -> dict[str, str]:
    machine, recipe = run.config["machine"], run.config["recipe"]
    weights, digest = weights_cells(run)
    every = preset_differences(recipe, entry.faithful)
    differences = shared.without(every, entry.name)
    if len(differences) < len(every):
        differences.append("those above the table of results")
    facts = {
        "state": entry.state() if run.summary is None else "complete",
        "epochs": f"{len(run.history.rows)} of {run.epochs}",
        "device": f"{device_text(machine)}, {machine['cores']} cores, "
        f"JAX {machine['versions']['jax']}",
        "resumed": resumed_text(run),
        "weights": weights if digest == "-" else f"{weights}, SHA-256 {digest}",
        f"differences from {entry.faithful}": "; ".join(differences) or "none",
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
            "last epoch": checkpoint_text(run, "last"),
            "best epoch": checkpoint_text(run, "best"),
        }
    return facts


def _commands(command: str) -> list[Block]:
    several = "\n" in command
    start = "These commands, one after another, make" if several else "This command makes"
    return [
        Heading("Make this page again"),
        Text(
            f"{start} this page again. Complete runs are skipped; unfinished ones continue from "
            "their last epoch. A local file or directory is given by name, without its folder."
        ),
        Code(command),
    ]
