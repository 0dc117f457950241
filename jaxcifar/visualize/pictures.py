"""Pictures of a trained network at work, as figures of matplotlib.

All take a run's directory or a `TrainedNetwork`, and return the figure, which a notebook shows.
They write only where `out` names a file; `saving.save_picture` writes into the run's figures.
Arguments are checked before anything is compiled.

In addition to what each function lists, they raise RunError, CheckpointError or DataError if the
run or its data cannot be used, and RecipeError for an invalid argument.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxcifar.common.errors import NoneFoundError, RecipeError
from jaxcifar.common.figure import png_path, save_figure
from jaxcifar.common.messages import counted, did_you_mean, join_lines
from jaxcifar.common.writing import make_folder
from jaxcifar.inference.activations import KERAS_NAMES, list_layers, torchvision_name
from jaxcifar.inference.gradcam import default_layer, grad_cam, map_children, upsample
from jaxcifar.inference.load import network_of_run
from jaxcifar.inference.network import TrainedNetwork, check_size
from jaxcifar.inference.predictions import (
    class_probabilities,
    confusion_matrix,
    most_confident_mistakes,
    per_class_accuracy,
)
from jaxcifar.models.resnet import ResNet
from jaxcifar.runs.checkpoints import Which
from jaxcifar.step.precision import computed_at
from jaxcifar.training.evaluation import SplitName
from jaxcifar.visualize.counts import check_counts, write_counts
from jaxcifar.visualize.feature_maps import feature_maps
from jaxcifar.visualize.images import InputImage, Size, as_named, load_image
from jaxcifar.visualize.plots import ChannelOrder as ChannelOrder
from jaxcifar.visualize.plots import MapScale as MapScale
from jaxcifar.visualize.plots import (
    Overlay,
    check_choices,
    plot_activations,
    plot_confusion,
    plot_grad_cam,
    plot_images,
)
from jaxcifar.visualize.scoring import (
    confident_images,
    describe_prediction,
    describe_scoring,
    score_split,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_IMAGES = 100  # in one picture
# Defaults, which the names of pictures do not say.
CHANNELS, CAM_IMAGES, MISTAKES = 8, 10, 16


def draw_activations(
    run: str | Path | TrainedNetwork,
    layers: Sequence[str] | None = None,
    image: str | int | os.PathLike[str] = "0",
    *,
    size: Size = None,
    channels: int = CHANNELS,
    order: ChannelOrder = "active",
    scale: MapScale = "channel",
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> "Figure":
    """Draw feature maps for one image.

    Args:
        run: a run directory, or a network.
        layers: names that `activations.capture` knows, of layers whose output is feature maps; by
            default those of the course report, of a network of your own up to three.
        image: a class name (its first test image; names win over indices), the index of a test
            image (text or a number), or an image file (text or a path).
        size: height and width, pixels, at which the network sees the image: scaled by its shorter
            side and cropped to the centre. By default the size of the training images; "own" for a
            file as it is.
        channels: how many maps of each layer to draw.
        order: which maps: the "active" channels, by the standard deviation of the map over its
            pixels, the most active first; or the "first" ones. Their numbers are printed.
        scale: of the colours: of each "channel", from its own minimum to its own maximum, which
            shows weak maps, too; or of the whole "layer", which compares its maps.
        which: the checkpoint of the run.
        out: a PNG to write, too.
        data_dir: where TFDS keeps its data.

    Raises:
        RecipeError: no such image, layer, order or scale.
        ImageFileError: the image file cannot be used.

    Example:
        `load` makes the network.

        >>> from jaxcifar import TrainedNetwork, draw_activations
        >>> def show(network: TrainedNetwork) -> object:
        ...     return draw_activations(network, image="ship", layers=["conv1"])
    """
    network = network_to_draw(run, which, data_dir)
    image = as_named(image)
    path = _png(out, [image])
    if channels < 1:
        raise RecipeError(f"channels must be at least 1, not {channels}")
    check_choices(order, scale)
    loaded = load_image(network, image, size)
    maps, probabilities = feature_maps(network, layers, loaded.inputs)
    input_size, size_shown = loaded.inputs.shape[1:3], loaded.pixels.shape[:2]
    at = "" if input_size == size_shown else f", seen at {input_size[0]}x{input_size[1]}"
    title = f"{loaded.name}{at}, {describe_prediction(network, probabilities)}; {network.name}"
    figure = plot_activations(
        loaded.pixels, maps, title=title, channels=channels, order=order, scale=scale
    )
    return _written(figure, path)


def draw_grad_cam(
    run: str | Path | TrainedNetwork,
    *,
    images: Sequence[str | int | os.PathLike[str]] | None = None,
    count: int = CAM_IMAGES,
    layer: str | None = None,
    target: str | int | None = None,
    size: Size = None,
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> "Figure":
    """Draw where the network finds the class it predicts, by Grad-CAM.

    Args:
        run, which, out, data_dir: as in `draw_activations`.
        images: each as in `draw_activations`. By default they are not picked: they are the first
            `count` test images, by index, that are predicted correctly with a probability of at
            least 0.9 at `size`, or all of them if there are fewer.
        count: how many images, if `images` is not given.
        layer: a child of the network; by default the last stage with a map of at least 4x4.
        target: the class to explain instead of the predicted one, or its index.
        size: as in `draw_activations`.

    Raises:
        RecipeError: no such image, layer or class, or no test image is predicted like that.
        ImageFileError: an image file cannot be used.

    Example:
        `load` makes the network.

        >>> from jaxcifar import TrainedNetwork, draw_grad_cam
        >>> def show(network: TrainedNetwork) -> object:
        ...     return draw_grad_cam(network, images=["photo.jpg"], target="cat")
    """
    network = network_to_draw(run, which, data_dir)
    named = None if images is None else [as_named(image) for image in images]
    path = _png(out, named or ())
    _check_count(count)
    layer = _grad_cam_layer(network, layer)
    if target is not None:
        target = network.class_names[network.label_of(target)]
    if named is None:
        found, choice = confident_images(network, count, None if size == "own" else size)
        named = [*found]
    else:
        choice = f"{counted(len(named), 'image')} chosen by hand"
    if not named:
        raise RecipeError("there are no images to explain")
    explained = [
        _explain(network, load_image(network, image, size), layer, target) for image in named
    ]
    layers = list(dict.fromkeys(used_layer for _, used_layer in explained))
    of = "the predicted class" if target is None else f"class {target}"
    title = f"Grad-CAM of {of} at {' and '.join(layers)}, {choice}; {network.name}"
    return _written(plot_grad_cam([overlay for overlay, _ in explained], title=title), path)


def _grad_cam_layer(network: TrainedNetwork, layer: str | None) -> str | None:
    if layer is None:
        return None
    name, children = torchvision_name(network.model, layer), map_children(network.model)
    if name not in children:
        raise RecipeError(
            f"Grad-CAM needs a child of the network whose output is maps, not {layer!r}"
            f"{did_you_mean(name, children)}"
        )
    return name


def _explain(
    network: TrainedNetwork, image: InputImage, layer: str | None, target: str | None
) -> tuple[Overlay, str]:
    """The Grad-CAM of one image, and the layer and size of its map."""
    model, variables = network.model, network.variables
    if layer is None:
        try:
            layer = default_layer(model, min(image.inputs.shape[1:3]))
        except ValueError as error:
            raise RecipeError(str(error)) from None
    with computed_at(network.precision):
        probabilities = class_probabilities(model, variables, image.inputs)
    probabilities = network.check_finite(probabilities)[0]
    label = int(probabilities.argmax())
    caption = [image.name, describe_prediction(network, probabilities)]
    if target is not None:
        label = network.class_names.index(target)
        caption.append(f"map of {target} (p = {probabilities[label]:.3f})")
    with computed_at(network.precision):
        maps = grad_cam(model, variables, image.inputs, jnp.array([label]), layer)
    if not maps.any():
        caption.append("the map is 0 everywhere")
    heat = np.asarray(upsample(maps, *image.pixels.shape[:2]))[0]
    used_layer = f"{layer} ({maps.shape[1]}x{maps.shape[2]})"
    return Overlay(image.pixels, heat, tuple(caption)), used_layer


def draw_mistakes(
    run: str | Path | TrainedNetwork,
    *,
    count: int = MISTAKES,
    split: SplitName = "test",
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> "Figure":
    """Draw the wrongly predicted images with the highest probabilities.

    Args:
        run, which, out, data_dir: as in `draw_activations`.
        count: how many images, at most.
        split: the images to predict.

    Raises:
        RecipeError: the network's classes are not the dataset's, or it makes no mistake.

    Example:
        `load` makes the network.

        >>> from jaxcifar import TrainedNetwork, draw_mistakes
        >>> def show(network: TrainedNetwork) -> object:
        ...     return draw_mistakes(network, count=8)
    """
    network = network_to_draw(run, which, data_dir)
    path = _png(out)
    _check_count(count)
    dataset, probabilities = score_split(network, split)
    predicted = probabilities.argmax(axis=1)
    wrong = int(np.sum(predicted != dataset.labels))
    if not wrong:
        raise NoneFoundError(
            f"{network.name} makes no mistake on the {split} images",
            way_out="choose another --split",
        )
    rows = most_confident_mistakes(probabilities, dataset.labels, count)
    captions = [
        (
            f"{split} image {row}: {network.class_names[dataset.labels[row]]}",
            describe_prediction(network, probabilities[row]),
        )
        for row in rows
    ]
    title = (
        f"The {len(rows)} most confident of {counted(wrong, 'mistake')} on {len(dataset):,} "
        f"{split} images; {describe_scoring(network)}"
    )
    return _written(plot_images(list(dataset.read(rows).images), captions, title=title), path)


def draw_confusion(
    run: str | Path | TrainedNetwork,
    *,
    split: SplitName = "test",
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> "Figure":
    """Draw the confusion matrix and the accuracy of each class.

    With `out`, the numbers are written into a JSON file of the same name: network (in the words of
    the picture's title), split, dataset, examples, accuracy, class_names, confusion
    ([true][predicted] counts) and per_class_accuracy (null for a class without images).

    Args:
        run, which, out, data_dir: as in `draw_activations`.
        split: the images to predict.

    Raises:
        RecipeError: the network's classes are not the dataset's.

    Example:
        `load` makes the network.

        >>> from jaxcifar import TrainedNetwork, draw_confusion
        >>> def show(network: TrainedNetwork) -> object:
        ...     return draw_confusion(network, split="validation")
    """
    network = network_to_draw(run, which, data_dir)
    path = _png(out)
    if path is not None:
        check_counts(path.with_suffix(".json"))
    dataset, probabilities = score_split(network, split)
    names = network.class_names
    confusion = confusion_matrix(dataset.labels, probabilities.argmax(axis=1), len(names))
    accuracy = per_class_accuracy(confusion)
    correct = int(np.trace(confusion))
    title = (
        f"{split} accuracy {correct / len(dataset):.4f} ({correct:,} of {len(dataset):,} images); "
        f"{describe_scoring(network)}"
    )
    if path is not None:  # the numbers first: where the picture is, both are
        numbers = {
            "network": describe_scoring(network),
            "split": split,
            "dataset": network.dataset.name,
            "examples": len(dataset),
            "accuracy": correct / len(dataset),
            "class_names": list(names),
            "confusion": confusion.tolist(),
            "per_class_accuracy": [
                None if np.isnan(share) else share for share in accuracy.tolist()
            ],
        }
        make_folder(path.parent)
        write_counts(path.with_suffix(".json"), numbers)
    return _written(plot_confusion(confusion, accuracy, names, title=title), path)


def describe_layers(
    run: str | Path | TrainedNetwork, *, size: int | None = None, which: Which = "best"
) -> str:
    """List the layers, one per line: name, output shape for one image, and Keras name if any.

    Args:
        run: a run directory, or a network.
        size: of the image, pixels per side; by default that of the network's test images.
        which: the checkpoint of the run.
    """
    network = network_to_draw(run, which, None)
    check_size(size)
    side = size or network.image_size
    image = jnp.zeros((1, side, side, 3), jnp.float32)
    shapes = list_layers(network.model, network.variables, image)
    keras = {torchvision_name(network.model, name): name for name in KERAS_NAMES}
    names = list(shapes)
    if isinstance(network.model, ResNet):
        order = {child: position for position, child in enumerate(network.model.children)}
        names.sort(key=lambda name: (order[name.split(".")[0]], name))
    lines = []
    for name in names:
        shape = "x".join(map(str, shapes[name].shape[1:]))
        alias = f"  (Keras: {keras[name]})" if name in keras else ""
        lines.append(f"{name:24}{shape}{alias}")
    return join_lines(lines)


def network_to_draw(
    run: str | Path | TrainedNetwork, which: Which, data_dir: str | Path | None
) -> TrainedNetwork:
    """The network of a run, or the one that is given."""
    return run if isinstance(run, TrainedNetwork) else network_of_run(run, which, data_dir)


def _png(out: str | Path | None, images: Sequence[str | int] = ()) -> Path | None:
    """The file for the picture, if any, which must not be one of the images to show."""
    if not out:
        return None
    # Not Path.resolve, which fails on a loop of links.
    if any(os.path.realpath(out) == os.path.realpath(str(image)) for image in images):
        raise RecipeError(f"{out} is an image to show: name another file with --out")
    return png_path(out)


def _written(figure: "Figure", path: Path | None) -> "Figure":
    if path is not None:
        save_figure(figure, path)
    return figure


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_IMAGES:
        raise RecipeError(f"count must lie between 1 and {MAX_IMAGES}, not {count}")
