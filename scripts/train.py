"""Train by a preset, with any of its settings changed.

python scripts/train.py demo                                  minutes on two CPU cores
python scripts/train.py scratch --data-dir ~/tensorflow_datasets
python scripts/train.py scratch --epochs 5 --optimizer sgd --learning-rate 0.1
python scripts/train.py scratch --resume                      after an interruption
python scripts/train.py scratch --dataset folder:pets --resize 64       pictures of your own
python scripts/train.py finetune --weights resnet18.safetensors
python scripts/train.py finetune --weights runs/freeze_a --no-new-head --workdir runs/further
python scripts/train.py scratch --coordinator node0:1234 --num-processes 2 --process-id 0
"""

import dataclasses
import sys
from pathlib import Path

from jaxcifar.commands.cli import (
    add_options,
    device_options,
    experiment_parser,
    given_options,
    run_script,
)
from jaxcifar.devices.processes import DeviceOptions, connect
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe, load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.training.fit import fit


def main() -> None:
    """Parse, load, fit."""
    devices = device_options(sys.argv[1:])
    connect(devices)
    parser = experiment_parser(sys.argv[1:], usage="", text=__doc__, workdir="runs/EXPERIMENT")
    add_options(parser, DeviceOptions())
    parsed = parser.parse()
    experiment = parsed.experiment.replace("-", "_")
    recipe = get_experiment(experiment).recipe
    workdir = parsed.workdir or Path("runs") / experiment
    files = RunDirectory(workdir)
    if parsed.resume:
        recipe = read_recipe(files)
    else:
        files.check_free(overwrite=parsed.overwrite)
    recipe = dataclasses.replace(recipe, **given_options(parsed, Recipe))
    fit(
        recipe,
        # Lazily: each of several processes, or a stream, reads only what it needs.
        load_splits(recipe, parsed.data_dir, lazy=True),
        workdir=workdir,
        experiment=experiment,
        resume=parsed.resume,
        overwrite=parsed.overwrite,
        verbose=True,
        devices=devices,
    )


if __name__ == "__main__":
    run_script(main, interrupted="what was saved is intact; --resume goes on from it")
