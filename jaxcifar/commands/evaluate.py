"""Score a run's checkpoint. The last line printed is one JSON object:

{"split": "test", "examples": 10000, "accuracy": ..., "loss": ...}
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jaxcifar.commands.parser import (
    Parser,
    add_checkpoint_option,
    add_data_dir_option,
    add_run_argument,
)
from jaxcifar.common.messages import say
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.training.evaluation import SplitName, evaluate_run


def make_parser(prog: str) -> Parser:
    """RUN and how to score it."""
    parser = Parser(prog=prog, description=__doc__)
    add_run_argument(parser, type=Path)
    parser.add_argument(
        "--split",
        choices=get_args(SplitName),
        default="test",
        help="the images scored (default: %(default)s)",
    )
    add_checkpoint_option(parser)
    add_data_dir_option(parser)
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="mean logits of an image and its mirror image (default: as in the run's recipe)",
    )
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    enable_compilation_cache()
    parsed = make_parser(prog).parse(arguments)
    result = evaluate_run(
        parsed.run,
        split=parsed.split,
        which=parsed.checkpoint,
        data_dir=parsed.data_dir,
        mirror=parsed.mirror,
        progress=True,
    )
    say(json.dumps(result))
