"""A trained network to look inside: that of a run's checkpoint, or of a file of weights."""

from collections.abc import Callable, Iterable, Mapping
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
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import fill_model, model_of
from jaxcifar.models.resnet import ARCHITECTURES, ResNet
from jaxcifar.models.weights import read_weights
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from jaxcifar.step.augment import NORMALIZATIONS, make_normalize, resize, unit_range
from jaxcifar.step.steps import Normalize
from jaxcifar.training.evaluation import SplitName


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A model with its weights, and everything needed to show it an image.

    Attributes:
        name: what it is, for titles.
        model: applied in evaluation mode.
        variables: ``{"params", "batch_stats"}``.
        class_names: of its outputs; numbers if the classes have no known names.
        dataset: the dataset whose images it is shown.
        image_size: height and width of those images when it sees them, pixels.
        preprocess: uint8 images of the dataset -> resized and normalised.
        normalize: uint8 images of any size -> normalised, at that size.
        batch_size: images per batch, for evaluation.
        mirror: whether a split is scored by the mean logits of each image and its mirror image.
        figures: where its pictures go.
        file_suffix: the end of their names; each checkpoint but the best has its own.
        data_fingerprint: of the data it was trained on; None if unknown.
        load: loads the dataset, lazily and once.
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
    file_suffix: str
    data_fingerprint: str | None
    load: Callable[[], Splits]

    def split(self, name: SplitName) -> Dataset | Rows:
        """A split of the dataset.

        Raises:
            RunError: it is not the test split, and the training data is unknown or different.
            DataError: the data is not available.
        """
        splits = self.load()
        if name != "test" and splits.fingerprint != self.data_fingerprint:
            raise RunError(
                f"{self.name}: this is not known to be the data it was trained on, so there is no "
                f"{name} split; use --split test"
            )
        return getattr(splits, name)


def network_of_run(
    run: str | Path, which: Which = "best", data_dir: str | Path | None = None
) -> TrainedNetwork:
    """The network of a run's checkpoint.

    Args:
        run: the run directory.
        which: the checkpoint: "best", "last" or a step.
        data_dir: where TFDS keeps its data.

    Raises:
        RunError, RecipeError, CheckpointError: naming the part of the run that cannot be used, and
            why.
    """
    run_dir = RunDirectory(Path(run))
    fingerprint = run_dir.read_config().get("data_fingerprint")
    recipe, model, variables = restore_run(run, which)
    info = recipe.dataset_info
    checkpoint = f"step {which}" if isinstance(which, int) else f"{which} checkpoint"
    return TrainedNetwork(
        name=f"run {run_dir.path.resolve().name}, {checkpoint}",
        model=model,
        variables=variables,
        class_names=info.class_names,
        dataset=info,
        image_size=recipe.image_size,
        preprocess=recipe.make_preprocess(),
        normalize=make_normalize(recipe.normalization),
        batch_size=recipe.eval_batch_size,
        mirror=recipe.test_mirror,
        figures=run_dir.figures,
        file_suffix="" if which == "best" else f"_{which}",
        data_fingerprint=fingerprint,
        load=cache(lambda: load_splits(recipe, data_dir, lazy=True)),
    )


def network_of_weights(
    weights: str | Path,
    *,
    architecture: str = "resnet18",
    normalization: str | None = None,
    dataset: str = "cifar10",
    data_dir: str | Path | None = None,
) -> TrainedNetwork:
    """The network in a file of weights, which decides its stem, width, head and classes.

    Args:
        weights: a `.safetensors` or `.pth` file, or "owner/name" on the Hugging Face hub.
        architecture: one of `resnet.ARCHITECTURES`.
        normalization: one of `augment.NORMALIZATIONS`, for a file that does not state the mean and
            standard deviation it was trained with.
        dataset: its test images are shown, at the size stated in the file, or else at their own. If
            it has as many classes as the file's head, the head gets its class names; otherwise
            the classes are numbered.
        data_dir: where TFDS keeps its data.

    Raises:
        WeightsError: the file cannot be read or does not fit the architecture.
        RecipeError: the architecture or normalization is unknown, missing or not the file's.
        DataError: unknown dataset.
    """
    _check_known("architecture", architecture, ARCHITECTURES)
    _check_known("normalization", normalization, NORMALIZATIONS)
    info = dataset_info(dataset, data_dir=data_dir)
    file = read_weights(weights)
    stated = Preprocessing.from_metadata(file.metadata, file.source)
    normalize = _normalize_of(str(weights), stated, normalization)
    model = model_of(file.tensors, architecture)
    variables, _ = fill_model(model, file.tensors, source=file.source, sha256=file.sha256)
    same_classes = model.num_classes == info.num_classes
    side = info.side if stated is None or stated.size is None else stated.size
    if side is None:
        raise RecipeError(
            f"{weights} does not say the size it was trained at, and the images of {dataset} are "
            "of several sizes; name a dataset whose images have one size"
        )
    return TrainedNetwork(
        name=f"weights {Path(weights).name}",
        model=model,
        variables=variables,
        class_names=info.class_names if same_classes else _numbered(model.num_classes),
        dataset=info,
        image_size=side,
        preprocess=_resized(normalize, side),
        normalize=normalize,
        batch_size=evaluation_batch_size(side),
        mirror=False,
        figures=Path("figures") / Path(weights).stem,
        file_suffix="",
        data_fingerprint=None,
        load=cache(lambda: load_dataset(dataset, data_dir=data_dir, side=side, lazy=True)),
    )


def evaluation_batch_size(side: int) -> int:
    """How many images of `side` pixels take as much memory as 500 of 64x64."""
    return max(1, min(500, 500 * 64**2 // side**2))


def _check_known(name: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in known:
        raise RecipeError(f"unknown {name} {value!r}{did_you_mean(value, known)}")


def _numbered(num_classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(num_classes)))


def _resized(normalize: Normalize, side: int) -> Normalize:
    def preprocess(images: jax.Array) -> jax.Array:
        resized = images if images.shape[1:3] == (side, side) else resize(images, side)
        return normalize(resized)

    return preprocess


def _normalize_of(source: str, stated: Preprocessing | None, name: str | None) -> Normalize:
    """The normalization stated in the file, or else the option; they must not contradict."""
    if stated is None:
        if name is None:
            raise RecipeError(
                f"{source} does not say which mean and standard deviation it was trained with: "
                f"give --normalization {', '.join(NORMALIZATIONS)} (torchvision's weights: "
                "imagenet)"
            )
        return make_normalize(name)
    mean, std = stated.mean, stated.std
    if name is not None and not np.allclose((mean, std), NORMALIZATIONS[name], atol=5e-4):
        raise RecipeError(
            f"normalization {name}: {source} was trained with mean {mean}, std {std}; leave out "
            "--normalization"
        )

    def normalize(images: jax.Array) -> jax.Array:
        return (unit_range(images) - jnp.asarray(mean)) / jnp.asarray(std)

    return normalize
