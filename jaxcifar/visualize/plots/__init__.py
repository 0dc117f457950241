"""Figures from plain arrays, drawn without a display."""

from jaxcifar.visualize.plots.confusion import plot_confusion
from jaxcifar.visualize.plots.grid import Overlay, plot_grad_cam, plot_images
from jaxcifar.visualize.plots.maps import (
    ChannelOrder,
    MapScale,
    check_choices,
    plot_activations,
)

__all__ = [
    "ChannelOrder",
    "MapScale",
    "Overlay",
    "check_choices",
    "plot_activations",
    "plot_confusion",
    "plot_grad_cam",
    "plot_images",
]
