"""Collect the numbers of a finished run in one JSON file: summary, history and train accuracy.

  python -m benchmarks.collect_run runs/scratch      writes benchmarks/results/run_scratch_cpu.json
  python -m benchmarks.collect_run runs/mini_dropout_rate      all members of a sweep

There are two train accuracies: the mean over the last epoch during training, which notebooks
report, and the accuracy of the last checkpoint in evaluation mode, on the images as they are. Where
the recipe scores by the mean over several views, the test accuracy without them is added, too;
`--six-views` adds the test accuracy by the mean over six views to any run.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, save
from benchmarks.settings import without_paths
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
    parser.add_argument(
        "--skip-train", action="store_true", help="leave out the second train accuracy"
    )
    parser.add_argument(
        "--six-views",
        action="store_true",
        help="add the test accuracy by the mean over six views (mirror, one-pixel shifts), to "
        "compare with a recipe that scores so",
    )
    parsed = parser.parse_args()
    what = {"train": not parsed.skip_train, "six_views": parsed.six_views}
    sweep = SweepDirectory(parsed.run)
    if not sweep.holds_sweep():
        result = collect(RunDirectory(parsed.run), **what)
        name = f"run_{result['experiment']}_{result['trained_on']['backend']}"
    else:
        about = sweep.read()
        members = [sweep.run(f"{about['field']}={value}") for value in about["values"]]
        result = {
            "field": about["field"],
            "mode": about["mode"],
            "why": about["why"],
            "members": {member.path.name: collect(member, **what) for member in members},
        }
        name = f"sweep_{about['experiment']}_{about['field']}_{about['machine']['backend']}"
    save(name, result, out=parsed.out or RESULTS / f"{name}.json")


def collect(
    run_dir: RunDirectory, *, train: bool = True, six_views: bool = False
) -> dict[str, Any]:
    """The numbers of one run.

    Args:
        train: score the train images in evaluation mode, too.
        six_views: score the test images by the mean over six views, too.

    Raises:
        RunError: the run is not complete.
    """
    config, summary = run_dir.read_config(), run_dir.read_summary()
    if summary is None:
        raise RunError(f"{run_dir.path} is not complete; finish it with jaxcifar train --resume")
    if summary.get("weights"):
        summary["weights"] = without_paths(summary["weights"])
    scored = partial(evaluate_run, run_dir.path, which="last", mirror=False, shift=0)
    extra = {}
    if config["recipe"].get("test_mirror") or config["recipe"].get("test_shift_pixels"):
        extra["test_without_views"] = scored(split="test")
    if six_views:
        extra["test_with_six_views"] = scored(split="test", mirror=True, shift=1)
    if train:
        extra["train_split_in_evaluation_mode"] = scored(split="train")
    return {
        "experiment": config["experiment"],
        "recipe": without_paths(config["recipe"]),
        "data_fingerprint": config["data_fingerprint"],
        "trained_on": config["machine"],
        "resumed": config.get("resumed", []),
        "summary": {k: v for k, v in summary.items() if k != "machine"},
        **extra,
        "history": run_dir.read_history().rows,
    }


if __name__ == "__main__":
    main()
