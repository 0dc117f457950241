"""Run the course report's experiments and write one page of results.

jaxcifar reproduce --scale smoke --out report_smoke    minutes on two CPU cores
jaxcifar reproduce --weights resnet18.pth              the full recipes: hours on a CPU
jaxcifar reproduce --only scratch scratch-modern       parts of it, on the same page
jaxcifar reproduce --only mini --resize 64 --epochs 15
jaxcifar reproduce --list                              the plan, and what is done

Complete items are skipped and started ones continue, so after an interruption run the same command
again. OUT holds index.html (the whole report in one file), report.md, pictures/ and runs/.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jaxcifar.commands.parser import Parser, add_data_dir_option
from jaxcifar.common.messages import say
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.studies.reproduction import PLAN, Settings, describe_plan, reproduce
from jaxcifar.studies.reproduction.report import Scale


def make_parser(prog: str) -> Parser:
    """Which items, at which scale, from what and where to."""
    parser = Parser(prog=prog, description=__doc__)
    ids = ", ".join(item.name for item in PLAN)
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help=f"some of {ids}")
    parser.add_argument("--skip", nargs="+", default=[], metavar="ID", help="all but these")
    parser.add_argument(
        "--scale",
        choices=get_args(Scale),
        default="full",
        help="smoke: few images and epochs, to see that all of it runs (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="directory for all files (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="F",
        help="where pretrained runs start: a file, a run, or OWNER/NAME on the hub (default: each "
        "preset's own)",
    )
    add_data_dir_option(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the first run (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="runs of each, for mean and spread (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="of every run (default: the recipe's)"
    )
    parser.add_argument(
        "--resize", type=int, metavar="N", help="side of mini's images (default: the recipe's)"
    )
    parser.add_argument("--list", action="store_true", help="print the plan and exit")
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, reproduce."""
    enable_compilation_cache()
    parsed = make_parser(prog).parse(arguments)
    if parsed.list:
        say(*describe_plan(parsed.out).split("\n"))
        return
    settings = Settings(
        scale=parsed.scale,
        weights=parsed.weights,
        data_dir=parsed.data_dir,
        seed=parsed.seed,
        seeds=parsed.seeds,
        epochs=parsed.epochs,
        resize=parsed.resize,
    )
    reproduce(parsed.out, settings, only=parsed.only, skip=parsed.skip)
