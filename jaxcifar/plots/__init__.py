"""Figures from plain arrays and histories, drawn without a screen.

The folder has floors of its own; a file imports only from lower ones:

    0  page
    1  activations, comparison, confusion, curves, images
"""

from jaxcifar.plots.activations import plot_activations
from jaxcifar.plots.comparison import ComparisonPoint, plot_comparison
from jaxcifar.plots.confusion import plot_confusion
from jaxcifar.plots.curves import TRAIN_COLOR, VALIDATION_COLOR, plot_curves
from jaxcifar.plots.images import Overlay, plot_grad_cam, plot_images
from jaxcifar.plots.page import save_figure

__all__ = [
    "TRAIN_COLOR",
    "VALIDATION_COLOR",
    "ComparisonPoint",
    "Overlay",
    "plot_activations",
    "plot_comparison",
    "plot_confusion",
    "plot_curves",
    "plot_grad_cam",
    "plot_images",
    "save_figure",
]
