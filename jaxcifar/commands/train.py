"""Train by a named experiment, with any of its settings changed.

jaxcifar train demo                                        minutes on two CPU cores
jaxcifar train scratch --data-dir ~/tensorflow_datasets
jaxcifar train scratch --epochs 5 --optimizer sgd --lr 0.1
jaxcifar train scratch --resume                            after an interruption
jaxcifar train scratch --resume auto                       begins or continues: for a batch queue
jaxcifar train scratch --resume --epochs 300               further than it was to go
jaxcifar train scratch --dataset folder:pets --resize 64 --normalization imagenet
jaxcifar train finetune --weights resnet18.safetensors
jaxcifar train finetune --weights runs/freeze_a --no-new-head --workdir runs/further
jaxcifar train scratch --coordinator node0:1234 --num-processes 2 --process-id 0
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxcifar.commands.experiment import experiment_parser
from jaxcifar.commands.options import add_options, given_options
from jaxcifar.commands.parser import Parser
from jaxcifar.common.errors import DataNotThereError
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.devices.processes import DeviceOptions, connect
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.description import stored_data_dir
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import moved_data
from jaxcifar.runs.restore import read_recipe
from jaxcifar.training.fit import fit


def make_parser(prog: str, arguments: Sequence[str] = ()) -> Parser:
    """See `experiment_parser`."""
    parser = experiment_parser(
        prog,
        arguments,
        usage="",
        text=__doc__,
        workdir="runs/EXPERIMENT",
        resume_auto=True,
    )
    add_options(parser, DeviceOptions())
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, load, fit."""
    enable_compilation_cache()
    devices = device_options(prog, arguments)
    connect(devices, quiet=True)
    parsed = make_parser(prog, arguments).parse(arguments)
    experiment = parsed.experiment.replace("-", "_")
    recipe = get_experiment(experiment).recipe
    workdir = parsed.workdir or Path("runs") / experiment
    run_dir, data_dir = RunDirectory(workdir), parsed.data_dir
    resumed = parsed.resume is True or (parsed.resume == "auto" and run_dir.holds_training())
    if resumed:
        recipe = read_recipe(run_dir, dataset=getattr(parsed, "dataset", None))
        data_dir = data_dir or stored_data_dir(run_dir.read_config())
    else:
        run_dir.check_free(overwrite=parsed.overwrite)
    given = given_options(parsed, Recipe)
    recipe = dataclasses.replace(recipe, **given)
    try:
        # Lazily: each of several processes, or a stream, reads only the images it needs.
        splits = load_splits(recipe, data_dir, lazy=True)
    except DataNotThereError as error:
        if not resumed or "dataset" in given:
            raise
        raise moved_data(error) from None
    fit(
        recipe,
        splits,
        workdir=workdir,
        experiment=experiment,
        resume=parsed.resume,
        overwrite=parsed.overwrite,
        verbose=True,
        devices=devices,
    )


def device_options(prog: str, arguments: Sequence[str]) -> DeviceOptions:
    """The device options, which are read before all others: recipes trace networks, and JAX can
    join other processes only before its first use.
    """
    parser = Parser(prog=prog, add_help=False)
    add_options(parser, DeviceOptions())
    parsed, _ = parser.parse_known_args(arguments)
    return DeviceOptions(**given_options(parsed, DeviceOptions))
