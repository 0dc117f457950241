"""The class probabilities of a dataset's images, and counts of correct and wrong predictions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.progress import progress_bar
from jaxcifar.data import Source
from jaxcifar.data.reading import open_stream
from jaxcifar.devices.memory import on_host
from jaxcifar.step.augment import make_normalize
from jaxcifar.step.precision import Precision, computed_at
from jaxcifar.step.steps import Normalize, evaluation_logits

_AHEAD = 2  # batches that are computed before the first is fetched
_PARTS, _MANY = 5, 100  # parts of a batch of at least so many images


def predict(
    model: nn.Module,
    variables: Mapping[str, Any],
    dataset: Source,
    *,
    normalize: str | Normalize,
    batch_size: int = 500,
    mirror: bool = False,
    shift: int = 0,
    precision: Precision = "default",
) -> NDArray[np.float32]:
    """The probability of each class for every image, in evaluation mode: float32 [n, classes].

    Args:
        model: the network.
        variables: ``{"params", "batch_stats"}``.
        dataset: uint8 images [n, h, w, 3].
        normalize: as in training: a name in `augment.NORMALIZATIONS`, or a function.
        batch_size: changes only the time. The last batch is filled up with copies of its last
            image, which are dropped from the result, so that all batches share one program.
        mirror: use the mean of the logits of each image and its mirror image.
        shift: use the mean over shifted images, too, see `make_eval_step`; pixels of the network's
            input.
        precision: as in training: of float32 products and convolutions, see `computed_at`.

    Returns:
        NaN in the row of an image whose logits are not numbers.

    Raises:
        ValueError: there are no images.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxcifar import ResNet, load_dataset, predict
        >>> model = ResNet(stage_sizes=(), width=4)  # nothing but stem and head: it compiles fast
        >>> test = load_dataset("digits", split=(120, 40)).test
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
        >>> predict(model, variables, test, normalize="half").shape
        (360, 10)
    """
    if isinstance(normalize, str):
        normalize = make_normalize(normalize)
    logits = predict_logits(
        model,
        variables,
        dataset,
        normalize=normalize,
        batch_size=batch_size,
        mirror=mirror,
        shift=shift,
        precision=precision,
    )
    return np.asarray(jax.nn.softmax(logits))


def predict_logits(
    model: nn.Module,
    variables: Mapping[str, Any],
    dataset: Source,
    *,
    normalize: Normalize,
    batch_size: int = 500,
    mirror: bool = False,
    shift: int = 0,
    precision: Precision = "default",
    progress: bool = False,
) -> NDArray[np.float32]:
    """The logits of every image, float32 [n, classes], as `predict` computes them.

    Threads read the next batches while the device computes.

    Args:
        progress: draw a bar, on a terminal.
    """
    with computed_at(precision):
        return map_source(
            lambda images: class_logits(model, variables, normalize(images), mirror, shift),
            dataset,
            batch_size=batch_size,
            progress=progress,
        )


def map_source(
    function: Callable[[jax.Array], jax.Array],
    source: Source,
    *,
    batch_size: int,
    progress: bool = False,
) -> NDArray[np.float32]:
    """A function of every image of a source, computed in batches of one size.

    Args:
        function: uint8 images [b, h, w, 3] -> an array [b, ...].
        source: threads read its next batches while the device computes.
        batch_size: the last batch is filled up with copies of its last image.
        progress: draw a bar, on a terminal.

    Raises:
        ValueError: there are no images.
    """
    size = len(source)
    if size == 0:
        raise ValueError("there are no images to predict")
    batch_size = min(batch_size, size)
    chunks = [
        np.minimum(np.arange(first, first + batch_size), size - 1)
        for first in range(0, size, batch_size)
    ]
    outputs: list[Any] = []
    with progress_bar("evaluate", size, unit=" images", enabled=progress) as bar:
        for count, chunk in enumerate(open_stream(source, chunks)):
            outputs.append(function(jnp.asarray(chunk.images)))
            if count >= _AHEAD:  # it is computed by now; its memory on the device is freed
                outputs[count - _AHEAD] = np.asarray(outputs[count - _AHEAD], np.float32)
                bar.update(batch_size)
        outputs = [np.asarray(output, np.float32) for output in outputs]
        bar.update(size - bar.n)
    return np.concatenate(outputs)[:size]


def class_logits(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    mirror: bool = False,
    shift: int = 0,
) -> jax.Array:
    """The logits of one batch, in evaluation mode: float32 [n, classes].

    Args:
        model: the network.
        variables: ``{"params", "batch_stats"}``.
        images: float32 [n, h, w, 3], normalised.
        mirror, shift: as in `predict`.
    """
    # On a CPU, the temporary memory of 500 CIFAR-10 images at once comes from the system anew for
    # each batch: 3.2 s for 10,000 images, and 2.7 s in parts of 100, within one program.
    many = on_host() and len(images) >= _MANY and len(images) % _PARTS == 0
    return _class_logits(model, _PARTS if many else 1, mirror, shift, variables, images)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))  # at module level: a second call compiles nothing
def _class_logits(
    model: nn.Module,
    parts: int,
    mirror: bool,
    shift: int,
    variables: Mapping[str, Any],
    images: jax.Array,
) -> jax.Array:
    def score(images: jax.Array) -> jax.Array:
        logits = evaluation_logits(model, variables, images, mirror=mirror, shift=shift)
        return logits.astype(jnp.float32)

    if parts == 1:
        return score(images)
    logits = jax.lax.map(score, images.reshape(parts, -1, *images.shape[1:]))
    return logits.reshape(len(images), -1)


def class_probabilities(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, mirror: bool = False
) -> jax.Array:
    """The probabilities of one batch, in evaluation mode: float32 [n, classes]."""
    return jax.nn.softmax(class_logits(model, variables, images, mirror))


def confusion_matrix(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """How often each class (row) was predicted as each class (column): int64 [true, predicted].

    Raises:
        ValueError: the lengths differ, or a class is outside 0 to `num_classes` - 1.
    """
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(
            f"labels and predicted must have one dimension and the same length, not the shapes "
            f"{labels.shape} and {predicted.shape}"
        )
    for name, values in (("labels", labels), ("predicted", predicted)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{name} must lie in 0 to {num_classes - 1}")
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """The fraction of each class's images predicted correctly; NaN for a class without images."""
    totals = confusion.sum(axis=1)
    correct = np.diag(confusion).astype(np.float64)
    return np.divide(correct, totals, out=np.full(len(totals), np.nan), where=totals > 0)


def most_confident_mistakes(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> NDArray[np.int64]:
    """The indices of up to `count` wrongly predicted images, highest probability first.

    Among equals, the earlier image comes first.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order[:count]]
