"""Score variables on a dataset, or a run's checkpoint on one of its splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import RunError
from jaxcifar.data import Rows, Source
from jaxcifar.data.reading import nbytes
from jaxcifar.devices.backend import find_devices
from jaxcifar.devices.layout import ONE_DEVICE, Layout
from jaxcifar.devices.memory import free_memory, memory_excess, on_host
from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from jaxcifar.step import metrics
from jaxcifar.step.augment import make_normalize
from jaxcifar.step.steps import EvalStep, Normalize, make_eval_step
from jaxcifar.training.epoch import Data, Scoring
from jaxcifar.training.progress import ProgressBar
from jaxcifar.training.resident import make_evaluation
from jaxcifar.training.streamed import make_streamed_evaluation

SplitName = Literal["train", "validation", "test"]
# Of a device's free memory, the share that images may take; a training step needs the rest.
RESIDENT_SHARE = 0.5


def to_device(dataset: Source, layout: Layout = ONE_DEVICE) -> Data:
    """Images (uint8) and labels (int32) on the default device, or shared out over several."""

    def read(rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        # Images that must be decoded are, with a thread for each core.
        read = Rows(dataset, rows).load() if isinstance(dataset, Rows) else dataset.read(rows)
        return {"image": read.images, "label": read.labels}

    return layout.share_rows(read, len(dataset))


def too_large(*sources: Source, layout: Layout = ONE_DEVICE) -> str | None:
    """Why the images cannot be kept on the devices, or None if they can."""
    needed = sum(nbytes(source) for source in sources)
    if not on_host():
        needed = layout.share(needed)
    excess = memory_excess(needed, free_memory(), RESIDENT_SHARE)
    return None if excess is None else f"the images take {excess}"


def make_scoring(
    step: EvalStep,
    source: Source,
    *,
    batch_size: int,
    streamed: bool,
    layout: Layout = ONE_DEVICE,
) -> Scoring:
    """The scoring of a source: put on the devices, or streamed from the host."""
    if streamed:
        return make_streamed_evaluation(step, source, batch_size=batch_size, layout=layout)
    evaluation = make_evaluation(step, size=len(source), batch_size=batch_size, layout=layout)
    return evaluation.over(to_device(source, layout))


def evaluate(
    model: ResNet,
    variables: Mapping[str, Any],
    dataset: Source,
    *,
    normalize: str | Normalize = "cifar10",
    batch_size: int = 500,
    mirror: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    """``{"loss", "accuracy", "examples"}`` over every image exactly once, in evaluation mode.

    Images that do not fit on the device are streamed.

    Args:
        variables: ``{"params", "batch_stats"}``.
        normalize: as in training: a name in `augment.NORMALIZATIONS`, or a function.
        batch_size: changes the time, and the loss only by rounding.
        mirror: score the mean logits of an image and its mirror image.
        progress: draw a bar, on a terminal.

    Example:
        >>> import jax
        >>> from jaxcifar import evaluate, load_dataset, resnet18
        >>> digits, model = load_dataset("digits", split=(120, 40)), resnet18(width=1)
        >>> shapes = jax.eval_shape(
        ...     lambda: model.init(jax.random.key(0), jax.numpy.zeros((1, 32, 32, 3)), train=False)
        ... )
        >>> variables = jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape), shapes)
        >>> evaluate(model, variables, digits.validation, normalize="half")["examples"]
        40
    """
    if isinstance(normalize, str):
        normalize = make_normalize(normalize)
    eval_step = make_eval_step(model, normalize=normalize, mirror=mirror)
    streamed = too_large(dataset) is not None
    scoring = make_scoring(eval_step, dataset, batch_size=batch_size, streamed=streamed)
    with ProgressBar("evaluate", len(dataset), progress) as bar:
        return metrics.compute(scoring.run(variables, bar.advance))


def evaluate_run(
    run: str | Path,
    *,
    split: SplitName = "test",
    which: Which = "best",
    data_dir: str | Path | None = None,
    mirror: bool | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """``{"split", "examples", "accuracy", "loss"}`` of a run's checkpoint.

    Args:
        run: its directory.
        split: of the data it was trained on.
        which: of its checkpoints.
        data_dir: where TFDS data lies.
        mirror: as in `evaluate`; None for the recipe's `test_mirror`.
        progress: draw a bar, on a terminal.

    Raises:
        RunError: not a run; or the data found are not those it was trained on, so that its train
            and validation images cannot be told apart.
        RecipeError, CheckpointError, DataError: the run or its data cannot be used.
        DeviceError: JAX has no device of the platform that JAX_PLATFORMS names.

    Example:
        >>> from jaxcifar import evaluate_run
        >>> scores = evaluate_run("runs/demo", split="test")  # doctest: +SKIP
    """
    files = RunDirectory(Path(run))
    trained_on = files.read_config().get("data_fingerprint")
    find_devices()
    recipe, model, variables = restore_run(run, which)
    splits = load_splits(recipe, data_dir, lazy=True)  # one split is needed, not three
    if split != "test" and splits.fingerprint != trained_on:
        raise RunError(
            f"{files.path} was trained on another preparation of {recipe.dataset}, in another "
            f"order: its {split} split cannot be found again; use --split test or its data"
        )
    result = evaluate(
        model,
        variables,
        getattr(splits, split),
        normalize=recipe.make_preprocess(),
        batch_size=recipe.eval_batch_size,
        mirror=recipe.test_mirror if mirror is None else mirror,
        progress=progress,
    )
    return {
        "split": split,
        "examples": result["examples"],
        "accuracy": result["accuracy"],
        "loss": result["loss"],
    }
