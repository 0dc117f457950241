"""Figures from plain arrays and histories, drawn without a screen.

The folder has floors of its own; a file imports only from lower ones:

    0  page
    1  activations, confusion, curves, images
"""

from jaxcifar.plots.activations import plot_activations
from jaxcifar.plots.confusion import plot_confusion
from jaxcifar.plots.curves import plot_curves
from jaxcifar.plots.images import Overlay, plot_grad_cam, plot_images
from jaxcifar.plots.page import save_figure

__all__ = [
    "Overlay",
    "plot_activations",
    "plot_confusion",
    "plot_curves",
    "plot_grad_cam",
    "plot_images",
    "save_figure",
]
