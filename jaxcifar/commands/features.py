"""Write the output of a layer for many images, for a nearest-neighbour or a linear probe.

jaxcifar features runs/pets --split test --out test.npz          features, labels, class_names
jaxcifar features runs/pets --split train --layer layer4 --out train.npz
jaxcifar features runs/pets --split "holiday photos" --out photos.npz    features, files

Each file says in network, layer and split where its features are from; one of a split names its
dataset, too.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from jaxcifar.commands.model import (
    add_dataset_options,
    add_model_arguments,
    check_out,
    make_folder_of,
    weights_options,
)
from jaxcifar.commands.parser import Parser
from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean, escaped, say
from jaxcifar.common.writing import write_atomically
from jaxcifar.data import pictures
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.inference.load import load, network_of
from jaxcifar.inference.network import TrainedNetwork
from jaxcifar.training.evaluation import SplitName


def make_parser(prog: str) -> Parser:
    """MODEL, the layer, the images and the file."""
    parser = Parser(prog=prog, description=__doc__)
    add_model_arguments(parser)
    parser.add_argument(
        "--layer",
        default="avgpool",
        help="a torchvision name, see jaxcifar visualize --list-layers (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        default="test",
        metavar="train|validation|test|FOLDER",
        help="a split of the run's data, or a folder of pictures (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="F.npz", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace F.npz if it exists")
    add_dataset_options(parser)
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, compute, write."""
    enable_compilation_cache()
    parser = make_parser(prog)
    parsed = parser.parse(arguments)
    check_out(parser, parsed.out, ".npz", overwrite=parsed.overwrite)
    options = weights_options(parsed)
    if parsed.split in get_args(SplitName):
        data = {name: getattr(parsed, name) for name in ("data_dir", "dataset", "follow_links")}
        network = network_of(parsed.model, parsed.checkpoint, options, **data)
    elif not os.path.exists(parsed.split):
        parser.error(
            f"--split {escaped(parsed.split)} is no split, and there is no folder of that name"
            f"{did_you_mean(parsed.split, get_args(SplitName))}"
        )
    elif parsed.dataset is not None:
        parser.error(f"--dataset is for a split, and --split is the folder {parsed.split}")
    else:
        network = load(parsed.model, which=parsed.checkpoint, **options)
    make_folder_of(parsed.out)
    arrays = features_of(network, parsed.split, parsed.layer, parsed.follow_links)
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_atomically(parsed.out, file.getvalue())
    shape = "x".join(map(str, arrays["features"].shape))
    say(f"wrote {parsed.out} (features {shape})")


def features_of(
    network: TrainedNetwork, split: str, layer: str, follow_links: bool = False
) -> dict[str, Any]:
    """The arrays of the file.

    Raises:
        RecipeError: an unknown layer.
    """
    own: dict[str, Any]
    try:
        if split in get_args(SplitName):
            features, labels = network.split_features(split, layer, progress=True)  # type: ignore[arg-type]
            names = np.array(network.dataset.class_names)  # those that the labels count
            own = {"labels": labels, "class_names": names, "dataset": network.dataset.name}
        else:
            files = pictures.list_pictures([Path(split)], follow_links=follow_links)
            features = network.features(files, layer, progress=True)
            own = {"files": np.array([str(file) for file in files])}
    except ValueError as error:
        if "unknown layer" not in str(error):
            raise
        raise RecipeError(f"{error} (visualize --list-layers prints them all)") from None
    return {"features": features, **own, "network": network.name, "layer": layer, "split": split}
