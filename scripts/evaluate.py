"""Score a run's checkpoint. The last line printed is one JSON object:

{"split": "test", "examples": 10000, "accuracy": ..., "loss": ...}
"""

import argparse
import json
from pathlib import Path
from typing import get_args

from jaxcifar.commands.cli import Parser, add_checkpoint_option, run_script
from jaxcifar.training.evaluation import SplitName, evaluate_run


def main() -> None:
    """Parse, evaluate, print."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory that train.py wrote")
    parser.add_argument(
        "--split", choices=get_args(SplitName), default="test", help="default: %(default)s"
    )
    add_checkpoint_option(parser)
    parser.add_argument("--data-dir", type=Path, help="of TFDS data (default: $TFDS_DATA_DIR)")
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="mean logits of an image and its mirror image (default: what the run's recipe says)",
    )
    parsed = parser.parse()
    result = evaluate_run(
        parsed.run,
        split=parsed.split,
        which=parsed.checkpoint,
        data_dir=parsed.data_dir,
        mirror=parsed.mirror,
        progress=True,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    run_script(main)
