"""The confusion matrix as a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.drawing import own_settings
from jaxcifar.common.figure import Page, fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COUNTED = 25  # classes; the counts of more cannot be read
LETTERS = 14  # of a class name


@own_settings()
def plot_confusion(
    confusion: NDArray[np.integer],
    accuracy: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    title: str,
) -> "Figure":
    """A heat map of [true, predicted] with its counts, next to the accuracy of each class.

    The colour is the count as a fraction of the true class's images. With more than 25 classes, the
    counts are left out, and so are the names that would not fit.

    Args:
        confusion: int [true, predicted].
        accuracy: per class, [classes]; NaN for one without images.
        class_names: in order.
        title: above the figure.
    """
    count = len(class_names)
    side = 6.5 if count > MAX_COUNTED else max(0.52 * count, 2.6)
    names, gap, bars, below = 1.15, 0.35, 2.2, 1.35
    page = Page(names + side + gap + bars + 0.5, side + below, title)
    matrix = page.add(names, 0.05, side, side)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    matrix.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    matrix.set_xlabel("predicted class\n(counts; colour: share of the true class)", fontsize=9)
    matrix.set_ylabel("true class", fontsize=9)
    if count <= MAX_COUNTED:
        for (true, predicted), number in np.ndenumerate(confusion):
            color = "white" if shares[true, predicted] > 0.5 else "black"
            matrix.text(
                predicted, true, f"{number}", ha="center", va="center", fontsize=8, color=color
            )
    every = -(-count // MAX_COUNTED)
    ticks = range(0, count, every)
    labels = [fitted(class_names[i], LETTERS) for i in ticks]
    matrix.set_xticks(ticks, labels, rotation=90, fontsize=8)
    matrix.set_yticks(ticks, labels, fontsize=8)

    bars_axes = page.add(names + side + gap, 0.05, bars, side)
    bars_axes.barh(np.arange(count), np.nan_to_num(accuracy), color="#1f5fa8", height=0.7)
    bars_axes.set_ylim(count - 0.5, -0.5)
    bars_axes.set_xlim(0, 1.25)
    bars_axes.set_xticks([0, 0.5, 1])
    bars_axes.set_yticks([])
    bars_axes.set_xlabel("accuracy of the class (fraction)", fontsize=9)
    bars_axes.tick_params(labelsize=8)
    for edge in ("top", "right"):
        bars_axes.spines[edge].set_visible(False)
    bars_axes.spines["bottom"].set_bounds(0, 1)
    if count <= MAX_COUNTED:
        for i, value in enumerate(accuracy):
            text = "no images" if np.isnan(value) else f"{value:.3f}"
            bars_axes.text(np.nan_to_num(value) + 0.03, i, text, va="center", fontsize=8)
    return page.figure
