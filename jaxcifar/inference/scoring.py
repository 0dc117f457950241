"""Scores of a trained network on labelled images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import shown
from jaxcifar.data import LabelledSource, Splits
from jaxcifar.data.class_names import difference_lines
from jaxcifar.inference.load import network_of_run
from jaxcifar.inference.network import TrainedNetwork
from jaxcifar.inference.predictions import confusion_matrix, per_class_accuracy, predict_logits
from jaxcifar.recipes.parts import make_parts
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.own_parts import check_scored_alike, mixes_labels
from jaxcifar.step import metrics as step_metrics
from jaxcifar.step.metrics import ExampleMetric
from jaxcifar.step.steps import Loss
from jaxcifar.training.evaluation import SplitName, evaluation_sums

TOP = 5


def evaluate_run(
    run: str | Path,
    *,
    split: SplitName = "test",
    which: Which = "best",
    data_dir: str | Path | None = None,
    dataset: str | None = None,
    follow_links: bool = False,
    mirror: bool | None = None,
    shift: int | None = None,
    per_class: bool = False,
    progress: bool = False,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    metrics: Mapping[str, ExampleMetric] | None = None,
    splits: Splits | None = None,
) -> dict[str, Any]:
    """The scores of a run's checkpoint on a split of its data, or on other data of its classes.

    Args:
        run: its directory.
        split: of the data.
        which: of its checkpoints.
        data_dir: where TFDS data lies.
        dataset: where the run's data are now, or other data with the same classes.
        follow_links: follow links in the folder of that dataset.
        mirror: as in `evaluate`; None for the recipe's `test_mirror`.
        shift: as in `evaluate`; None for the recipe's `test_shift_pixels`.
        per_class: in a second pass, also give "macro_f1", the mean F1 of the classes that have
            images, and "per_class", a list in the order of the classes: "class", "examples",
            "accuracy" (the share of its images that is recognised), "precision" and "f1" (null
            where they are not defined).
        progress: draw a bar, on a terminal.
        model, loss: those of your own that the run was given, see `fit`.
        metrics: as in `fit`, by name; not only those of the run.
        splits: the data of a run that was trained on arrays; not together with `dataset`.

    Returns:
        "split", "examples", "accuracy" and "loss" (nats); "top5_accuracy" where there are more than
        five classes; "dataset" where another one was named; "views" ("mirror" and "shift")
        where they are means over several views of each image; and `metrics` by their names.

    Raises:
        RunError: not a run; a part of its own is missing or another; or train or validation images
            are asked for, and the data found are not those it was trained on.
        RecipeError, CheckpointError, DataError: the run or its data cannot be used, or `shift` is
            not smaller than the network's input.

    Example:
        >>> from jaxcifar import evaluate_run
        >>> scores = evaluate_run("runs/demo", split="test")  # doctest: +SKIP
    """
    if splits is not None and dataset is not None:
        raise RecipeError(
            f"dataset {shown(dataset)} and splits are two data to score: give one of them"
        )
    network = network_of_run(
        run,
        which,
        data_dir,
        dataset=dataset,
        follow_links=follow_links,
        model=model,
        splits=splits,
    )
    network = with_views(network, mirror, shift)
    check_classes(network)
    config = RunDirectory(Path(run)).read_config()
    parts = replace(make_parts(loss=loss, metrics=metrics), mixes=mixes_labels(config))
    check_scored_alike(Path(run), config, parts)
    source = network.split(split)
    sums = evaluation_sums(
        network.model,
        network.variables,
        source,
        normalize=network.preprocess,
        batch_size=network.batch_size,
        mirror=network.mirror,
        shift=network.shift,
        precision=network.precision,
        parts=parts,
        progress=progress,
    )
    means = step_metrics.compute(sums)
    scores: dict[str, Any] = {"split": split}
    if dataset is not None:
        scores["dataset"] = dataset
    if network.mirror or network.shift:
        scores["views"] = {"mirror": network.mirror, "shift": network.shift}
    scores |= {name: means[name] for name in ("examples", "accuracy", "loss")}
    if len(network.class_names) > TOP:
        scores["top5_accuracy"] = step_metrics.top5_accuracy(sums)
    scores |= {name: means[name] for name in parts.metric_names}
    if per_class:
        source, logits = split_logits(network, split, progress=progress)
        scores |= class_scores(network.class_names, source.labels, logits.argmax(axis=1))
    return scores


def with_views(network: TrainedNetwork, mirror: bool | None, shift: int | None) -> TrainedNetwork:
    """The network scored by the mean over other views; None leaves its own.

    Raises:
        RecipeError: the shift is negative, or not smaller than the network's input.
    """
    if shift is not None and not 0 <= shift < network.image_size:
        raise RecipeError(
            f"shift {shift} must be at least 0 and under {network.image_size} pixels, the side of "
            "the network's input"
        )
    return replace(
        network,
        mirror=network.mirror if mirror is None else mirror,
        shift=network.shift if shift is None else shift,
    )


def split_logits(
    network: TrainedNetwork, split: SplitName, *, progress: bool = False
) -> tuple[LabelledSource, NDArray[np.float32]]:
    """A split of the network's data, and the logits of its images.

    Raises:
        RecipeError: the network's classes are not the dataset's, or its output is not finite.
        RunError, DataError: as `TrainedNetwork.split`.
    """
    check_classes(network)
    source = network.split(split)
    logits = predict_logits(
        network.model,
        network.variables,
        source,
        normalize=network.preprocess,
        batch_size=network.batch_size,
        mirror=network.mirror,
        shift=network.shift,
        precision=network.precision,
        progress=progress,
    )
    return source, network.check_finite(logits)


def check_classes(network: TrainedNetwork) -> None:
    """Refuse to score a network on data of other classes.

    Raises:
        RecipeError: with both lists.
    """
    mine, theirs = network.class_names, network.dataset.class_names
    if mine != theirs and not set(theirs) <= set(mine):
        raise RecipeError(
            f"{network.name} has {len(mine)} classes, not those of {network.dataset.name}, so its "
            "predictions cannot be scored:",
            *difference_lines(mine, theirs, of_known=network.name, of_found=network.dataset.name),
        )


def class_scores(
    names: Sequence[str], labels: NDArray[np.integer], predicted: NDArray[np.integer]
) -> dict[str, Any]:
    """The scores of each class, see `evaluate_run`."""
    counts = confusion_matrix(labels, predicted, len(names))
    true, found, correct = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    recall = per_class_accuracy(counts)
    precision = per_class_accuracy(counts.T)
    # 2 TP / (true + found): defined where the class has images.
    f1 = np.divide(2 * correct, true + found, out=np.full(len(names), np.nan), where=true > 0)
    return {
        "macro_f1": float(np.nanmean(f1)),
        "per_class": [
            {
                "class": name,
                "examples": int(true[label]),
                "accuracy": _known(recall[label]),
                "precision": _known(precision[label]),
                "f1": _known(f1[label]),
            }
            for label, name in enumerate(names)
        ],
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
