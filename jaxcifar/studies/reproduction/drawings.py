"""The pictures of a report: what each is drawn from, and what the page says about it."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jaxcifar.common.figure import save_figure
from jaxcifar.runs.curves import plot_curves
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.studies.reproduction.comparison import ComparisonPoint, plot_comparison
from jaxcifar.studies.reproduction.entries import Entry
from jaxcifar.studies.reproduction.page import Picture
from jaxcifar.visualize.pictures import draw_confusion


@dataclass(frozen=True)
class Drawing:
    """A picture to draw, and what the page says about it.

    Attributes:
        path: the PNG.
        alt, caption: as in `page.Picture`.
        source: what it is drawn from; if that is newer or gone, the picture is stale.
        draw: called with `out` and `data_dir`.
    """

    path: Path
    alt: str
    caption: str
    source: Path | None
    draw: Callable[..., object]

    def is_done(self) -> bool:
        """Whether the picture exists and is up to date."""
        source = self.source or self.path
        if not (self.path.is_file() and source.exists()):
            return False
        return source.stat().st_mtime_ns <= self.path.stat().st_mtime_ns

    def make(self, data_dir: str | Path | None = None) -> None:
        """Draw the picture; a process killed meanwhile leaves the old picture or none."""
        self.draw(out=self.path, data_dir=data_dir)


def pictures(drawings: Iterable[Drawing]) -> tuple[Picture, ...]:
    """The pictures that have been drawn from what is there now."""
    return tuple(Picture(d.path, d.alt, d.caption) for d in drawings if d.is_done())


def place_of(folder: Path, run: Path) -> str:
    """A run in the name of its pictures: an item can show its own run or a sweep's.

    Args:
        folder: of the pictures.
        run: lies below `runs/`, beside it.
    """
    return run.relative_to(folder.parent / "runs").as_posix().replace("/", "_")


def confusion_drawing(folder: Path, entry: Entry) -> Drawing:
    """The confusion matrix of an entry's first complete run."""
    run = entry.complete()[0].path
    return Drawing(
        folder / f"confusion_{place_of(folder, run)}.png",
        f"Confusion matrix of {entry.name} on the test set",
        f"{entry.name}, best epoch: test images by true and by predicted class.",
        run / "summary.json",
        partial(draw_confusion, run),
    )


def curve_drawing(folder: Path, run: Path, name: str) -> Drawing:
    """Loss and accuracy over the epochs of a run, complete or not."""

    def draw(*, out: Path, data_dir: object) -> None:
        save_figure(plot_curves(RunDirectory(run).read_history(), title=name), out)

    return Drawing(
        folder / f"curves_{place_of(folder, run)}.png",
        f"Loss and accuracy of {name} over the epochs, train and validation",
        f"{name}: loss and accuracy over the epochs.",
        RunDirectory(run).metrics,
        draw,
    )


def comparison_drawing(folder: Path, entries: Sequence[Entry]) -> Drawing:
    """Test accuracy against training time, for all complete entries."""

    def draw(*, out: Path, data_dir: object) -> None:
        ours, theirs = comparison_points(entries)
        figure = plot_comparison(
            ours,
            theirs,
            title="Test accuracy after the last epoch",
            ours_label=f"ours, on {_devices(entries)}",
            others_label="the report's, on a Colab GPU (another machine)",
        )
        save_figure(figure, out)

    runs = [run.path for entry in entries for run in entry.complete()]
    # The folder of the runs changes when one of them is removed.
    sources = [path for run in runs for path in (RunDirectory(run).summary, run.parent)]
    return Drawing(
        folder / "comparison.png",
        "Test accuracy against training time",
        "Test accuracy against training time, ours (filled) and the report's (hollow). Times on "
        "different machines cannot be compared.",
        max(sources, key=lambda path: path.stat().st_mtime_ns, default=None),
        draw,
    )


def comparison_points(
    entries: Iterable[Entry],
) -> tuple[list[ComparisonPoint], list[ComparisonPoint]]:
    """Test accuracy of the last epoch against minutes of training: (ours, the report's).

    With several seeds, the mean. An entry without a complete run has no point of ours; one with
    another recipe than the report's has no point of the report's.
    """
    ours, theirs = [], []
    for entry in entries:
        if not entry.compared:
            continue
        runs = entry.complete()
        if runs:
            accuracy = statistics.fmean(run.accuracies[2] for run in runs)
            minutes = statistics.fmean(run.train_seconds for run in runs) / 60
            ours.append(ComparisonPoint(entry.name, minutes, accuracy))
        if entry.reported is not None and entry.preset == entry.faithful:
            theirs.append(
                ComparisonPoint(entry.name, entry.reported.seconds / 60, entry.reported.test)
            )
    return ours, theirs


def _devices(entries: Iterable[Entry]) -> str:
    compared = [entry for entry in entries if entry.compared]
    machines = [m for entry in compared for run in entry.complete() for m in run.machines]
    names = {
        f"{m['cores']} CPU cores" if m["backend"] == "cpu" else str(m["device"]) for m in machines
    }
    return " and ".join(sorted(names))
