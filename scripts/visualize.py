"""Draw what layers of a trained network put out for a test image."""

import argparse
from pathlib import Path

from jaxcifar.cli import Parser, run_script
from jaxcifar.visualization import REPORT_LAYERS, draw_activations


def main() -> None:
    """Parse, draw."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory that train.py wrote")
    parser.add_argument(
        "--layers",
        nargs="+",
        default=list(REPORT_LAYERS),
        metavar="LAYER",
        help=f"torchvision names (default: {' '.join(REPORT_LAYERS)})",
    )
    parser.add_argument(
        "--image",
        default="0",
        metavar="CLASS|INDEX",
        help="the first test image of a class, or the test image of that index (default: 0)",
    )
    parser.add_argument("--out", type=Path, help="default: RUN/figures/activations_IMAGE.png")
    parser.add_argument("--data-dir", type=Path, help="of TFDS data (default: $TFDS_DATA_DIR)")
    parsed = parser.parse()
    path = draw_activations(
        parsed.run, parsed.layers, parsed.image, out=parsed.out, data_dir=parsed.data_dir
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
