"""Score a run's checkpoint. The last line printed is one JSON object:

{"split": "test", "examples": 10000, "accuracy": ..., "loss": ..., "top5_accuracy": ...}

jaxcifar evaluate runs/scratch
jaxcifar evaluate runs/pets --dataset folder:elsewhere/pets     the data were moved
jaxcifar evaluate runs/scratch --dataset tfds:cifar10_1/v6      other data of the same classes
jaxcifar evaluate runs/pets --per-class                         a table, and macro F1
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from jaxcifar.commands.model import add_dataset_options
from jaxcifar.commands.parser import Parser, add_checkpoint_option, add_run_argument
from jaxcifar.common.messages import escaped, say
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.training.evaluation import SplitName


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
    add_dataset_options(parser)
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="print the scores of each class, and add them and the macro F1 to the JSON object",
    )
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="mean logits of an image and its mirror image (default: as in the run's recipe)",
    )
    parser.add_argument(
        "--shift",
        type=int,
        metavar="PIXELS",
        help="mean logits of an image (half the weight) and of itself shifted by so many pixels up "
        "and left, and down and right; 0 for none (default: as in the run's recipe)",
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
        dataset=parsed.dataset,
        follow_links=parsed.follow_links,
        mirror=parsed.mirror,
        shift=parsed.shift,
        per_class=parsed.per_class,
        progress=True,
    )
    if parsed.per_class:
        say(*class_table(result))
    say(json.dumps(result))


def class_table(result: dict[str, Any]) -> Iterable[str]:
    """The scores of each class as lines of text."""
    classes = [(escaped(scores["class"]), scores) for scores in result["per_class"]]
    width = max(len(name) for name, _ in [*classes, ("class", {})])
    yield f"{'class':{width}}  examples  accuracy  precision     f1"
    for name, scores in classes:
        shares = [scores[key] for key in ("accuracy", "precision", "f1")]
        accuracy, precision, f1 = ("-" if x is None else f"{x:.3f}" for x in shares)
        yield f"{name:{width}}  {scores['examples']:8,}  {accuracy:>8}  {precision:>9}  {f1:>5}"
