"""Train an experiment once for each value of one of its settings; a table and a plot of them.

python scripts/sweep.py demo --field dropout_rate --values 0.1 0.2 0.3 0.4
python scripts/sweep.py demo --field seed --values 0 1 2 3 4        mean and spread
python scripts/sweep.py demo --field dropout_rate --values 0.1 0.2 0.3 0.4 0.5 --resume

Every member is an ordinary run in a directory of its own, WORKDIR/dropout_rate=0.1 and so on, for
evaluate.py, visualize.py and export.py. All of them run as one program where that is faster here
(it is measured), else one after another, with the same numbers either way.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import get_args

from jaxcifar.commands.cli import experiment_parser, given_options, run_script
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe, load_splits
from jaxcifar.studies.sweeps import Mode, numeric_fields, parse_values, read_sweep, sweep


def main() -> None:
    """Parse, load, sweep."""
    parser = experiment_parser(
        sys.argv[1:],
        usage="--field F --values V [V ...] ",
        text=__doc__,
        workdir="runs/EXPERIMENT_FIELD",
    )
    swept = parser.add_argument_group("sweep")
    swept.add_argument("--field", required=True, help=f"one of {', '.join(numeric_fields())}")
    swept.add_argument("--values", required=True, nargs="+", metavar="V", help="one for each run")
    swept.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="auto",
        help="one program (vmap), one run after another, or what is faster (default: %(default)s)",
    )
    parsed = parser.parse()
    experiment = parsed.experiment.replace("-", "_")
    field = parsed.field.replace("-", "_")
    recipe = get_experiment(experiment).recipe
    workdir = parsed.workdir or Path("runs") / f"{experiment}_{field}"
    if parsed.resume:
        recipe = read_sweep(workdir)
    sweep(
        dataclasses.replace(recipe, **given_options(parsed, Recipe)),
        field,
        parse_values(field, parsed.values),
        partial(load_splits, data_dir=parsed.data_dir),
        workdir=workdir,
        experiment=experiment,
        mode=parsed.mode,
        resume=parsed.resume,
        overwrite=parsed.overwrite,
        verbose=True,
    )


if __name__ == "__main__":
    run_script(main, interrupted="what was saved is intact; --resume goes on from it")
