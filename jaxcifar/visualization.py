"""Pictures of a run's network at work."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.activations import capture
from jaxcifar.data import Splits
from jaxcifar.evaluation import restore_run
from jaxcifar.plots import plot_activations, save_figure
from jaxcifar.recipe import RecipeError, load_splits
from jaxcifar.suggest import did_you_mean

# An early convolution, the first of the first block, and a later one of the same stage.
REPORT_LAYERS = ("conv1", "layer1.0.conv1", "layer1.1.conv2")


def draw_activations(
    run: str | Path,
    layers: Sequence[str],
    image: str,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """Draw feature maps of `layers` for one test image, with the run's best weights.

    Args:
        image: a class name (its first test image; names win over indices) or an index.
        out: the PNG to write; by default in the run's figures.

    Raises:
        RecipeError: no such image or layer.
        RunError, CheckpointError, DataError: what of the run or its data cannot be used.
    """
    path = Path(out) if out else Path(run) / "figures" / f"activations_{image}.png"
    if path.suffix != ".png":
        raise RecipeError(f"the picture is a PNG file: let --out end in .png, not {path.name!r}")
    recipe, model, variables = restore_run(run)
    splits = load_splits(recipe, data_dir)
    index = find_test_image(splits, image)
    pixels = np.asarray(splits.test.images[index])
    inputs = recipe.make_preprocess()(jnp.asarray(pixels)[None])
    try:
        outputs = capture(model, variables, inputs, layers)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    maps = {name: np.asarray(value[0], np.float32) for name, value in outputs.items()}
    flat = [name for name, value in maps.items() if value.ndim != 3]
    if flat:
        raise RecipeError(f"layer {flat[0]!r} puts out a vector, not maps: nothing to draw")
    logits = model.apply(variables, inputs, train=False)
    said = int(jnp.argmax(logits[0]))
    share = float(jax.nn.softmax(logits[0])[said])
    title = (
        f"test image {index}, class {splits.class_names[splits.test.labels[index]]}, "
        f"taken for {splits.class_names[said]} (probability {share:.3f})"
    )
    return save_figure(plot_activations(pixels, maps, title=title), path)


def find_test_image(splits: Splits, image: str) -> int:
    """The index of the first test image of a class, or the index itself.

    Raises:
        RecipeError: neither a class nor an index of the test split.
    """
    if image in splits.class_names:
        return int(np.flatnonzero(splits.test.labels == splits.class_names.index(image))[0])
    if not image.isdecimal():
        raise RecipeError(f"unknown class {image!r}{did_you_mean(image, splits.class_names)}")
    if int(image) >= len(splits.test):
        raise RecipeError(f"test image {image} does not exist: there are {len(splits.test):,}")
    return int(image)
