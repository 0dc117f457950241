"""Prepares a dataset for training. Start here: python scripts/prepare_data.py cifar10"""

import argparse
import logging
import signal
import sys

from jaxcifar.common.errors import DataError
from jaxcifar.data import prepare_cifar10

_EPILOG = """\
examples:
  python scripts/prepare_data.py cifar10
      downloads 170 MB, checks them and writes 140 MB to ~/tensorflow_datasets/cifar10
  python scripts/prepare_data.py cifar10 --from-archive cifar-10-python.tar.gz
      the same from a file you have, without any network

An interrupted download goes on where it stopped when the command is run again. What is prepared
already is left alone. TensorFlow is not needed; what is written is the layout of TensorFlow
Datasets, and tfds.builder("cifar10") reads it too.
"""


def main() -> int:
    """Parses the command line, prepares, prints the directory; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Download (or read from a local archive), verify and prepare a dataset.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=["cifar10"], help="what to prepare")
    parser.add_argument(
        "--data-dir",
        metavar="D",
        help="where to put it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets); training "
        "must be given the same folder",
    )
    parser.add_argument(
        "--from-archive",
        metavar="F",
        help="a local cifar-10-binary.tar.gz or cifar-10-python.tar.gz to read instead of "
        "downloading",
    )
    parser.add_argument(
        "--sha256",
        metavar="HEX",
        help="the SHA-256 that F must have, if it is not one of the two original archives",
    )
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxcifar").setLevel(logging.INFO)
    # So that being ended politely cleans up as an interruption does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        place = prepare_cifar10(
            arguments.data_dir, from_archive=arguments.from_archive, sha256=arguments.sha256
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
