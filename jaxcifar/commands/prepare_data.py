"""Download CIFAR-10 or CIFAR-100 (or read a local archive), verify it and prepare it for training.

jaxcifar prepare-data cifar10
    downloads 170 MB, checks them and writes 140 MB to ~/tensorflow_datasets/cifar10
jaxcifar prepare-data cifar10 --from-archive cifar-10-python.tar.gz
    the same from a file that you have, without any network
jaxcifar prepare-data cifar100
    CIFAR-100, for the datasets cifar100 and cifar100:coarse

Run the same command again to continue an interrupted download. Data that is prepared already is
left alone. TensorFlow is not needed; the files have the layout of TensorFlow Datasets, and
tfds.builder("cifar10") and tfds.builder("cifar100") read them too.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from jaxcifar.commands.parser import Parser
from jaxcifar.common.messages import say
from jaxcifar.data import prepare_cifar10, prepare_cifar100


def make_parser(prog: str) -> Parser:
    """The dataset, from where and where to."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("dataset", choices=["cifar10", "cifar100"], help="what to prepare")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where to put it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets); give training "
        "the same folder",
    )
    parser.add_argument(
        "--from-archive",
        type=Path,
        metavar="FILE",
        help="a local cifar-10-binary.tar.gz or cifar-10-python.tar.gz (cifar-100-...) to read "
        "instead of downloading",
    )
    parser.add_argument(
        "--sha256",
        metavar="HEX",
        help="the SHA-256 that FILE must have, if it is not one of the two original archives",
    )
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, prepare, print the directory."""
    parsed = make_parser(prog).parse(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxcifar").setLevel(logging.INFO)
    prepare = {"cifar10": prepare_cifar10, "cifar100": prepare_cifar100}[parsed.dataset]
    path = prepare(parsed.data_dir, from_archive=parsed.from_archive, sha256=parsed.sha256)
    say(path)
