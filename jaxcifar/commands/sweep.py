"""Train an experiment once for each value of one of its settings; writes a table and a plot.

jaxcifar sweep demo --field dropout_rate --values 0.1 0.2 0.3 0.4
jaxcifar sweep demo --field seed --values 0 1 2 3 4        mean and spread
jaxcifar sweep demo --field dropout_rate --values 0.1 0.2 0.3 0.4 0.5 --resume

Every member is an ordinary run in its own directory, WORKDIR/dropout_rate=0.1 and so on, for
jaxcifar evaluate, visualize and export. The members run as one program where a measurement says
that this is faster here, else one after another. The numbers are the same up to rounding.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from jaxcifar.commands.experiment import experiment_parser
from jaxcifar.commands.options import given_options
from jaxcifar.commands.parser import Parser, use_data_dir
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.studies.sweeps import (
    Mode,
    chooses_images,
    numeric_fields,
    parse_values,
    read_sweep,
    stored_data_folder,
    sweep,
)


def make_parser(prog: str, arguments: Sequence[str] = ()) -> Parser:
    """See `experiment_parser`."""
    parser = experiment_parser(
        prog,
        arguments,
        usage="--field F --values V [V ...] ",
        text=__doc__,
        workdir="runs/EXPERIMENT_FIELD",
    )
    swept = parser.add_argument_group("sweep")
    swept.add_argument(
        "--field", required=True, metavar="F", help=f"one of {', '.join(numeric_fields())}"
    )
    swept.add_argument("--values", required=True, nargs="+", metavar="V", help="one for each run")
    swept.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="auto",
        help="one program (vmap), one run after another, or the faster one (default: %(default)s)",
    )
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, load, sweep."""
    enable_compilation_cache()
    parsed = make_parser(prog, arguments).parse(arguments)
    experiment = parsed.experiment.replace("-", "_")
    field = parsed.field.replace("-", "_")
    recipe = get_experiment(experiment).recipe
    workdir = parsed.workdir or Path("runs") / f"{experiment}_{field}"
    data_dir = parsed.data_dir
    if parsed.resume:
        given = {name: getattr(parsed, name, None) for name in ("dataset", "follow_links")}
        data_dir = data_dir or stored_data_folder(workdir)
        if data_dir is not None:
            use_data_dir(data_dir)
        recipe = read_sweep(workdir, **given)
    options, values = given_options(parsed, Recipe), parse_values(field, parsed.values)
    # A recipe for pictures of several sizes has a side, and each member its own.
    if field == "resize" and recipe.resize is None:
        options.setdefault(field, values[0])
    recipe = dataclasses.replace(recipe, **options)
    # Where each member has images of its own, all of them do not fit in memory.
    lazy = chooses_images(recipe, field)
    sweep(
        recipe,
        field,
        values,
        partial(load_splits, data_dir=data_dir, lazy=lazy),
        workdir=workdir,
        experiment=experiment,
        mode=parsed.mode,
        resume=parsed.resume,
        overwrite=parsed.overwrite,
        verbose=True,
    )
