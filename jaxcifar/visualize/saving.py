"""Where a picture of a run goes: into the run's figures, by a name of its own.

The name says what differs from the defaults, see `names`; that of another checkpoint than the best
ends in it. A picture replaces only an earlier one of the same.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcifar.inference.network import TrainedNetwork
from jaxcifar.runs.directory import refuse_links
from jaxcifar.visualize.feature_maps import REPORT_LAYERS
from jaxcifar.visualize.names import image_word, images_word, picture_name, word
from jaxcifar.visualize.pictures import (
    draw_activations,
    draw_confusion,
    draw_grad_cam,
    draw_mistakes,
    network_to_draw,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Settings = Mapping[str, Any]


def save_picture(
    draw: Callable[..., "Figure"],
    run: str | Path | TrainedNetwork,
    *arguments: Any,
    **settings: Any,
) -> Path:
    """Draw a picture of a run and write it as a PNG.

    Args:
        draw: one of the functions `draw_...` of `pictures`.
        run, arguments, settings: its arguments. Without `out`, the picture is written into the
            figures of the run, by a name that says its settings.

    Returns:
        The path of the picture.

    Raises:
        RunError: the folder of figures is a link.
        ValueError: as `draw`.
    """
    call = inspect.signature(draw).bind(run, *arguments, **settings)
    call.apply_defaults()
    given = call.arguments
    network = network_to_draw(run, given["which"], given["data_dir"])
    path = given["out"] and Path(given["out"])
    if not path:
        refuse_links(network.figures)
        path = network.figures / f"{_NAMES[draw](network, given)}{network.file_suffix}.png"
    draw(**given | {"run": network, "out": path})
    return path


def _activations(network: TrainedNetwork, given: Settings) -> str:
    # The default ones of a built-in network may be named, too.
    layers = tuple(given["layers"] or REPORT_LAYERS)
    return picture_name(
        "activations",
        image_word(given["image"], network.dataset.class_names),
        layers=None if layers == REPORT_LAYERS else word(" ".join(layers)),
        size=given["size"],
        channels=_differing(draw_activations, given, "channels"),
        order=_differing(draw_activations, given, "order"),
        scale=_differing(draw_activations, given, "scale"),
    )


def _grad_cam(network: TrainedNetwork, given: Settings) -> str:
    images, layer, target = (given[name] for name in ("images", "layer", "target"))
    return picture_name(
        "grad_cam",
        image=None if images is None else images_word(images, network.dataset.class_names),
        count=_differing(draw_grad_cam, given, "count") if images is None else None,
        layer=None if layer is None else word(layer),
        target=None if target is None else word(network.class_names[network.label_of(target)]),
        size=given["size"],
    )


def _mistakes(network: TrainedNetwork, given: Settings) -> str:
    count, split = (_differing(draw_mistakes, given, name) for name in ("count", "split"))
    return picture_name("mistakes", count=count, split=split)


def _confusion(network: TrainedNetwork, given: Settings) -> str:
    return picture_name("confusion", split=_differing(draw_confusion, given, "split"))


_NAMES = {
    draw_activations: _activations,
    draw_grad_cam: _grad_cam,
    draw_mistakes: _mistakes,
    draw_confusion: _confusion,
}


def _differs(draw: Callable[..., "Figure"], given: Settings, name: str) -> bool:
    default = inspect.signature(draw).parameters[name].default
    value = given[name]
    return (tuple(value) if isinstance(value, list) else value) != default


def _differing(draw: Callable[..., "Figure"], given: Settings, name: str) -> Any:
    """A setting for the picture's name, which does not say the default."""
    return given[name] if _differs(draw, given, name) else None
