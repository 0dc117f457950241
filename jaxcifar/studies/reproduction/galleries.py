"""The galleries of a report: pictures that look inside one of its runs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import NoneFoundError, RecipeError
from jaxcifar.studies.reproduction.drawings import Drawing, place_of
from jaxcifar.studies.reproduction.entries import Entry
from jaxcifar.visualize.feature_maps import REPORT_LAYERS
from jaxcifar.visualize.pictures import (
    draw_activations,
    draw_grad_cam,
    draw_mistakes,
)

# The run that the galleries show if it is complete; otherwise they show the first complete one.
SHOWN_RUN = "finetune"
LARGE = 224  # pixels; the usual size for ImageNet networks
# Name of a gallery -> its heading and text.
GALLERIES = {
    "activations": (
        "Feature maps of early layers",
        "The outputs of an early convolution, the first one of the first block and a later one of "
        "its stage, each before its BatchNorm, as in the course report. They are shown at the "
        "training size, and enlarged, where the maps have more pixels. Each picture says which "
        "channels it shows and what its colours mean.",
    ),
    "grad_cam": (
        "Where the network looks (Grad-CAM)",
        "The regions whose features support the predicted class. No image was chosen by hand: the "
        "rule is in the title.",
    ),
    "mistakes": (
        "Most confident mistakes",
        "The wrongly predicted test images with the highest probabilities.",
    ),
}


def gallery_drawings(name: str, folder: Path, entries: Sequence[Entry]) -> list[Drawing]:
    """The pictures of a gallery; none if no run is complete.

    Args:
        name: of the gallery.
        folder: for the pictures.
        entries: of the plan; one of the complete ones is shown.
    """
    complete = [entry for entry in entries if entry.complete()]
    complete.sort(key=lambda entry: entry.name != SHOWN_RUN)
    if not complete:
        return []
    return _DRAWINGS[name](folder, complete[0].name, complete[0].complete()[0].path)


def _activations(folder: Path, name: str, run: Path) -> list[Drawing]:
    drawings = []
    for size in (None, LARGE):
        suffix, enlarged = ("", "") if size is None else (f"_{size}", f" enlarged to {size} pixels")
        drawings += [
            Drawing(
                folder / f"activations_{image}{suffix}_{place_of(folder, run)}.png",
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
            folder / f"grad_cam_{place_of(folder, run)}.png",
            "Ten test images and the regions that support the predicted class",
            f"Ten test images in the best epoch of {name}, chosen by a rule, not by hand.",
            run / "summary.json",
            partial(_draw_found, draw_grad_cam, run, "grad_cam"),
        )
    ]


def _draw_found(
    draw: Callable[..., Any], run: Path, name: str, *, out: Path, data_dir: str | Path | None
) -> None:
    """Draw images that are looked for; where there are none, the way out is one of `reproduce`."""
    try:
        draw(run, out=out, data_dir=data_dir)
    except NoneFoundError as error:
        raise RecipeError(
            f"{error.problem}; with other --epochs, in another --out, there may be some; or leave "
            f"the pictures out with --skip {name}"
        ) from None


def _mistakes(folder: Path, name: str, run: Path) -> list[Drawing]:
    return [
        Drawing(
            folder / f"mistakes_{place_of(folder, run)}.png",
            "The wrongly predicted test images with the highest probabilities",
            f"The most confident mistakes of the best epoch of {name} on the test images.",
            run / "summary.json",
            partial(_draw_found, draw_mistakes, run, "mistakes"),
        )
    ]


_DRAWINGS = {"activations": _activations, "grad_cam": _grad_cam, "mistakes": _mistakes}
