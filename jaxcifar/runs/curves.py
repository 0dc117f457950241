"""The learning curves of a run."""

from matplotlib.figure import Figure

from jaxcifar.common.figure import drawn
from jaxcifar.runs.history import History

DRAWN = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
TRAIN_COLOR, VALIDATION_COLOR = "#1f5fa8", "#d1601f"


def plot_curves(history: History, *, title: str) -> Figure:
    """Plot loss and accuracy over the epochs side by side, train and validation in each."""
    figure = Figure(figsize=(9.6, 3.8), dpi=120, layout="constrained")
    figure.suptitle(drawn(title), fontsize=11)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, name, unit in ((loss_axes, "loss", "nats"), (accuracy_axes, "accuracy", "fraction")):
        for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
            epochs = history if split == "train" else history.validated()
            values = epochs.column(f"{split}_{name}")
            axes.plot(
                epochs.column("epoch"), values, color=color, marker="o", markersize=3, label=split
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{name} ({unit})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    loss_axes.set_ylim(bottom=0)
    # Among equals the latest epoch, like the best checkpoint.
    scored = [(row["validation_accuracy"], row["epoch"]) for row in history.validated().rows]
    if scored:
        value, epoch = max(scored)
        accuracy_axes.set_title(f"best validation {value:.3f} in epoch {epoch}", fontsize=9)
    return figure
