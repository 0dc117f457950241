"""The pictures of a report: what is drawn from which run, and what the page says of it."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxcifar.common.figure import save_figure
from jaxcifar.runs.curves import plot_curves
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.studies.reproduction.comparison import plot_comparison
from jaxcifar.studies.reproduction.page import Picture
from jaxcifar.studies.reproduction.report import Entry, comparison_points
from jaxcifar.visualize.pictures import (
    REPORT_LAYERS,
    draw_activations,
    draw_confusion,
    draw_grad_cam,
    draw_mistakes,
)

# Which run the galleries look into, if it is complete; else the first complete one.
LOOKED_INTO = "finetune"
LARGE = 224  # pixels; what ImageNet networks are used to


@dataclass(frozen=True)
class Drawing:
    """A picture to be made, and what the page says of it.

    Attributes:
        path: the PNG.
        alt, caption: as of `page.Picture`.
        source: the file it is made from; once that is newer, the picture is stale.
        draw: called with `out` and `data_dir`.
    """

    path: Path
    alt: str
    caption: str
    source: Path | None
    draw: Callable[..., object]

    def is_done(self) -> bool:
        """Whether it is there and up to date."""
        if not self.path.is_file():
            return False
        made = self.path.stat().st_mtime_ns
        return self.source is None or self.source.stat().st_mtime_ns <= made

    def make(self, data_dir: str | Path | None = None) -> None:
        """Draw it; killed at any point, the old picture or none is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=self.path.parent) as temporary:
            self.draw(out=Path(temporary) / self.path.name, data_dir=data_dir)
            for file in Path(temporary).iterdir():  # some leave their numbers beside the picture
                os.replace(file, self.path.with_name(file.name))


def pictures(drawings: Iterable[Drawing]) -> tuple[Picture, ...]:
    """Those that have been drawn."""
    return tuple(Picture(d.path, d.alt, d.caption) for d in drawings if d.path.is_file())


def gallery_drawings(name: str, folder: Path, entries: Sequence[Entry]) -> list[Drawing]:
    """The pictures of a gallery ("activations", "grad_cam", "mistakes"); none without a run.

    Args:
        name: the gallery.
        folder: where pictures are kept.
        entries: of the plan; the complete ones among them can be looked into.
    """
    complete = [entry for entry in entries if entry.complete()]
    complete.sort(key=lambda entry: entry.name != LOOKED_INTO)
    if not complete:
        return []
    return _GALLERIES[name](folder, complete[0].name, complete[0].complete()[0].path)


def _activations(folder: Path, name: str, run: Path) -> list[Drawing]:
    drawings = []
    for size in (None, LARGE):
        suffix, enlarged = ("", "") if size is None else (f"_{size}", f" enlarged to {size} pixels")
        drawings += [
            Drawing(
                folder / f"activations_{image}{suffix}_{name}.png",
                f"Feature maps of {', '.join(REPORT_LAYERS)} for a {image}{enlarged}",
                f"The first {image} of the test set{enlarged}, in the best epoch of {name}.",
                run / "summary.json",
                partial(draw_activations, run, REPORT_LAYERS, image, size=size),
            )
            for image in ("ship", "cat")
        ]
    return drawings


def _grad_cam(folder: Path, name: str, run: Path) -> list[Drawing]:
    return [
        Drawing(
            folder / f"grad_cam_{name}.png",
            "Ten test images and the regions that speak for the predicted class",
            f"Ten test images in the best epoch of {name}, chosen by a rule and not picked.",
            run / "summary.json",
            partial(draw_grad_cam, run),
        )
    ]


def _mistakes(folder: Path, name: str, run: Path) -> list[Drawing]:
    return [
        Drawing(
            folder / f"mistakes_{name}.png",
            "Test images that were taken for a wrong class with the highest probability",
            f"The test images that the best epoch of {name} is most confidently wrong on.",
            run / "summary.json",
            partial(draw_mistakes, run),
        )
    ]


_GALLERIES = {"activations": _activations, "grad_cam": _grad_cam, "mistakes": _mistakes}


def confusion_drawing(folder: Path, entry: Entry) -> Drawing:
    """The confusion matrix of an entry's first complete run."""
    run = entry.complete()[0].path
    return Drawing(
        folder / f"confusion_{entry.name}.png",
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
        folder / f"curves_{name.replace('/', '_')}.png",
        f"Loss and accuracy of {name} over the epochs, train and validation",
        f"{name}: loss and accuracy over the epochs.",
        RunDirectory(run).metrics,
        draw,
    )


def comparison_drawing(folder: Path, entries: Sequence[Entry]) -> Drawing:
    """Test accuracy against training time of all entries that are complete."""

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

    summaries = [RunDirectory(run.path).summary for entry in entries for run in entry.complete()]
    return Drawing(
        folder / "comparison.png",
        "Test accuracy against training time",
        "Test accuracy against training time, ours (filled) and the report's (hollow). Times of "
        "different machines say nothing about each other.",
        max(summaries, key=lambda path: path.stat().st_mtime_ns, default=None),
        draw,
    )


def _devices(entries: Iterable[Entry]) -> str:
    machines = [run.config["machine"] for entry in entries for run in entry.complete()]
    names = {
        f"{m['cores']} CPU cores" if m["backend"] == "cpu" else str(m["device"]) for m in machines
    }
    return " and ".join(sorted(names))
