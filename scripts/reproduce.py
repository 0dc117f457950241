"""Run the course report's experiments and write one page of results.

python scripts/reproduce.py --scale smoke --out report_smoke    minutes on two CPU cores
python scripts/reproduce.py --weights resnet18.pth              the recipes as they are: for a GPU
python scripts/reproduce.py --only scratch scratch-modern       parts of it, on the same page
python scripts/reproduce.py --only mini --resize 64 --epochs 15
python scripts/reproduce.py --list                              what there is, and what is done

What is complete is skipped and what was begun goes on, so the same command continues after an
interruption. OUT holds index.html (alone, it is the whole report), report.md, pictures/ and runs/.
"""

import argparse
from pathlib import Path
from typing import get_args

from jaxcifar.commands.cli import Parser, run_script
from jaxcifar.studies.reproduction import PLAN, Settings, describe_plan, reproduce
from jaxcifar.studies.reproduction.report import Scale


def main() -> None:
    """Parse, reproduce."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ids = ", ".join(item.name for item in PLAN)
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help=f"of {ids}")
    parser.add_argument("--skip", nargs="+", default=[], metavar="ID", help="all but these")
    parser.add_argument(
        "--scale",
        choices=get_args(Scale),
        default="full",
        help="smoke: few images and epochs, to see that all of it runs (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="directory (default: %(default)s)"
    )
    parser.add_argument(
        "--weights",
        metavar="F",
        help="where pretrained runs start: a file, a run, or OWNER/NAME on the hub (default: each "
        "preset's own)",
    )
    parser.add_argument("--data-dir", type=Path, help="of TFDS data (default: $TFDS_DATA_DIR)")
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
    parser.add_argument("--list", action="store_true", help="print the plan and end")
    parsed = parser.parse()
    if parsed.list:
        print(describe_plan(parsed.out))
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


if __name__ == "__main__":
    run_script(main, interrupted="what was saved is intact; the same command goes on from it")
