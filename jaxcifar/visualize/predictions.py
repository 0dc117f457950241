"""What a network says of a dataset's images, and the counts of where it is right and wrong."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.data import Dataset, Rows
from jaxcifar.models.resnet import ResNet
from jaxcifar.step.steps import Normalize, evaluation_logits


def predict(
    model: ResNet,
    variables: Mapping[str, Any],
    dataset: Dataset | Rows,
    *,
    normalize: Normalize,
    batch_size: int = 500,
    mirror: bool = False,
) -> NDArray[np.float32]:
    """The probability of each class for every image, in evaluation mode: float32 [n, classes].

    Args:
        variables: ``{"params", "batch_stats"}``.
        normalize: uint8 images to what the network sees.
        batch_size: changes the time only. The last batch is filled up with its last image, whose
            copies are left out of the result, so that one program serves all.
        mirror: of the mean of the logits of an image and its mirror image.

    Raises:
        ValueError: there are no images.
    """
    size = len(dataset)
    if size == 0:
        raise ValueError("there are no images to predict")
    batch_size = min(batch_size, size)
    parts = []
    for first in range(0, size, batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), size - 1)
        images = jnp.asarray(dataset.read(rows).images)
        parts.append(class_probabilities(model, variables, normalize(images), mirror))
    return np.concatenate([np.asarray(part) for part in parts])[:size]


@partial(jax.jit, static_argnums=(0, 3))  # of the module: a second call compiles nothing
def class_probabilities(
    model: ResNet, variables: Mapping[str, Any], images: jax.Array, mirror: bool = False
) -> jax.Array:
    """Float32 [n, classes] of one batch of normalised images [n, h, w, 3], in evaluation mode."""
    return jax.nn.softmax(evaluation_logits(model, variables, images, mirror=mirror))


def confusion_matrix(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """How often the class of the row was taken for that of the column: int64 [true, predicted].

    Raises:
        ValueError: lengths that differ or a class outside 0 to `num_classes` - 1.
    """
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and predicted {predicted.shape} must be one row")
    for name, values in (("labels", labels), ("predicted", predicted)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{name} must lie in 0 to {num_classes - 1}")
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """The share of each class's images that were taken for it; NaN for a class without images."""
    totals = confusion.sum(axis=1)
    right = np.diag(confusion).astype(np.float64)
    return np.divide(right, totals, out=np.full(len(totals), np.nan), where=totals > 0)


def most_confident_mistakes(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> NDArray[np.int64]:
    """The indices of up to `count` wrongly predicted images, the most confidently wrong first.

    Of equals the earlier image comes first.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order[:count]]
