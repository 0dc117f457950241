"""Look inside a trained network: feature maps, Grad-CAM, mistakes, the confusion matrix.

jaxcifar visualize runs/scratch --image ship                  feature maps of three layers
jaxcifar visualize runs/scratch --image photo.jpg --size 224 --layers layer2.0.relu1
jaxcifar visualize runs/scratch --image ship --order first --scale layer
jaxcifar visualize runs/scratch --list-layers
jaxcifar visualize runs/scratch --grad-cam                    of 10 confident test images
jaxcifar visualize runs/scratch --grad-cam --image cat --target dog
jaxcifar visualize runs/scratch --mistakes --count 20
jaxcifar visualize runs/scratch --confusion                   and the counts as JSON
jaxcifar visualize --weights resnet18.pth --normalization imagenet --image ship
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from jaxcifar.commands.model import add_dataset_options
from jaxcifar.commands.parser import Parser, add_checkpoint_option, add_run_argument
from jaxcifar.common.messages import say, shown
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.inference.load import network_of_run, network_of_weights
from jaxcifar.inference.network import TrainedNetwork
from jaxcifar.models.resnet import ARCHITECTURES
from jaxcifar.step.augment import NORMALIZATIONS
from jaxcifar.training.evaluation import SplitName
from jaxcifar.visualize.feature_maps import REPORT_LAYERS
from jaxcifar.visualize.pictures import (
    ChannelOrder,
    MapScale,
    describe_layers,
    draw_activations,
    draw_confusion,
    draw_grad_cam,
    draw_mistakes,
)
from jaxcifar.visualize.saving import save_picture

# What can be drawn, and the options that apply to it.
DRAWINGS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "activations": (draw_activations, ("layers", "image", "size", "channels", "order", "scale")),
    "grad_cam": (draw_grad_cam, ("layers", "image", "size", "count", "target")),
    "mistakes": (draw_mistakes, ("count", "split")),
    "confusion": (draw_confusion, ("split",)),
    "list_layers": (describe_layers, ("size",)),
}
WEIGHTS_OPTIONS = ("architecture", "normalization", "input_size")


def make_parser(prog: str) -> Parser:
    """Options that are not given are absent from the result: the library's defaults hold."""
    parser = Parser(prog=prog, description=__doc__, argument_default=argparse.SUPPRESS)
    add_run_argument(parser, nargs="?")
    _add_drawings(parser)
    _add_details(parser)
    add_checkpoint_option(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PNG",
        help="file to write (default: in RUN/figures, or figures/NAME-DIGEST for --weights)",
    )
    add_dataset_options(parser)
    _add_weights(parser)
    return parser


def _add_drawings(parser: Parser) -> None:
    group = parser.add_argument_group("what to draw (default: the feature maps of --layers)")
    for name, text in (
        ("grad-cam", "where in the image the predicted class (or --target) is recognised"),
        ("mistakes", "the wrong predictions with the highest probability"),
        ("confusion", "which classes are taken for which, and the accuracy of each"),
        ("list-layers", "print every layer with the shape of its output"),
    ):
        group.add_argument(f"--{name}", action="store_true", help=text)


def _add_details(parser: Parser) -> None:
    group = parser.add_argument_group("of what, and how")
    group.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help=f"torchvision names (default: {' '.join(REPORT_LAYERS)}); for --grad-cam one child of "
        "the network (its default: the last stage with a map of at least 4x4)",
    )
    group.add_argument(
        "--image",
        metavar="CLASS|INDEX|FILE",
        help="the first test image of a class, the test image of an index, or a picture (default: "
        "0; for --grad-cam the first 10 that are predicted correctly with probability 0.9 or more)",
    )
    group.add_argument(
        "--size",
        type=_size,
        metavar="N|own",
        help="height and width, pixels, at which the network sees the image, scaled and cropped to "
        "its centre; own: a file as it is (default: as in training)",
    )
    group.add_argument("--channels", type=int, metavar="N", help="maps of each layer (default: 8)")
    group.add_argument(
        "--order",
        choices=get_args(ChannelOrder),
        help="which maps: active, those whose pixels have the largest standard deviation, in that "
        "order (the default), or first, those of the first channels",
    )
    group.add_argument(
        "--scale",
        choices=get_args(MapScale),
        help="colours from the minimum to the maximum of each channel (the default), or of the "
        "whole layer, to compare its maps",
    )
    group.add_argument(
        "--count", type=int, metavar="N", help="images (default: --grad-cam 10, --mistakes 16)"
    )
    group.add_argument("--target", metavar="CLASS", help="explain this class (default: predicted)")
    group.add_argument("--split", choices=get_args(SplitName), help="scored images (default: test)")


def _add_weights(parser: Parser) -> None:
    group = parser.add_argument_group("weights instead of a run")
    group.add_argument(
        "--weights", metavar="F", help="a .safetensors or .pth file, or OWNER/NAME on the hub"
    )
    group.add_argument(
        "--architecture", choices=tuple(ARCHITECTURES), help="their network (default: by its keys)"
    )
    group.add_argument(
        "--normalization",
        choices=tuple(NORMALIZATIONS),
        help="mean and std they were trained with, if the file does not say",
    )
    group.add_argument(
        "--input-size",
        type=int,
        metavar="N",
        help="height and width of their network's input, pixels, if the file does not say",
    )


def _size(text: str) -> int | str:
    if text == "own":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither own nor pixels") from None


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, draw."""
    enable_compilation_cache()
    parser = make_parser(prog)
    given = vars(parser.parse(arguments))
    name = chosen_drawing(parser, given)
    draw, names = DRAWINGS[name]
    settings = {name: given[name] for name in names if name in given}
    if name == "grad_cam":
        layers = settings.pop("layers", [None])
        if len(layers) > 1:
            parser.error("--grad-cam takes one layer")
        if "image" in settings and "count" in settings:
            parser.error("--count does not apply to --grad-cam of one --image")
        settings["layer"] = layers[0]
        settings["images"] = [settings.pop("image")] if "image" in settings else None
    if name == "list_layers":
        if "out" in given:
            parser.error("--list-layers prints and writes nothing: leave out --out")
        if given.get("size") == "own":
            parser.error("--size own is for a picture: --list-layers takes pixels")
        say(*describe_layers(network_of(parser, given), **settings).split("\n"))
        return
    path = save_picture(draw, network_of(parser, given), **settings, out=given.get("out"))
    say(f"wrote {path}")


def chosen_drawing(parser: Parser, given: dict[str, Any]) -> str:
    """What to draw; an option that does not apply to it is an error."""
    chosen = [name for name in DRAWINGS if name in given] or ["activations"]
    if len(chosen) > 1:
        parser.error(f"one drawing a call, not {' and '.join(map(option, chosen))}")
    for name in {name for _, names in DRAWINGS.values() for name in names}:
        if name in given and name not in DRAWINGS[chosen[0]][1]:
            parser.error(f"{option(name)} does not apply to {option(chosen[0])}")
    return chosen[0]


def network_of(parser: Parser, given: dict[str, Any]) -> TrainedNetwork:
    """The network of the run or of the weights."""
    data = {name: given[name] for name in ("data_dir", "dataset", "follow_links") if name in given}
    if ("run" in given) == ("weights" in given):
        parser.error("name either a RUN or --weights")
    options = {name: given[name] for name in WEIGHTS_OPTIONS if name in given}
    if "weights" in given:
        if given["checkpoint"] != "best":
            parser.error("--checkpoint is for a RUN; a file of weights holds only one")
        if os.path.isdir(given["weights"]):
            parser.error(f"{given['weights']} is a directory: a RUN is named without --weights")
        size = options.pop("input_size", None)
        return network_of_weights(given["weights"], **options, size=size, **data)
    if options:
        parser.error(f"{option(next(iter(options)))} is for --weights; a run knows its own")
    return network_of_run(given["run"], given["checkpoint"], **data)


def option(name: str) -> str:
    """As it is written on the command line."""
    return "--" + name.replace("_", "-")
