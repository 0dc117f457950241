"""Look into a trained network: what its layers put out, where it looks, what it mistakes.

python scripts/visualize.py runs/scratch --image ship                  maps of three layers
python scripts/visualize.py runs/scratch --image photo.jpg --size 224 --layers layer2.0.relu1
python scripts/visualize.py runs/scratch --list-layers
python scripts/visualize.py runs/scratch --grad-cam                    of 10 sure test images
python scripts/visualize.py runs/scratch --grad-cam --image cat --target dog
python scripts/visualize.py runs/scratch --mistakes --count 20
python scripts/visualize.py runs/scratch --confusion                   and the counts as JSON
python scripts/visualize.py --weights resnet18.pth --normalization imagenet --image ship
"""

import argparse
from pathlib import Path
from typing import Any, get_args

from jaxcifar.commands.cli import Parser, add_checkpoint_option, run_script
from jaxcifar.models.resnet import ARCHITECTURES
from jaxcifar.step.augment import NORMALIZATIONS
from jaxcifar.training.evaluation import SplitName
from jaxcifar.visualize.network import Subject, run_subject, weights_subject
from jaxcifar.visualize.pictures import (
    REPORT_LAYERS,
    describe_layers,
    draw_activations,
    draw_confusion,
    draw_grad_cam,
    draw_mistakes,
)

# What can be drawn, and the options that are for it.
DRAWINGS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "activations": (draw_activations, ("layers", "image", "size", "channels")),
    "grad_cam": (draw_grad_cam, ("layers", "image", "size", "count", "target")),
    "mistakes": (draw_mistakes, ("count", "split")),
    "confusion": (draw_confusion, ("split",)),
    "list_layers": (describe_layers, ("size",)),
}
WEIGHTS_OPTIONS = ("architecture", "normalization", "dataset")


def make_parser() -> Parser:
    """An option not given is absent from what is parsed, so that the library's default holds."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="directory that train.py wrote")
    what = parser.add_argument_group("what is drawn (default: activations of --layers)")
    for name, text in (
        ("grad-cam", "where the predicted class (or --target) is found in the image"),
        ("mistakes", "the wrongly predicted images that the network is surest of"),
        ("confusion", "which classes are taken for which, and the accuracy of each"),
        ("list-layers", "print every layer with the shape of what it puts out"),
    ):
        what.add_argument(f"--{name}", action="store_true", help=text)

    how = parser.add_argument_group("of what and how")
    how.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help=f"torchvision names (default: {' '.join(REPORT_LAYERS)}); for --grad-cam one child of "
        "the network (default: the last stage with a map of at least 4x4)",
    )
    how.add_argument(
        "--image",
        metavar="CLASS|INDEX|FILE",
        help="the first test image of a class, the test image of an index, or a picture (default: "
        "0; for --grad-cam the first 10 that are predicted correctly with probability 0.9 or more)",
    )
    how.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="show the network the image's central square at NxN pixels (default: a file's own "
        "size, a test image's as in training)",
    )
    how.add_argument("--channels", type=int, metavar="N", help="maps of each layer (default: 8)")
    how.add_argument(
        "--count", type=int, metavar="N", help="images (default: --grad-cam 10, --mistakes 16)"
    )
    how.add_argument("--target", metavar="CLASS", help="explain this class (default: predicted)")
    how.add_argument("--split", choices=get_args(SplitName), help="scored images (default: test)")
    add_checkpoint_option(parser)
    parser.add_argument(
        "--out", type=Path, help="the PNG (default: in RUN/figures, or figures/ for --weights)"
    )
    parser.add_argument("--data-dir", type=Path, help="of TFDS data (default: $TFDS_DATA_DIR)")

    weights = parser.add_argument_group("weights in place of a run")
    weights.add_argument(
        "--weights", metavar="F", help="a .safetensors or .pth file, or OWNER/NAME on the hub"
    )
    weights.add_argument(
        "--architecture", choices=tuple(ARCHITECTURES), help="their network (default: resnet18)"
    )
    weights.add_argument(
        "--normalization",
        choices=tuple(NORMALIZATIONS),
        help="mean and std they were trained on, if the file does not say",
    )
    weights.add_argument(
        "--dataset", metavar="NAME", help="whose test images are shown (default: cifar10)"
    )
    return parser


def main() -> None:
    """Parse, draw."""
    parser = make_parser()
    given = vars(parser.parse())
    chosen = [name for name in DRAWINGS if name in given] or ["activations"]
    if len(chosen) > 1:
        parser.error(f"one picture a call, not {' and '.join(map(option, chosen))}")
    draw, settings = DRAWINGS[chosen[0]]
    for name in {name for _, names in DRAWINGS.values() for name in names} - set(settings):
        if name in given:
            parser.error(f"{option(name)} is not for {option(chosen[0])}")
    wishes = {name: given[name] for name in settings if name in given}
    if draw is draw_grad_cam:
        layers = wishes.pop("layers", [None])
        if len(layers) > 1:
            parser.error("--grad-cam is of one layer")
        wishes["layer"] = layers[0]
        wishes["images"] = [wishes.pop("image")] if "image" in wishes else None
    if draw is describe_layers:
        if "out" in given:
            parser.error("--list-layers prints and writes nothing: leave --out away")
        print(describe_layers(subject_of(parser, given), **wishes))
        return
    path = draw(subject_of(parser, given), **wishes, out=given.get("out"))
    print(f"wrote {path}")


def subject_of(parser: Parser, given: dict[str, Any]) -> Subject:
    """The run or the weights."""
    data_dir = given.get("data_dir")
    if ("run" in given) == ("weights" in given):
        parser.error("name a RUN or --weights, one of them")
    options = {name: given[name] for name in WEIGHTS_OPTIONS if name in given}
    if "weights" in given:
        if given["checkpoint"] != "best":
            parser.error("--checkpoint is for a RUN; a file of weights is one")
        return weights_subject(given["weights"], **options, data_dir=data_dir)
    if options:
        parser.error(f"{option(next(iter(options)))} is for --weights; a run knows its own")
    return run_subject(given["run"], given["checkpoint"], data_dir)


def option(name: str) -> str:
    """As it is written on the command line."""
    return "--" + name.replace("_", "-")


if __name__ == "__main__":
    run_script(main)
