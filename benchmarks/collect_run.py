"""Collect the numbers of a finished run in one JSON file: summary, history and train accuracy.

  python -m benchmarks.collect_run runs/scratch      writes benchmarks/results/run_scratch_cpu.json
  python -m benchmarks.collect_run runs/mini_dropout_rate      all members of a sweep

There are two train accuracies: the mean over the last epoch during training, which notebooks
report, and the accuracy of the last checkpoint in evaluation mode.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, save
from jaxcifar.common.errors import RunError
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.studies.sweeps.directory import SweepDirectory


def main() -> None:
    """Read, evaluate on the train split, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/run_....json")
    parsed = parser.parse_args()
    sweep = SweepDirectory(parsed.run)
    if not sweep.holds_sweep():
        result = collect(RunDirectory(parsed.run))
        name = f"run_{result['experiment']}_{result['trained_on']['backend']}"
    else:
        about = sweep.read()
        members = [sweep.run(f"{about['field']}={value}") for value in about["values"]]
        result = {
            "field": about["field"],
            "mode": about["mode"],
            "why": about["why"],
            "members": {member.path.name: collect(member) for member in members},
        }
        name = f"sweep_{about['experiment']}_{about['field']}_{about['machine']['backend']}"
    save(name, result, out=parsed.out or RESULTS / f"{name}.json")


def collect(run_dir: RunDirectory) -> dict[str, Any]:
    """The numbers of one run."""
    config, summary = run_dir.read_config(), run_dir.read_summary()
    if summary is None:
        raise RunError(f"{run_dir.path} is not complete; finish it with jaxcifar train --resume")
    # The path of the weights means nothing on another machine; their SHA-256 does.
    for holder, name in ((config["recipe"], "weights"), (summary.get("weights") or {}, "source")):
        if holder.get(name) and Path(holder[name]).exists():
            holder[name] = Path(holder[name]).name
    return {
        "experiment": config["experiment"],
        "recipe": config["recipe"],
        "data_fingerprint": config["data_fingerprint"],
        "trained_on": summary["machine"],
        "summary": {k: v for k, v in summary.items() if k != "machine"},
        "train_split_in_evaluation_mode": evaluate_run(run_dir.path, split="train", which="last"),
        "history": run_dir.read_history().rows,
    }


if __name__ == "__main__":
    main()
