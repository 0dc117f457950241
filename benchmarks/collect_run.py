"""Keep a finished run's figures: its summary, history and train accuracy, as one JSON file.

  python -m benchmarks.collect_run runs/scratch      writes benchmarks/results/run_scratch_cpu.json
  python -m benchmarks.collect_run runs/mini_dropout_rate      all members of a sweep

The train accuracy is given twice: as the mean over the last epoch while it trained (what notebooks
report), and of the last checkpoint in evaluation mode.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, save
from jaxcifar.common.errors import RunError
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.training.evaluation import evaluate_run


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
        found = collect(RunDirectory(parsed.run))
        name = f"run_{found['experiment']}_{found['trained_on']['backend']}"
    else:
        about = sweep.read()
        members = [sweep.run(f"{about['field']}={value}") for value in about["values"]]
        found = {
            "field": about["field"],
            "mode": about["mode"],
            "why": about["why"],
            "members": {member.path.name: collect(member) for member in members},
        }
        name = f"sweep_{about['experiment']}_{about['field']}_{about['machine']['backend']}"
    save(name, found, out=parsed.out or RESULTS / f"{name}.json")


def collect(files: RunDirectory) -> dict[str, Any]:
    """The figures of one run."""
    config, summary = files.read_config(), files.read_summary()
    if summary is None:
        raise RunError(f"{files.path} is not complete: finish it with train.py --resume")
    # Where the weights lay says nothing elsewhere; their SHA-256 does.
    for holder, name in ((config["recipe"], "weights"), (summary.get("weights") or {}, "source")):
        if holder.get(name) and Path(holder[name]).exists():
            holder[name] = Path(holder[name]).name
    return {
        "experiment": config["experiment"],
        "recipe": config["recipe"],
        "data_fingerprint": config["data_fingerprint"],
        "trained_on": summary["machine"],
        "summary": {k: v for k, v in summary.items() if k != "machine"},
        "train_split_in_evaluation_mode": evaluate_run(files.path, split="train", which="last"),
        "history": files.read_history().rows,
    }


if __name__ == "__main__":
    main()
