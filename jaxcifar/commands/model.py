"""The argument MODEL of commands that use a trained network, and what goes with it."""

import argparse
import os
from pathlib import Path
from typing import Any

from jaxcifar.commands.parser import Parser, add_checkpoint_option, add_data_dir_option
from jaxcifar.common.errors import RunError
from jaxcifar.common.writing import make_folder
from jaxcifar.models.resnet import ARCHITECTURES
from jaxcifar.step.augment import NORMALIZATIONS

_WEIGHTS = ("architecture", "normalization", "size", "class_names")


def add_model_arguments(parser: Parser) -> None:
    """Add MODEL, --checkpoint, and the options for weights that do not describe themselves."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run directory, a .safetensors or .pth file, or OWNER/NAME on the hub",
    )
    add_checkpoint_option(parser)
    group = parser.add_argument_group("for a file of weights, where it does not say so itself")
    group.add_argument(
        "--architecture", choices=tuple(ARCHITECTURES), help="its network (default: by its keys)"
    )
    group.add_argument(
        "--normalization", choices=tuple(NORMALIZATIONS), help="mean and std it was trained with"
    )
    group.add_argument(
        "--size", type=int, metavar="N", help="height and width of its input, pixels"
    )
    group.add_argument("--class-names", nargs="+", metavar="NAME", help="of its outputs, in order")


def weights_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The options for a file of weights that were given."""
    return {name: getattr(parsed, name) for name in _WEIGHTS if getattr(parsed, name) is not None}


def add_dataset_options(parser: Parser) -> None:
    """Add --dataset and --data-dir: where the data are."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="where the data of the run are now, or other data of the same classes: folder:PATH, "
        "tfds:NAME, parquet:PATH, hf:OWNER/NAME or a built-in name (default: the run's own)",
    )
    add_data_dir_option(parser)
    add_links_option(parser)


def add_links_option(parser: Parser) -> None:
    """Add --follow-links."""
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="follow links in folders: to other folders, and out of them",
    )


def check_out(parser: Parser, path: Path | None, suffix: str, *, overwrite: bool) -> None:
    """Refuse a file to write before anything is computed for it."""
    if path is None:
        return
    if path.suffix != suffix:
        parser.error(f"the file to write must end in {suffix}, not {path.name!r}")
    if path.is_dir():
        parser.error(f"{path} is a directory: name a file")
    if path.exists() and not overwrite:
        parser.error(f"{path} exists: choose another file, or replace it with --overwrite")


def make_folder_of(path: Path) -> None:
    """Make the folder of a file to write, before hours of work that it would not take.

    Raises:
        RunError: it cannot be made or written.
    """
    try:
        make_folder(path.parent)
        problem = None if os.access(path.parent, os.W_OK | os.X_OK) else "it is not writable"
    except OSError as error:
        problem = error.strerror
    if problem:
        raise RunError(f"{path} cannot be written ({problem}): choose another folder")
