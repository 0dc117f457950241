"""Figures from plain arrays and histories, drawn without a screen."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from jaxcifar.run_files import History

TRAIN_COLOR, VALIDATION_COLOR = "#1f5fa8", "#d1601f"


def plot_curves(history: History, *, title: str) -> Figure:
    """Loss and accuracy over epochs, train and validation, side by side."""
    figure = Figure(figsize=(9.6, 3.8), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, name, unit in ((loss_axes, "loss", "nats"), (accuracy_axes, "accuracy", "fraction")):
        for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
            drawn = history if split == "train" else history.validated()
            epochs, values = drawn.column("epoch"), drawn.column(f"{split}_{name}")
            axes.plot(epochs, values, color=color, marker="o", markersize=3, label=split)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{name} ({unit})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    loss_axes.set_ylim(bottom=0)
    # Of equals the later epoch, as the best checkpoint is chosen.
    scored = [(row["validation_accuracy"], row["epoch"]) for row in history.validated().rows]
    if scored:
        value, epoch = max(scored)
        accuracy_axes.set_title(f"best validation {value:.3f} in epoch {epoch}", fontsize=9)
    return figure


def plot_activations(
    image: NDArray[np.uint8], activations: Mapping[str, NDArray[np.floating]], *, title: str
) -> Figure:
    """The input and the first feature maps of each layer, a row a layer.

    Args:
        image: uint8 [h, w, 3].
        activations: layer name -> [h, w, channels] of that image. One grey scale a layer, from its
            smallest to its largest value over all its channels, printed beside it.
        title: above it all.
    """
    columns = 8
    inches = 1.4 * len(activations) + 0.8  # of height; a row is a map of 1 inch and its title
    figure = Figure(figsize=(11, inches), dpi=120)
    figure.suptitle(title, fontsize=11, y=1 - 0.15 / inches)
    grid = figure.add_gridspec(
        len(activations),
        columns + 2,
        left=0.01,
        right=0.99,
        top=1 - 0.75 / inches,
        bottom=0.05 / inches,
        hspace=0.35,
        wspace=0.08,
    )
    input_axes = figure.add_subplot(grid[:, :2])
    input_axes.imshow(image)
    input_axes.set_title(f"input, {image.shape[0]}x{image.shape[1]} pixels", fontsize=9)
    input_axes.axis("off")
    for row, (name, maps) in enumerate(activations.items()):
        low, high = float(maps.min()), float(maps.max())
        for channel in range(columns):
            axes = figure.add_subplot(grid[row, 2 + channel])
            axes.axis("off")
            if channel < maps.shape[-1]:
                axes.imshow(maps[..., channel], cmap="gray", vmin=low, vmax=high)
            if channel == 0:
                height, width, channels = maps.shape
                axes.set_title(
                    f"{name}: {height}x{width}, {min(columns, channels)} of {channels} channels, "
                    f"black {low:.2f} to white {high:.2f}",
                    fontsize=8,
                    loc="left",
                )
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
