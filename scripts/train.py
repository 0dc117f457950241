"""Train by a preset, with any of its settings changed.

python scripts/train.py demo                                  minutes on two CPU cores
python scripts/train.py scratch --data-dir ~/tensorflow_datasets
python scripts/train.py scratch --epochs 5 --optimizer sgd --learning-rate 0.1
python scripts/train.py scratch --resume                      after an interruption
python scripts/train.py finetune --weights resnet18.safetensors
python scripts/train.py finetune --weights runs/freeze_a --no-new-head --workdir runs/further
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from jaxcifar.cli import Parser, add_options, given_options, run_script
from jaxcifar.experiments import EXPERIMENTS, get_experiment
from jaxcifar.recipe import Recipe, load_splits, read_recipe
from jaxcifar.run_files import RunFiles
from jaxcifar.train import fit


def make_parser(arguments: list[str]) -> Parser:
    """The defaults shown are those of the experiment named first, if one is."""
    named = arguments and arguments[0].replace("-", "_") in EXPERIMENTS
    shown = get_experiment(arguments[0]).recipe if named else Recipe()
    listing = "\n".join(f"  {name:<18} {e.text}" for name, e in EXPERIMENTS.items())
    parser = Parser(
        description=__doc__,
        epilog=f"experiments:\n{listing}\n\nEach experiment has defaults of its own: "
        "see train.py EXPERIMENT --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s EXPERIMENT [--workdir W] [--resume | --overwrite] [any setting below]",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--workdir", type=Path, help="directory for the run's files (default: runs/EXPERIMENT)"
    )
    run.add_argument("--data-dir", type=Path, help="of TFDS data (default: $TFDS_DATA_DIR)")
    run.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    run.add_argument("--overwrite", action="store_true", help="replace the run in the workdir")
    add_options(parser, shown)
    return parser


def main() -> None:
    """Parse, load, fit."""
    parsed = make_parser(sys.argv[1:]).parse()
    experiment = parsed.experiment.replace("-", "_")
    recipe = get_experiment(experiment).recipe
    workdir = parsed.workdir or Path("runs") / experiment
    files = RunFiles(workdir)
    if parsed.resume:
        recipe = read_recipe(files)
    else:
        files.check_free(overwrite=parsed.overwrite)
    recipe = dataclasses.replace(recipe, **given_options(parsed, Recipe))
    fit(
        recipe,
        load_splits(recipe, parsed.data_dir),
        workdir=workdir,
        experiment=experiment,
        resume=parsed.resume,
        overwrite=parsed.overwrite,
        verbose=True,
    )


if __name__ == "__main__":
    run_script(main, interrupted="what was saved is intact; --resume goes on from it")
