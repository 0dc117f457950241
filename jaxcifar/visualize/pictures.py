"""Pictures of a trained network at work. Each is written as a PNG, whose path is returned.

All take a run's directory or a `Subject` (`subject.weights_subject` makes one of a file of
weights), and write into the run's figures unless `out` says otherwise; of another checkpoint than
the best under names that end in it. What is asked for is checked before anything is compiled.

Raised besides what each says: RunError, CheckpointError, DataError for what of the run or its data
cannot be used, RecipeError for anything asked for that cannot be.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.figure import save_figure
from jaxcifar.common.files import write_atomically
from jaxcifar.common.messages import did_you_mean
from jaxcifar.data import Dataset, Rows
from jaxcifar.data.image_file import make_square
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.directory import read_object
from jaxcifar.training.evaluation import SplitName
from jaxcifar.visualize.activations import KERAS_NAMES, capture, list_layers, torchvision_name
from jaxcifar.visualize.gradcam import default_layer, grad_cam, map_children, upsample
from jaxcifar.visualize.images import _check_size, _see, _View
from jaxcifar.visualize.network import Subject, batch_of, run_subject
from jaxcifar.visualize.plots import (
    Overlay,
    plot_activations,
    plot_confusion,
    plot_grad_cam,
    plot_images,
)
from jaxcifar.visualize.predictions import (
    class_probabilities,
    confusion_matrix,
    most_confident_mistakes,
    per_class_accuracy,
    predict,
)

# An early convolution, the first of the first block, and a later one of the same stage.
REPORT_LAYERS = ("conv1", "layer1.0.conv1", "layer1.1.conv2")
MOST_IMAGES = 100  # in one picture
CONFIDENT = 0.9


def draw_activations(
    run: str | Path | Subject,
    layers: Sequence[str] = REPORT_LAYERS,
    image: str | int = "0",
    *,
    size: int | None = None,
    channels: int = 8,
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Feature maps of `layers` for one image: activations_IMAGE.png, or activations_IMAGE_SIZE.png.

    Args:
        layers: names as `activations.capture` knows them, of layers that put out maps.
        image: a class name (its first test image; names win over indices), the index of a test
            image (as text or a number), or an image file.
        size: show the image at this height and width: its central square, resized bilinearly.
            Without it a file is shown at its own size, a test image at the one trained on.
        channels: how many maps of each layer to draw.

    Raises:
        RecipeError: no such image or layer.
        ImageFileError: the image file cannot be used.
    """
    subject = _subject(run, which, data_dir)
    suffix = "" if size is None else f"_{size}"
    path = _png(subject, f"activations_{Path(str(image)).name}{suffix}", out, [image])
    if channels < 1:
        raise RecipeError(f"channels must be at least 1, not {channels}")
    view = _see(subject, image, size)
    names = {layer: torchvision_name(subject.model, layer) for layer in layers}
    shapes = list_layers(subject.model, subject.variables, view.inputs)
    flat = [layer for layer, name in names.items() if name in shapes and shapes[name].ndim != 4]
    if flat:
        raise RecipeError(f"layer {flat[0]!r} puts out a vector, not maps: nothing to draw")
    try:  # with the logits, so that one program gives both
        outputs = capture(subject.model, subject.variables, view.inputs, [*layers, "fc"])
    except ValueError as error:
        raise RecipeError(f"{error} (--list-layers prints them all)") from None
    maps = {
        layer if layer == name else f"{layer} ({name})": np.asarray(outputs[layer][0], np.float32)
        for layer, name in names.items()
    }
    probabilities = _finite(subject, jax.nn.softmax(outputs["fc"].astype(jnp.float32)))[0]
    seen, shown = view.inputs.shape[1:3], view.pixels.shape[:2]
    at = "" if seen == shown else f", seen at {seen[0]}x{seen[1]}"
    title = f"{view.name}{at}, {_prediction(subject, probabilities)}; {subject.name}"
    return save_figure(plot_activations(view.pixels, maps, title=title, channels=channels), path)


def draw_grad_cam(
    run: str | Path | Subject,
    *,
    images: Sequence[str | int] | None = None,
    count: int = 10,
    layer: str | None = None,
    target: str | None = None,
    size: int | None = None,
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Where the network finds the class it predicts, by Grad-CAM: grad_cam.png.

    Args:
        images: each as in `draw_activations`. Without them nothing is picked: they are the first
            `count` test images, in the order of their indices, that are predicted correctly with a
            probability of at least 0.9 at `size`, or as many as there are.
        layer: a child of the network; without it the last stage with a map of at least 4x4.
        target: the class to explain in place of the predicted one.
        size: as in `draw_activations`.

    Raises:
        RecipeError: no such image, layer or class, or no test image is predicted like that.
        ImageFileError: an image file cannot be used.
    """
    subject = _subject(run, which, data_dir)
    path = _png(subject, "grad_cam", out, images or ())
    _check_count(count)
    layer = _grad_cam_layer(subject, layer)
    if target is not None and target not in subject.class_names:
        raise RecipeError(f"unknown target {target!r}{did_you_mean(target, subject.class_names)}")
    if images is None:
        images, choice = _confident_images(subject, count, size)
    else:
        choice = f"{_number(len(images), 'image')} as named"
    if not images:
        raise RecipeError("no images to explain")
    found = [_explain(subject, _see(subject, image, size), layer, target) for image in images]
    layers = list(dict.fromkeys(explained for _, explained in found))
    of = "the predicted class" if target is None else f"class {target}"
    title = f"Grad-CAM of {of} at {' and '.join(layers)}, {choice}; {subject.name}"
    return save_figure(plot_grad_cam([overlay for overlay, _ in found], title=title), path)


def draw_mistakes(
    run: str | Path | Subject,
    *,
    count: int = 16,
    split: SplitName = "test",
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """The wrongly predicted images that the network is surest of: mistakes.png.

    Raises:
        RecipeError: the network's classes are not the dataset's, or it makes no mistake.
    """
    subject = _subject(run, which, data_dir)
    path = _png(subject, "mistakes", out)
    _check_count(count)
    dataset, probabilities = _score(subject, split)
    predicted = probabilities.argmax(axis=1)
    wrong = int(np.sum(predicted != dataset.labels))
    if not wrong:
        raise RecipeError(f"{subject.name} makes no mistake on the {split} images")
    rows = most_confident_mistakes(probabilities, dataset.labels, count)
    captions = [
        (
            f"{split} image {row}: {subject.class_names[dataset.labels[row]]}",
            _prediction(subject, probabilities[row]),
        )
        for row in rows
    ]
    title = (
        f"The {_number(len(rows), 'most confident mistake')} among {wrong:,} on {len(dataset):,} "
        f"{split} images; {_scored_by(subject)}"
    )
    return save_figure(plot_images(list(dataset.read(rows).images), captions, title=title), path)


def draw_confusion(
    run: str | Path | Subject,
    *,
    split: SplitName = "test",
    which: Which = "best",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Which classes are taken for which, and the accuracy of each: confusion.png.

    Beside it, in a JSON file of the same name: split, examples, accuracy, class_names, confusion
    ([true][predicted] counts) and per_class_accuracy (null for a class without images).

    Raises:
        RecipeError: the network's classes are not the dataset's.
    """
    subject = _subject(run, which, data_dir)
    path = _png(subject, "confusion", out)
    counts = path.with_suffix(".json")
    if counts.exists() and "confusion" not in read_object(counts):
        raise RecipeError(f"{counts} holds something else: name another file by --out")
    dataset, probabilities = _score(subject, split)
    names = subject.class_names
    confusion = confusion_matrix(dataset.labels, probabilities.argmax(axis=1), len(names))
    accuracy = per_class_accuracy(confusion)
    right = int(np.trace(confusion))
    title = (
        f"{split} accuracy {right / len(dataset):.4f} ({right:,} of {len(dataset):,} images); "
        f"{_scored_by(subject)}"
    )
    save_figure(plot_confusion(confusion, accuracy, names, title=title), path)
    numbers = {
        "split": split,
        "examples": len(dataset),
        "accuracy": right / len(dataset),
        "class_names": list(names),
        "confusion": confusion.tolist(),
        "per_class_accuracy": [None if np.isnan(share) else share for share in accuracy.tolist()],
    }
    write_atomically(counts, json.dumps(numbers, indent=2) + "\n")
    return path


def describe_layers(
    run: str | Path | Subject, *, size: int | None = None, which: Which = "best"
) -> str:
    """A line for every layer: its name, the shape it puts out for an image, its Keras name if any.

    Args:
        size: of the image, pixels a side; without it as the network's test images have.
    """
    subject = _subject(run, which, None)
    _check_size(size)
    side = size or subject.image_size
    image = jnp.zeros((1, side, side, 3), jnp.float32)
    shapes = list_layers(subject.model, subject.variables, image)
    keras = {torchvision_name(subject.model, name): name for name in KERAS_NAMES}
    order = {child: place for place, child in enumerate(subject.model.children)}
    lines = []
    for name in sorted(shapes, key=lambda name: (order[name.split(".")[0]], name)):
        shape = "x".join(map(str, shapes[name].shape[1:]))
        alias = f"  (Keras: {keras[name]})" if name in keras else ""
        lines.append(f"{name:24}{shape}{alias}")
    return "\n".join(lines)


def _explain(
    subject: Subject, view: _View, layer: str | None, target: str | None
) -> tuple[Overlay, str]:
    """The Grad-CAM of one image, and the layer and size of its map."""
    model, variables = subject.model, subject.variables
    if layer is None:
        try:
            layer = default_layer(model, min(view.inputs.shape[1:3]))
        except ValueError as error:
            raise RecipeError(str(error)) from None
    probabilities = _finite(subject, class_probabilities(model, variables, view.inputs))[0]
    explained = int(probabilities.argmax())
    caption = [view.name, _prediction(subject, probabilities)]
    if target is not None:
        explained = subject.class_names.index(target)
        caption.append(f"map of {target} (p = {probabilities[explained]:.3f})")
    maps = grad_cam(model, variables, view.inputs, jnp.array([explained]), layer)
    if not maps.any():
        caption.append("nothing speaks for it: map 0")
    heat = np.asarray(upsample(maps, *view.pixels.shape[:2]))[0]
    at = f"{layer} ({maps.shape[1]}x{maps.shape[2]})"
    return Overlay(view.pixels, heat, tuple(caption)), at


def _grad_cam_layer(subject: Subject, layer: str | None) -> str | None:
    if layer is None:
        return None
    name, children = torchvision_name(subject.model, layer), map_children(subject.model)
    if name not in children:
        raise RecipeError(
            f"Grad-CAM is of a child of the network that has a map, not {layer!r}"
            f"{did_you_mean(name, children)}"
        )
    return name


def _confident_images(subject: Subject, count: int, size: int | None) -> tuple[list[int], str]:
    """The test images that Grad-CAM shows unasked, and the words that say how they were chosen."""
    _check_classes(subject)
    _check_size(size)
    test = subject.split("test")
    batch_size = subject.batch_size
    if size is not None:
        batch_size = min(batch_size, batch_of(size))
    found: list[int] = []
    for first in range(0, len(test), batch_size):  # no further than need be
        rows = np.arange(first, min(first + batch_size, len(test)))
        probabilities = _predict(subject, test.read(rows), size)
        confident = probabilities[np.arange(len(rows)), test.labels[rows]] >= CONFIDENT
        found += rows[confident].tolist()
        if len(found) >= count:
            break
    so = f"predicted correctly with a probability of at least {CONFIDENT}"
    if not found:
        raise RecipeError(f"{subject.name}: no test image is {so}; name the images to explain")
    if len(found) < count:
        choice = f"{_number(len(found), 'test image')}, all that are {so} ({count} were asked for)"
    else:
        choice = (
            f"the first {_number(count, 'test image')} in the order of their index that are {so}"
        )
    return found[:count], choice


def _score(subject: Subject, split: SplitName) -> tuple[Dataset | Rows, NDArray[np.float32]]:
    """A split, and the probabilities by which `evaluate_run` would score its images."""
    _check_classes(subject)
    dataset = subject.split(split)
    return dataset, _predict(subject, dataset, None, mirror=subject.mirror)


def _scored_by(subject: Subject) -> str:
    return f"{subject.name}, mean with the mirror image" if subject.mirror else subject.name


def _predict(
    subject: Subject, dataset: Dataset | Rows, size: int | None, *, mirror: bool = False
) -> NDArray[np.float32]:
    normalize = subject.preprocess
    if size is not None:
        normalize = subject.normalize
        resized = np.stack([make_square(image, size) for image in dataset.load().images])
        dataset = Dataset(resized, dataset.labels)
    return _finite(
        subject,
        predict(
            subject.model,
            subject.variables,
            dataset,
            normalize=normalize,
            batch_size=subject.batch_size,
            mirror=mirror,
        ),
    )


def _finite(subject: Subject, probabilities: ArrayLike) -> NDArray[np.float32]:
    """Of NaNs the first would be the predicted class, and its map empty."""
    values = np.asarray(probabilities)
    if not np.isfinite(values).all():
        raise RecipeError(f"{subject.name}: what the network puts out is not finite")
    return values


def _prediction(subject: Subject, probabilities: NDArray[np.float32]) -> str:
    said = int(probabilities.argmax())
    return f"predicted {subject.class_names[said]} (p = {probabilities[said]:.3f})"


def _subject(run: str | Path | Subject, which: Which, data_dir: str | Path | None) -> Subject:
    return run if isinstance(run, Subject) else run_subject(run, which, data_dir)


def _png(
    subject: Subject, name: str, out: str | Path | None, images: Sequence[str | int] = ()
) -> Path:
    """Where the picture goes; an image that is to be shown must not be replaced by it."""
    path = Path(out) if out else subject.figures / f"{name}{subject.tag}.png"
    if path.suffix != ".png":
        raise RecipeError(f"the picture is a PNG file: let --out end in .png, not {path.name!r}")
    if path.is_dir():
        raise RecipeError(f"{path} is a directory: name a file by --out")
    # Not Path.resolve, which fails on a loop of links.
    if any(os.path.realpath(path) == os.path.realpath(str(image)) for image in images):
        raise RecipeError(f"{path} is the image to be shown: name another file by --out")
    return path


def _check_count(count: int) -> None:
    if not 1 <= count <= MOST_IMAGES:
        raise RecipeError(f"count must lie between 1 and {MOST_IMAGES}, not {count}")


def _check_classes(subject: Subject) -> None:
    if subject.class_names != subject.dataset.class_names:
        raise RecipeError(
            f"{subject.name} has {len(subject.class_names)} classes, not those of "
            f"{subject.dataset.name}: what it says cannot be counted as right or wrong"
        )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
