"""Score variables on a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import numpy as np
from numpy.typing import NDArray

from jaxcifar.data import Rows, Source
from jaxcifar.data.reading import nbytes
from jaxcifar.devices.layout import ONE_DEVICE, Layout
from jaxcifar.devices.memory import free_memory, host_memory, memory_excess, on_host
from jaxcifar.recipes.parts import NO_PARTS, Parts, make_parts
from jaxcifar.step import metrics as step_metrics
from jaxcifar.step.augment import make_normalize
from jaxcifar.step.metrics import ExampleMetric
from jaxcifar.step.precision import Precision, computed_at
from jaxcifar.step.steps import EvalStep, Loss, Normalize, make_eval_step
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
    sizes = [nbytes(source) for source in sources]
    needed = sum(sizes)
    if not on_host():
        needed = layout.share(needed)
        # They pass through the host's memory, a device's share of a source at a time.
        passing = memory_excess(layout.share(max(sizes)), host_memory(), RESIDENT_SHARE)
        if passing is not None:
            return f"the images take {passing} on the host"
    excess = memory_excess(needed, free_memory(), RESIDENT_SHARE)
    return None if excess is None else f"the images take {excess}"


def too_large_somewhere(*sources: Source, layout: Layout) -> str | None:
    """`too_large` with one answer for all processes, each of which must call it."""
    reason = too_large(*sources, layout=layout)
    if any(too_much for (too_much,) in layout.agree(int(reason is not None))):
        return reason or "the images do not fit on the devices of another process"
    return None


def make_scoring(
    step: EvalStep,
    source: Source,
    *,
    batch_size: int,
    streamed: bool,
    own: Sequence[str] = (),
) -> Scoring:
    """The scoring of a source: put on the devices, or streamed from the host."""
    if streamed:
        return make_streamed_evaluation(step, source, batch_size=batch_size, own=own)
    evaluation = make_evaluation(step, size=len(source), batch_size=batch_size, own=own)
    return evaluation.over(to_device(source))


def evaluate(
    model: nn.Module,
    variables: Mapping[str, Any],
    dataset: Source,
    *,
    normalize: str | Normalize = "cifar10",
    batch_size: int = 500,
    mirror: bool = False,
    shift: int = 0,
    precision: Precision = "default",
    loss: Loss | None = None,
    metrics: Mapping[str, ExampleMetric] | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """``{"loss", "accuracy", "examples"}`` over every image exactly once, in evaluation mode.

    An image whose logits are not numbers counts as wrong, and makes the loss NaN. Images that do
    not fit on the device are streamed.

    Args:
        model: ``(images, *, train) -> logits``.
        variables: ``{"params", "batch_stats"}``.
        dataset: the images.
        normalize: as in training: a name in `augment.NORMALIZATIONS`, or a function.
        batch_size: changes the time, and the loss only by rounding.
        mirror: score the mean logits of an image and its mirror image.
        shift: score the mean logits of an image and of shifted ones, see `make_eval_step`; pixels
            of the network's input.
        precision: as in training: of float32 products and convolutions, see `computed_at`.
        loss, metrics: as in `fit`; the metrics are in the result by their names.
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
    sums = evaluation_sums(
        model,
        variables,
        dataset,
        normalize=normalize,
        batch_size=batch_size,
        mirror=mirror,
        shift=shift,
        precision=precision,
        parts=make_parts(loss=loss, metrics=metrics),
        progress=progress,
    )
    return step_metrics.compute(sums)


def evaluation_sums(
    model: nn.Module,
    variables: Mapping[str, Any],
    dataset: Source,
    *,
    normalize: str | Normalize,
    batch_size: int,
    mirror: bool = False,
    shift: int = 0,
    precision: Precision = "default",
    parts: Parts = NO_PARTS,
    progress: bool = False,
) -> step_metrics.Metrics:
    """What `evaluate` computes its scores from."""
    if isinstance(normalize, str):
        normalize = make_normalize(normalize)
    eval_step = make_eval_step(
        model,
        normalize=normalize,
        mirror=mirror,
        shift=shift,
        loss=parts.loss,
        own_metrics=parts.metrics,
        one_hot=parts.mixes,
    )
    streamed = too_large(dataset) is not None
    scoring = make_scoring(
        computed_at(precision)(eval_step),
        dataset,
        batch_size=batch_size,
        streamed=streamed,
        own=parts.metric_names,
    )
    with ProgressBar("evaluate", len(dataset), progress) as bar:
        return scoring.run(variables, bar.advance)
