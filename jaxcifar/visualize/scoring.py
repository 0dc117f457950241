"""What a trained network predicts for images of its dataset, in numbers and in words."""

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import NoneFoundError
from jaxcifar.common.messages import counted
from jaxcifar.data import LabelledSource
from jaxcifar.data.image_file import make_square
from jaxcifar.inference.network import (
    TrainedNetwork,
    check_size,
    evaluation_batch_size,
    softmax,
)
from jaxcifar.inference.predictions import class_logits
from jaxcifar.inference.scoring import check_classes, split_logits
from jaxcifar.step.precision import computed_at
from jaxcifar.training.evaluation import SplitName

CONFIDENT = 0.9


def score_split(
    network: TrainedNetwork, split: SplitName
) -> tuple[LabelledSource, NDArray[np.float64]]:
    """A split, and the probabilities [n, classes] of its images, as `evaluate_run` scores them.

    Raises:
        RecipeError, RunError, DataError: as `inference.scoring.split_logits`.
    """
    source, logits = split_logits(network, split)
    return source, softmax(logits)


def confident_images(
    network: TrainedNetwork, count: int, size: int | None
) -> tuple[list[int], str]:
    """The first test images that are predicted correctly with a probability of `CONFIDENT`.

    Args:
        network: predicts them in batches until enough are found.
        count: how many.
        size: height and width at which it sees them, pixels; by default as in training.

    Returns:
        Their indices, and a description of how they were chosen.

    Raises:
        RecipeError: there is none, or as `score_split`.
        DataError: the data is not available.
    """
    check_classes(network)
    check_size(size)
    test = network.split("test")
    batch_size = network.batch_size
    if size is not None:
        batch_size = min(batch_size, evaluation_batch_size(size))
    indices: list[int] = []
    for first in range(0, len(test), batch_size):
        rows = np.arange(first, min(first + batch_size, len(test)))
        probabilities = _probabilities(network, test.read(rows).images, size)
        confident = probabilities[np.arange(len(rows)), test.labels[rows]] >= CONFIDENT
        indices += rows[confident].tolist()
        if len(indices) >= count:
            break
    rule = f"predicted correctly with a probability of at least {CONFIDENT}"
    if not indices:
        raise NoneFoundError(
            f"{network.name}: no test image is {rule}",
            way_out="choose the images to explain with --image",
        )
    if len(indices) < count:
        choice = f"all {counted(len(indices), 'test image')} {rule} ({count} were requested)"
    else:
        choice = f"the first {counted(count, 'test image')}, by index, {rule}"
    return indices[:count], choice


def describe_prediction(network: TrainedNetwork, probabilities: NDArray[np.floating]) -> str:
    """The predicted class of one image and its probability."""
    predicted = int(probabilities.argmax())
    return f"predicted {network.class_names[predicted]} (p = {probabilities[predicted]:.3f})"


def describe_scoring(network: TrainedNetwork) -> str:
    """The network, and over which views of an image its scores are the mean."""
    views = ["the mirror image"] if network.mirror else []
    if network.shift:
        views.append(f"shifts by {counted(network.shift, 'pixel')}")
    return f"{network.name}, mean with {' and '.join(views)}" if views else network.name


def _probabilities(
    network: TrainedNetwork, images: NDArray[np.uint8], size: int | None
) -> NDArray[np.float64]:
    """The probabilities [n, classes] of one batch, at a size or as in training."""
    if size is None:
        inputs = network.preprocess(images)
    else:
        squares = np.stack([make_square(image, size) for image in images])
        inputs = network.normalize(jnp.asarray(squares))
    with computed_at(network.precision):
        logits = class_logits(network.model, network.variables, inputs)
    return softmax(network.check_finite(logits))
