"""Accuracy against the swept value."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxcifar.common.drawing import new_figure, own_settings
from jaxcifar.common.figure import drawn
from jaxcifar.runs.curves import TRAIN_COLOR, VALIDATION_COLOR
from jaxcifar.studies.sweeps.members import Number
from jaxcifar.studies.sweeps.result import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"train": TRAIN_COLOR, "validation": VALIDATION_COLOR, "test": "#2e7d4f"}
UNITS = {
    "dropout_rate": "share of units dropped",
    "flip_rate": "probability",
    "rotate_degrees": "degrees",
    "translate_pixels": "pixels",
    "test_shift_pixels": "pixels",
    "cutout_pixels": "pixels",
    "resize": "pixels",
    "train_size": "images",
    "validation_size": "images",
    "batch_size": "images",
    "eval_batch_size": "images",
    "width": "channels",
    "warmup_epochs": "epochs",
    "t_max": "epochs",
    "learning_rate": "peak",
    "label_smoothing": "share",
    "clip_norm": "largest norm",
}


@own_settings()
def plot_sweep(
    field: str, values: Sequence[Number], accuracies: Mapping[str, Sequence[float]], *, title: str
) -> "Figure":
    """Accuracy against a swept value, a line for each of "train", "validation" and "test".

    Over seeds, which have no order, it is a point for each run beside their mean and standard
    deviation. Values that span more than a factor of ten are spread by their logarithm.

    Args:
        field: what was swept.
        values: one for each run.
        accuracies: split -> fractions, one for each run.
        title: above it.
    """
    figure = new_figure(6.4, 4.2, layout="constrained")
    figure.suptitle(drawn(title), fontsize=11)
    axes = figure.subplots()
    axes.set_ylabel("accuracy (fraction)")
    axes.grid(alpha=0.3)
    if field == "seed":
        for place, (split, found) in enumerate(accuracies.items()):
            color, of = COLORS[split], spread(found)
            axes.plot([place] * len(found), found, "o", color=color, alpha=0.5, markersize=5)
            deviation = of["standard deviation"] if len(found) > 1 else 0.0
            axes.errorbar(place + 0.18, of["mean"], yerr=deviation, fmt="_", color=color, capsize=5)
            text = f"{of['mean']:.4f}" + (f" ± {deviation:.4f}" if len(found) > 1 else "")
            axes.annotate(
                text,
                (place + 0.18, of["mean"]),
                (10, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_xticks(range(len(accuracies)), list(accuracies))
        axes.set_xlim(-0.4, len(accuracies) - 0.2)
        axes.set_xlabel(f"split; a point a seed ({len(values)}), mean and standard deviation")
        return figure
    order = sorted(range(len(values)), key=lambda i: values[i])
    ordered = [values[i] for i in order]
    for split, found in accuracies.items():
        axes.plot(
            ordered, [found[i] for i in order], "o-", color=COLORS[split], markersize=4, label=split
        )
    if ordered[0] > 0 and ordered[-1] > 10 * ordered[0]:
        axes.set_xscale("log")
    axes.set_xlabel(drawn(f"{field} ({UNITS[field]})" if field in UNITS else field))
    axes.legend()
    return figure
