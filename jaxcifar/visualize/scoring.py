"""What a trained network predicts for images of its dataset, in numbers and in words."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.data import Dataset, Rows
from jaxcifar.data.image_file import make_square
from jaxcifar.training.evaluation import SplitName
from jaxcifar.visualize.images import check_size
from jaxcifar.visualize.network import TrainedNetwork, evaluation_batch_size
from jaxcifar.visualize.predictions import predict

CONFIDENT = 0.9


def score_split(
    network: TrainedNetwork, split: SplitName
) -> tuple[Dataset | Rows, NDArray[np.float32]]:
    """A split, and the probabilities from which `evaluate_run` would compute its accuracy.

    Raises:
        RecipeError: the network's classes are not the dataset's, or its output is not finite.
        RunError, DataError: as `TrainedNetwork.split`.
    """
    _check_classes(network)
    dataset = network.split(split)
    return dataset, _predict(network, dataset, None, mirror=network.mirror)


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
    _check_classes(network)
    check_size(size)
    test = network.split("test")
    batch_size = network.batch_size
    if size is not None:
        batch_size = min(batch_size, evaluation_batch_size(size))
    indices: list[int] = []
    for first in range(0, len(test), batch_size):
        rows = np.arange(first, min(first + batch_size, len(test)))
        probabilities = _predict(network, test.read(rows), size)
        confident = probabilities[np.arange(len(rows)), test.labels[rows]] >= CONFIDENT
        indices += rows[confident].tolist()
        if len(indices) >= count:
            break
    rule = f"predicted correctly with a probability of at least {CONFIDENT}"
    if not indices:
        raise RecipeError(
            f"{network.name}: no test image is {rule}; choose the images to explain with --image"
        )
    if len(indices) < count:
        choice = f"all {counted(len(indices), 'test image')} {rule} ({count} were requested)"
    else:
        choice = f"the first {counted(count, 'test image')}, by index, {rule}"
    return indices[:count], choice


def check_finite(network: TrainedNetwork, probabilities: ArrayLike) -> NDArray[np.float32]:
    """Refuse NaN: the first class would count as predicted, and its map would be empty.

    Raises:
        RecipeError: not all numbers are finite.
    """
    values = np.asarray(probabilities)
    if not np.isfinite(values).all():
        raise RecipeError(f"{network.name}: the network's output is not finite")
    return values


def describe_prediction(network: TrainedNetwork, probabilities: NDArray[np.float32]) -> str:
    """The predicted class of one image and its probability."""
    predicted = int(probabilities.argmax())
    return f"predicted {network.class_names[predicted]} (p = {probabilities[predicted]:.3f})"


def describe_scoring(network: TrainedNetwork) -> str:
    """The network, and whether its scores are of the mean with the mirror image."""
    return f"{network.name}, mean with the mirror image" if network.mirror else network.name


def counted(count: int, noun: str) -> str:
    """A number and its noun: "1 image", "2 images"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _predict(
    network: TrainedNetwork, dataset: Dataset | Rows, size: int | None, *, mirror: bool = False
) -> NDArray[np.float32]:
    normalize = network.preprocess
    if size is not None:
        normalize = network.normalize
        resized = np.stack([make_square(image, size) for image in dataset.load().images])
        dataset = Dataset(resized, dataset.labels)
    probabilities = predict(
        network.model,
        network.variables,
        dataset,
        normalize=normalize,
        batch_size=network.batch_size,
        mirror=mirror,
    )
    return check_finite(network, probabilities)


def _check_classes(network: TrainedNetwork) -> None:
    if network.class_names != network.dataset.class_names:
        raise RecipeError(
            f"{network.name} has {len(network.class_names)} classes, not those of "
            f"{network.dataset.name}, so its predictions cannot be scored"
        )
