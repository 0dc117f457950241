"""Keep a finished run's figures: its summary, history and train accuracy, as one JSON file.

  python -m benchmarks.collect_run runs/scratch      writes benchmarks/results/run_scratch_cpu.json

The train accuracy is given twice: as the mean over the last epoch while it trained (what notebooks
report), and of the last checkpoint in evaluation mode.
"""

import argparse
from pathlib import Path

from benchmarks.harness import RESULTS, save
from jaxcifar.evaluation import evaluate_run
from jaxcifar.run_files import RunError, RunFiles


def main() -> None:
    """Read, evaluate on the train split, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/run_....json")
    parsed = parser.parse_args()
    files = RunFiles(parsed.run)
    config, summary = files.read_config(), files.read_summary()
    if summary is None:
        raise RunError(f"{files.path} is not complete: finish it with train.py --resume")
    backend = summary["machine"]["backend"]
    # Where the weights lay says nothing elsewhere; their SHA-256 does.
    for holder, name in ((config["recipe"], "weights"), (summary.get("weights") or {}, "source")):
        if holder.get(name) and Path(holder[name]).exists():
            holder[name] = Path(holder[name]).name
    save(
        f"run_{config['experiment']}",
        {
            "recipe": config["recipe"],
            "data_fingerprint": config["data_fingerprint"],
            "trained_on": summary["machine"],
            "summary": {k: v for k, v in summary.items() if k != "machine"},
            "train_split_in_evaluation_mode": evaluate_run(files.path, split="train", which="last"),
            "history": files.read_history().rows,
        },
        out=parsed.out or RESULTS / f"run_{config['experiment']}_{backend}.json",
    )


if __name__ == "__main__":
    main()
