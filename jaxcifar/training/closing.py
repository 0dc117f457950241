"""What is done once, after a run's last epoch: test scores and the summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcifar.data import Source
from jaxcifar.devices.machine import describe_machine
from jaxcifar.models.names import count_params
from jaxcifar.recipes.stage import make_labels, program_key
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History
from jaxcifar.runs.patience import Stopped
from jaxcifar.step.freeze import labels_at, split_params
from jaxcifar.step.state import TrainState
from jaxcifar.training.epoch import Scoring
from jaxcifar.training.evaluation import to_device, too_large_somewhere
from jaxcifar.training.plan import RunPlan
from jaxcifar.training.stage import evaluation_programs, streamed_scoring
from jaxcifar.training.streamed import score_stream


def make_closing_scoring(plan: RunPlan, source: Source) -> Scoring:
    """The scoring of the test images (or others), as `inference.scoring.evaluate_run` scores them.

    Images that do not fit on the devices are streamed, whatever those to train on were. All
    processes must call it.
    """
    key, layout = program_key(plan.recipe, plan.parts), plan.layout
    if plan.input == "stream" or too_large_somewhere(source, layout=layout) is not None:
        return score_stream(streamed_scoring(key, layout, len(source)), source)
    programs = evaluation_programs(key, None, layout, len(source))
    return programs.over(to_device(source, layout))


def write_closing(
    plan: RunPlan,
    run_dir: RunDirectory,
    name: str,
    state: TrainState,
    history: History,
    scores: Mapping[str, Any],
    stopped: Stopped | None = None,
) -> None:
    """Write summary.json, with which the run is complete; `scores` are of "best" and "last"."""
    summary = _summarize(plan, name, state, history, run_dir)
    if stopped is not None:
        summary |= {"stopped_after_epoch": stopped.epoch, "stopped_by": stopped.reason}
    if plan.recipe.limit_batches is not None:
        summary["limit_batches"] = plan.recipe.limit_batches
    run_dir.write_summary(summary | dict(scores))


def _summarize(
    plan: RunPlan, name: str, state: TrainState, history: History, run_dir: RunDirectory
) -> dict[str, Any]:
    """The summary without the scores of its checkpoints."""
    recipe = plan.recipe
    labels = labels_at(make_labels(recipe, plan.parts), len(history.rows))
    trained, _ = split_params(state.params, labels)
    return {
        "experiment": name,
        "epochs": recipe.epochs,
        "parameters": count_params(state.params),
        "trainable_parameters": count_params(trained),
        "weights": run_dir.read_config().get("weights"),
        "train_accuracy": history.rows[-1]["train_accuracy"],
        "train_seconds": sum(history.column("seconds")),
        "validation_seconds": sum(history.column("validation_seconds")),
        "images_per_second": float(np.median(history.column("images_per_second"))),
        "machine": describe_machine(),
    }
