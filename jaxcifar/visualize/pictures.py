"""Pictures of a trained network at work. Each is written as a PNG, whose path is returned.

All take a run's directory or a `TrainedNetwork` (see `network.network_of_weights` for a file of
weights). They write into the run's figures unless `out` names another file. The names of pictures
with other settings than the defaults say so, see `names`; those of another checkpoint than the best
end in it. Arguments are checked before anything is compiled.

In addition to what each function lists, they raise RunError, CheckpointError or DataError if the
run or its data cannot be used, and RecipeError for an invalid argument.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.figure import save_figure
from jaxcifar.common.messages import did_you_mean, join_lines
from jaxcifar.common.writing import make_folder, write_atomically
from jaxcifar.inference.activations import KERAS_NAMES, capture, list_layers, torchvision_name
from jaxcifar.inference.gradcam import default_layer, grad_cam, map_children, upsample
from jaxcifar.inference.load import network_of_run
from jaxcifar.inference.network import TrainedNetwork, check_size
from jaxcifar.inference.predictions import (
    class_probabilities,
    confusion_matrix,
    most_confident_mistakes,
    per_class_accuracy,
)
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.directory import refuse_links
from jaxcifar.runs.shapes import read_object
from jaxcifar.training.evaluation import SplitName
from jaxcifar.visualize.images import InputImage, Size, load_image
from jaxcifar.visualize.names import image_word, images_word, picture_name, word
from jaxcifar.visualize.plots import (
    Overlay,
    plot_activations,
    plot_confusion,
    plot_grad_cam,
    plot_images,
)
from jaxcifar.visualize.scoring import (
    confident_images,
    counted,
    describe_prediction,
    describe_scoring,
    score_split,
)

T = TypeVar("T", str, int)
# An early convolution, the first of the first block, and a later one of the same stage.
REPORT_LAYERS = ("conv1", "layer1.0.conv1", "layer1.1.conv2")
MAX_IMAGES = 100  # in one picture
# Defaults, which the names of pictures do not say.
CHANNELS, CAM_IMAGES, MISTAKES = 8, 10, 16


def draw_activations(
    run: str | Path | TrainedNetwork,
    layers: Sequence[str] = REPORT_LAYERS,
    image: str | int = "0",
    *,
    size: Size = None,
    channels: int = CHANNELS,
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Draw feature maps for one image: activations_IMAGE.png, or activations_IMAGE_size=64.png.

    Args:
        run: a run directory, or a network.
        layers: names that `activations.capture` knows, of layers whose output is feature maps.
        image: a class name (its first test image; names win over indices), the index of a test
            image (text or a number), or an image file.
        size: height and width, pixels, at which the network sees the image: scaled by its shorter
            side and cropped to the centre. By default the size of the training images; "own" for a
            file as it is.
        channels: how many maps of each layer to draw.
        which: the checkpoint of the run.
        out: the PNG to write.
        data_dir: where TFDS keeps its data.

    Raises:
        RecipeError: no such image or layer.
        ImageFileError: the image file cannot be used.
    """
    network = _network(run, which, data_dir)
    name = picture_name(
        "activations",
        image_word(image, network.dataset.class_names),
        layers=None if tuple(layers) == REPORT_LAYERS else word(" ".join(layers)),
        size=size,
        channels=_other(channels, CHANNELS),
    )
    path = _png(network, name, out, [image])
    if channels < 1:
        raise RecipeError(f"channels must be at least 1, not {channels}")
    loaded = load_image(network, image, size)
    maps, probabilities = _feature_maps(network, layers, loaded.inputs)
    input_size, size_shown = loaded.inputs.shape[1:3], loaded.pixels.shape[:2]
    at = "" if input_size == size_shown else f", seen at {input_size[0]}x{input_size[1]}"
    title = f"{loaded.name}{at}, {describe_prediction(network, probabilities)}; {network.name}"
    return save_figure(plot_activations(loaded.pixels, maps, title=title, channels=channels), path)


def _feature_maps(
    network: TrainedNetwork, layers: Sequence[str], inputs: jax.Array
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """The maps of one image by layer, and its class probabilities."""
    names = {layer: torchvision_name(network.model, layer) for layer in layers}
    shapes = list_layers(network.model, network.variables, inputs)
    flat = [layer for layer, name in names.items() if name in shapes and shapes[name].ndim != 4]
    if flat:
        raise RecipeError(
            f"the output of layer {flat[0]!r} is a vector, not feature maps; choose a layer before "
            "avgpool"
        )
    try:  # with the logits, so that one program computes both
        outputs = capture(network.model, network.variables, inputs, [*layers, "fc"])
    except ValueError as error:
        raise RecipeError(f"{error} (--list-layers prints them all)") from None
    maps = {
        layer if layer == name else f"{layer} ({name})": np.asarray(outputs[layer][0], np.float32)
        for layer, name in names.items()
    }
    probabilities = jax.nn.softmax(outputs["fc"].astype(jnp.float32))
    return maps, network.check_finite(probabilities)[0]


def draw_grad_cam(
    run: str | Path | TrainedNetwork,
    *,
    images: Sequence[str | int] | None = None,
    count: int = CAM_IMAGES,
    layer: str | None = None,
    target: str | None = None,
    size: Size = None,
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Draw where the network finds the class it predicts, by Grad-CAM: grad_cam.png.

    Args:
        run, which, out, data_dir: as in `draw_activations`.
        images: each as in `draw_activations`. By default they are not picked: they are the first
            `count` test images, by index, that are predicted correctly with a probability of at
            least 0.9 at `size`, or all of them if there are fewer.
        count: how many images, if `images` is not given.
        layer: a child of the network; by default the last stage with a map of at least 4x4.
        target: the class to explain instead of the predicted one.
        size: as in `draw_activations`.

    Raises:
        RecipeError: no such image, layer or class, or no test image is predicted like that.
        ImageFileError: an image file cannot be used.
    """
    network = _network(run, which, data_dir)
    name = picture_name(
        "grad_cam",
        image=images_word(images, network.dataset.class_names) if images else None,
        count=_other(count, CAM_IMAGES) if images is None else None,
        layer=None if layer is None else word(layer),
        target=None if target is None else word(target),
        size=size,
    )
    path = _png(network, name, out, images or ())
    _check_count(count)
    layer = _grad_cam_layer(network, layer)
    if target is not None and target not in network.class_names:
        raise RecipeError(f"unknown target {target!r}{did_you_mean(target, network.class_names)}")
    if images is None:
        images, choice = confident_images(network, count, None if size == "own" else size)
    else:
        choice = f"{counted(len(images), 'image')} chosen by hand"
    if not images:
        raise RecipeError("there are no images to explain")
    explained = [
        _explain(network, load_image(network, image, size), layer, target) for image in images
    ]
    layers = list(dict.fromkeys(used_layer for _, used_layer in explained))
    of = "the predicted class" if target is None else f"class {target}"
    title = f"Grad-CAM of {of} at {' and '.join(layers)}, {choice}; {network.name}"
    return save_figure(plot_grad_cam([overlay for overlay, _ in explained], title=title), path)


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
    probabilities = network.check_finite(class_probabilities(model, variables, image.inputs))[0]
    label = int(probabilities.argmax())
    caption = [image.name, describe_prediction(network, probabilities)]
    if target is not None:
        label = network.class_names.index(target)
        caption.append(f"map of {target} (p = {probabilities[label]:.3f})")
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
) -> Path:
    """Draw the wrongly predicted images with the highest probabilities: mistakes.png.

    Args:
        run, which, out, data_dir: as in `draw_activations`.
        count: how many images, at most.
        split: the images to predict.

    Raises:
        RecipeError: the network's classes are not the dataset's, or it makes no mistake.
    """
    network = _network(run, which, data_dir)
    name = picture_name("mistakes", count=_other(count, MISTAKES), split=_other(split, "test"))
    path = _png(network, name, out)
    _check_count(count)
    dataset, probabilities = score_split(network, split)
    predicted = probabilities.argmax(axis=1)
    wrong = int(np.sum(predicted != dataset.labels))
    if not wrong:
        raise RecipeError(f"{network.name} makes no mistake on the {split} images")
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
    return save_figure(plot_images(list(dataset.read(rows).images), captions, title=title), path)


def draw_confusion(
    run: str | Path | TrainedNetwork,
    *,
    split: SplitName = "test",
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Draw the confusion matrix and the accuracy of each class: confusion.png.

    Writes the numbers into a JSON file of the same name: split, examples, accuracy, class_names,
    confusion ([true][predicted] counts) and per_class_accuracy (null for a class without images).

    Args:
        run, which, out, data_dir: as in `draw_activations`.
        split: the images to predict.

    Raises:
        RecipeError: the network's classes are not the dataset's.
    """
    network = _network(run, which, data_dir)
    path = _png(network, picture_name("confusion", split=_other(split, "test")), out)
    counts = path.with_suffix(".json")
    if counts.exists() and "confusion" not in read_object(counts):
        raise RecipeError(
            f"{counts} exists and holds no confusion matrix: name another file with --out"
        )
    dataset, probabilities = score_split(network, split)
    names = network.class_names
    confusion = confusion_matrix(dataset.labels, probabilities.argmax(axis=1), len(names))
    accuracy = per_class_accuracy(confusion)
    correct = int(np.trace(confusion))
    title = (
        f"{split} accuracy {correct / len(dataset):.4f} ({correct:,} of {len(dataset):,} images); "
        f"{describe_scoring(network)}"
    )
    numbers = {
        "split": split,
        "dataset": network.dataset.name,
        "examples": len(dataset),
        "accuracy": correct / len(dataset),
        "class_names": list(names),
        "confusion": confusion.tolist(),
        "per_class_accuracy": [None if np.isnan(share) else share for share in accuracy.tolist()],
    }
    # The numbers first: where the picture is, both are.
    make_folder(path.parent)
    write_atomically(counts, json.dumps(numbers, indent=2) + "\n")
    return save_figure(plot_confusion(confusion, accuracy, names, title=title), path)


def describe_layers(
    run: str | Path | TrainedNetwork, *, size: int | None = None, which: Which = "best"
) -> str:
    """List the layers, one per line: name, output shape for one image, and Keras name if any.

    Args:
        run: a run directory, or a network.
        size: of the image, pixels per side; by default that of the network's test images.
        which: the checkpoint of the run.
    """
    network = _network(run, which, None)
    check_size(size)
    side = size or network.image_size
    image = jnp.zeros((1, side, side, 3), jnp.float32)
    shapes = list_layers(network.model, network.variables, image)
    keras = {torchvision_name(network.model, name): name for name in KERAS_NAMES}
    order = {child: position for position, child in enumerate(network.model.children)}
    lines = []
    for name in sorted(shapes, key=lambda name: (order[name.split(".")[0]], name)):
        shape = "x".join(map(str, shapes[name].shape[1:]))
        alias = f"  (Keras: {keras[name]})" if name in keras else ""
        lines.append(f"{name:24}{shape}{alias}")
    return join_lines(lines)


def _other(value: T, default: T) -> T | None:
    """A value for a picture's name, which does not say the default."""
    return None if value == default else value


def _network(
    run: str | Path | TrainedNetwork, which: Which, data_dir: str | Path | None
) -> TrainedNetwork:
    return run if isinstance(run, TrainedNetwork) else network_of_run(run, which, data_dir)


def _png(
    network: TrainedNetwork, name: str, out: str | Path | None, images: Sequence[str | int] = ()
) -> Path:
    """The file for the picture, which must not be one of the images to show."""
    if not out:
        refuse_links(network.figures)
    path = Path(out) if out else network.figures / f"{name}{network.file_suffix}.png"
    if path.suffix != ".png":
        raise RecipeError(f"the picture is a PNG file: --out must end in .png, not {path.name!r}")
    if path.is_dir():
        raise RecipeError(f"{path} is a directory: name a file with --out")
    # Not Path.resolve, which fails on a loop of links.
    if any(os.path.realpath(path) == os.path.realpath(str(image)) for image in images):
        raise RecipeError(f"{path} is an image to show: name another file with --out")
    return path


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_IMAGES:
        raise RecipeError(f"count must lie between 1 and {MAX_IMAGES}, not {count}")
