"""A trained network to look into, of a run or of a file of weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.data import Dataset, DatasetInfo, Rows, Splits, dataset_info, load_dataset
from jaxcifar.models.pretrained import Preprocessing, fill_model, model_of
from jaxcifar.models.resnet import ARCHITECTURES, ResNet
from jaxcifar.models.weights import read_weights
from jaxcifar.recipes.recipe import load_splits
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from jaxcifar.step.augment import NORMALIZATIONS, make_normalize, resize, unit_range
from jaxcifar.step.steps import Normalize
from jaxcifar.training.evaluation import SplitName


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its weights and all that it takes to show it an image.

    Attributes:
        name: what it is, for titles.
        model, variables: ``{"params", "batch_stats"}``, for evaluation mode.
        class_names: of its outputs; their numbers where they have no names.
        dataset: whose test images it is shown.
        image_size: height and width at which it sees them, pixels.
        preprocess: uint8 images of the dataset to what it sees, resized and normalised.
        normalize: uint8 images of any size to what it sees at that size.
        batch_size: of images, in evaluation.
        mirror: a split is scored by the mean logits of image and mirror image.
        figures: where its pictures go.
        tag: ends their names, so that those of another checkpoint do not take their place.
        trained_on: fingerprint of the data whose splits it knows; None where that is not known.
        load: the dataset, lazily; looked for when an image of it is first needed.
    """

    name: str
    model: ResNet
    variables: Mapping[str, Any]
    class_names: tuple[str, ...]
    dataset: DatasetInfo
    image_size: int
    preprocess: Normalize
    normalize: Normalize
    batch_size: int
    mirror: bool
    figures: Path
    tag: str
    trained_on: str | None
    load: Callable[[], Splits]

    def split(self, name: SplitName) -> Dataset | Rows:
        """A split of the dataset.

        Raises:
            RunError: it is not the test split, and which images it had is not known.
            DataError: the data cannot be had.
        """
        splits = self.load()
        if name != "test" and splits.fingerprint != self.trained_on:
            raise RunError(
                f"{self.name}: the data it was trained on cannot be told apart into splits here, "
                "so use --split test"
            )
        return getattr(splits, name)


def run_subject(
    run: str | Path, which: Which = "best", data_dir: str | Path | None = None
) -> Subject:
    """The network of a run's checkpoint.

    Raises:
        RunError, RecipeError, CheckpointError: what of the run cannot be used, and why.
    """
    files = RunDirectory(Path(run))
    trained_on = files.read_config().get("data_fingerprint")
    recipe, model, variables = restore_run(run, which)
    info = recipe.dataset_info
    checkpoint = f"step {which}" if isinstance(which, int) else f"{which} checkpoint"
    return Subject(
        name=f"run {files.path.resolve().name}, {checkpoint}",
        model=model,
        variables=variables,
        class_names=info.class_names,
        dataset=info,
        image_size=recipe.image_size,
        preprocess=recipe.make_preprocess(),
        normalize=make_normalize(recipe.normalization),
        batch_size=recipe.eval_batch_size,
        mirror=recipe.test_mirror,
        figures=files.figures,
        tag="" if which == "best" else f"_{which}",
        trained_on=trained_on,
        load=cache(lambda: load_splits(recipe, data_dir, lazy=True)),
    )


def weights_subject(
    weights: str | Path,
    *,
    architecture: str = "resnet18",
    normalization: str | None = None,
    dataset: str = "cifar10",
    data_dir: str | Path | None = None,
) -> Subject:
    """The network of a file of weights; stem, width, head and classes are the file's.

    Args:
        weights: a `.safetensors` or `.pth` file, or "owner/name" on the Hugging Face hub.
        architecture: one of `resnet.ARCHITECTURES`.
        normalization: one of `augment.NORMALIZATIONS`, for a file that does not say on which mean
            and standard deviation it was trained.
        dataset: its test images are shown, at the size that the file says it was trained on, else
            at their own. If it has as many classes as the file's head they are taken to be the
            same; otherwise the head's have numbers.
        data_dir: where TFDS data lies.

    Raises:
        WeightsError: the file cannot be read or does not fit the architecture.
        RecipeError: an architecture or normalization that is unknown, missing or not the file's.
        DataError: unknown dataset.
    """
    for name, value, known in (
        ("architecture", architecture, ARCHITECTURES),
        ("normalization", normalization, NORMALIZATIONS),
    ):
        if value is not None and value not in known:
            raise RecipeError(f"unknown {name} {value!r}{did_you_mean(value, known)}")
    info = dataset_info(dataset, data_dir=data_dir)
    file = read_weights(weights)
    stated = Preprocessing.from_metadata(file.metadata, file.source)
    normalize = _normalize_of(str(weights), stated, normalization)
    model = model_of(file.tensors, architecture)
    variables, _ = fill_model(model, file.tensors, source=file.source, sha256=file.sha256)
    named = model.num_classes == info.num_classes
    side = info.side if stated is None or stated.size is None else stated.size
    if side is None:
        raise RecipeError(
            f"{weights} does not say the size it was trained at, and the images of {dataset} are "
            "of several sizes"
        )

    def preprocess(images: jax.Array) -> jax.Array:
        resized = images if images.shape[1:3] == (side, side) else resize(images, side)
        return normalize(resized)

    return Subject(
        name=f"weights {Path(weights).name}",
        model=model,
        variables=variables,
        class_names=info.class_names if named else tuple(map(str, range(model.num_classes))),
        dataset=info,
        image_size=side,
        preprocess=preprocess,
        normalize=normalize,
        batch_size=batch_of(side),
        mirror=False,
        figures=Path("figures") / Path(weights).stem,
        tag="",
        trained_on=None,
        load=cache(lambda: load_dataset(dataset, data_dir=data_dir, side=side, lazy=True)),
    )


def batch_of(side: int) -> int:
    """How many images of `side` pixels to evaluate at once: as much memory as 500 of 64x64 take."""
    return max(1, min(500, 500 * 64**2 // side**2))


def _normalize_of(source: str, stated: Preprocessing | None, name: str | None) -> Normalize:
    """What the file says, or the option, which must not say otherwise."""
    if stated is None:
        if name is None:
            raise RecipeError(
                f"{source} does not say on which mean and standard deviation it was trained: give "
                f"--normalization {', '.join(NORMALIZATIONS)} (torchvision's weights: imagenet)"
            )
        return make_normalize(name)
    mean, std = stated.mean, stated.std
    if name is not None and not np.allclose((mean, std), NORMALIZATIONS[name], atol=5e-4):
        raise RecipeError(
            f"normalization {name}: {source} was trained on mean {mean}, std {std}; leave "
            "--normalization out"
        )

    def normalize(images: jax.Array) -> jax.Array:
        return (unit_range(images) - jnp.asarray(mean)) / jnp.asarray(std)

    return normalize
