"""A trained network that knows its classes and what to do with a photo: `jaxcifar.load`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.common.summaries import shortened
from jaxcifar.data import DatasetInfo, LabelledSource
from jaxcifar.inference.activations import capture
from jaxcifar.inference.batches import in_batches
from jaxcifar.inference.gradcam import built_in, default_layer, grad_cam, upsample
from jaxcifar.inference.photos import Photo, Photos, collect
from jaxcifar.inference.predictions import class_logits, map_source
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import export_weights
from jaxcifar.runs.description import ScoringSettings
from jaxcifar.step.augment import resize, unit_range
from jaxcifar.step.precision import Precision, computed_at
from jaxcifar.training.evaluation import SplitName

# Sides of an image, pixels: below 8 no map is left, and 1024 need a gigabyte of activations.
MIN_SIDE, MAX_SIDE = 8, 1024
OnUnreadable = Callable[[str, Exception], None]


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        image: the file, or "image 3" for an image in memory before which there are three others.
        class_name: the most probable class.
        probability: of that class.
        top: the most probable classes with their probabilities, the first one included.

    Example:
        >>> from jaxcifar import Prediction
        >>> Prediction("photo.jpg", "cat", 0.9, (("cat", 0.9), ("dog", 0.1))).top[1]
        ('dog', 0.1)
    """

    image: str
    class_name: str
    probability: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A model with its weights, its classes and its preprocessing. `jaxcifar.load` makes one.

    Images are what `photos.collect` takes: paths, folders, PIL images, uint8 arrays [h, w, 3] or
    [n, h, w, 3], or a sequence of these. They become the network's input as the run's own images
    did: scaled by their shorter side to `image_size`, cropped to the centre, normalised. They are
    read and computed in batches; all calls with the same image size share one or two programs.

    Attributes:
        name: what it is, for titles.
        model: applied in evaluation mode.
        variables: ``{"params", "batch_stats"}``.
        class_names: of its outputs, in order; numbers if the classes have no known names.
        preprocessing: mean, standard deviation and size of its input.
        batch_size: images per batch.
        mirror: whether it is scored by the mean logits of each image and its mirror image.
        metadata: what `save` records besides the preprocessing.
        dataset: the dataset whose images it is shown, which need not be there.
        split: loads a split of the dataset, lazily and once; its labels are those of the network's
            classes, where they are the same classes.
        figures: where its pictures go.
        file_suffix: the end of their names; each checkpoint but the best has its own.
        shift: it is scored by the mean over images shifted by so many pixels, too, see
            `make_eval_step`; 0 for none.
        precision: of its float32 products and convolutions, see `precision.computed_at`.

    Example:
        `load` has one that makes a network.

        >>> import numpy as np
        >>> from jaxcifar import TrainedNetwork
        >>> def most_probable(network: TrainedNetwork, image: np.ndarray) -> str:
        ...     return network.predict(image)[0].class_name
    """

    name: str
    model: nn.Module
    variables: Mapping[str, Any]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    batch_size: int
    mirror: bool
    metadata: Mapping[str, str]
    dataset: DatasetInfo
    split: Callable[[SplitName], LabelledSource]
    figures: Path
    file_suffix: str
    shift: int = 0
    precision: Precision = "default"

    def __repr__(self) -> str:
        """One line, not the weights."""
        classes, side = len(self.class_names), self.image_size
        name = shortened(self.name, 60)
        return f"<TrainedNetwork {name}: {classes} classes, {side}x{side} pixels>"

    @property
    def image_size(self) -> int:
        """Height and width of its input, pixels."""
        assert self.preprocessing.size is not None
        return self.preprocessing.size

    def normalize(self, images: jax.Array) -> jax.Array:
        """uint8 images [n, h, w, 3] -> float32, normalised, at the same size."""
        return _normalized(replace(self.preprocessing, size=None), jnp.asarray(images))

    def preprocess(self, images: jax.Array | NDArray[np.uint8]) -> jax.Array:
        """uint8 images [n, h, w, 3] -> its input, float32 [n, image_size, image_size, 3].

        Of images that are not square, the centre is taken.
        """
        return _normalized(self.preprocessing, jnp.asarray(images))

    def predict(
        self,
        images: Photos,
        *,
        top: int = 5,
        follow_links: bool = False,
        on_unreadable: OnUnreadable | None = None,
        progress: bool = False,
    ) -> list[Prediction]:
        """The classes of images and their probabilities.

        Args:
            images: see above.
            top: how many classes to give for each, at most.
            follow_links: follow links in folders.
            on_unreadable: called with the name of a file that cannot be read, and why; the file is
                left out of the result. Without it such files are an error.
            progress: draw a bar, on a terminal.

        Raises:
            ImageFileError: files cannot be read; all of them are named.
            DataError: the images are something else.
            RecipeError: the network's output is not finite.
        """
        if top < 1:
            raise RecipeError(f"top must be at least 1, not {top}")
        photos = collect(images, follow_links=follow_links)
        rows, logits = self._apply(photos, self._logits, on_unreadable, progress)
        probabilities = softmax(self.check_finite(logits))
        count = min(top, len(self.class_names))
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
        found = []
        for row, labels, shares in zip(rows, order, probabilities, strict=True):
            best = tuple((self.class_names[label], float(shares[label])) for label in labels)
            found.append(Prediction(photos[row].name, *best[0], best))
        return found

    def logits(self, images: Photos) -> NDArray[np.float32]:
        """Its outputs [n, classes], float32; see `predict` for the images and the errors."""
        return self._apply(collect(images), self._logits)[1]

    def features(
        self, images: Photos, layer: str = "avgpool", *, progress: bool = False
    ) -> NDArray[np.float32]:
        """The output of a layer: float32 [n, features], or [n, h, w, channels] before "avgpool".

        Args:
            images: see above.
            layer: a name that `capture` knows.
            progress: draw a bar, on a terminal.

        Raises:
            ValueError: an unknown layer; the message has the nearest names.
            ImageFileError, DataError: as `predict`.
        """
        return self._apply(collect(images), partial(self._features, layer), None, progress)[1]

    def split_features(
        self, split: SplitName = "test", layer: str = "avgpool", *, progress: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The output of a layer for the images of a split of its data, and their labels.

        Raises:
            ValueError: an unknown layer.
            RunError, DataError: the split cannot be loaded.
        """
        source = self.split(split)
        features = map_source(
            lambda images: self._features(layer, self.preprocess(images)),
            source,
            batch_size=min(self.batch_size, evaluation_batch_size(self.image_size)),
            progress=progress,
        )
        return features, source.labels

    def grad_cam(
        self, images: Photos, target: str | int | None = None, *, layer: str | None = None
    ) -> NDArray[np.float32]:
        """Where in its input a class is found, by Grad-CAM: float32 [n, image_size, image_size].

        Args:
            images: see above.
            target: the class to explain, by its name or its index; by default the one predicted
                for each image.
            layer: a child of the network; by default the last stage with a map of at least 4x4.

        Raises:
            RecipeError: an unknown class.
            ValueError: a layer without maps, or a network that is not a built-in one.
            ImageFileError, DataError: as `predict`.
        """
        layer = layer or default_layer(self.model, self.image_size)
        label = None if target is None else self.label_of(target)
        return self._apply(collect(images), partial(self._heat, layer, label))[1]

    def label_of(self, target: str | int) -> int:
        """The index of a class, which is given by its name or as the index.

        Raises:
            RecipeError: there is no such class.
        """
        names = self.class_names
        if isinstance(target, str):
            if target in names:
                return names.index(target)
            raise RecipeError(f"unknown target {shown(target)}{did_you_mean(target, names)}")
        if isinstance(target, bool) or not isinstance(target, int | np.integer):
            raise RecipeError(f"target {shown(target)} is neither a class nor its index")
        if not 0 <= target < len(names):
            raise RecipeError(f"target {target} is no index of the {len(names)} classes")
        return int(target)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write it as `.safetensors` for `jaxcifar.load` and for PyTorch; see `export_weights`.

        Raises:
            WeightsError: the file exists, is not called .safetensors, or cannot be written.
            RecipeError: the network is the user's own.
        """
        built_in(self.model)
        export_weights(
            jax.device_get(dict(self.variables)),
            path,
            preprocessing=self.preprocessing,
            metadata=self._scoring().replaced_in(self.metadata),
            overwrite=overwrite,
        )

    def _scoring(self) -> ScoringSettings:
        dtype = jnp.dtype(getattr(self.model, "dtype", jnp.float32)).name
        return ScoringSettings(self.mirror, self.shift, self.precision, dtype)

    def check_finite(self, values: Any) -> NDArray[np.float32]:
        """The values, as an array.

        Raises:
            RecipeError: one is NaN (the first class would count as predicted) or infinite.
        """
        array = np.asarray(values)
        if not np.isfinite(array).all():
            raise RecipeError(f"{self.name}: the network's output is not finite")
        return array

    def _apply(
        self,
        photos: list[Photo],
        function: Callable[[jax.Array], jax.Array],
        on_unreadable: OnUnreadable | None = None,
        progress: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows of the photos that could be read, the function of each)."""
        return in_batches(
            photos,
            lambda images: function(self.preprocess(images)),
            side=self.image_size,
            stored_side=self.dataset.side,
            batch_size=min(self.batch_size, evaluation_batch_size(self.image_size)),
            on_unreadable=on_unreadable,
            progress=progress,
        )

    def _logits(self, inputs: jax.Array) -> jax.Array:
        with computed_at(self.precision):
            return class_logits(self.model, self.variables, inputs, self.mirror, self.shift)

    def _features(self, layer: str, inputs: jax.Array) -> jax.Array:
        with computed_at(self.precision):
            return capture(self.model, self.variables, inputs, [layer])[layer]

    def _heat(self, layer: str, label: int | None, inputs: jax.Array) -> jax.Array:
        if label is None:
            classes = self._logits(inputs).argmax(axis=1)
        else:
            classes = jnp.full(len(inputs), label)
        with computed_at(self.precision):
            maps = grad_cam(self.model, self.variables, inputs, classes, layer)
        return upsample(maps, self.image_size, self.image_size)


@partial(jax.jit, static_argnums=0)  # at module level: a second call compiles nothing
def _normalized(preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """The central squares at the size of the preprocessing, or whole if it has none."""
    side = preprocessing.size
    _, height, width, _ = images.shape
    if side is not None:
        shorter = min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        images = images[:, top : top + shorter, left : left + shorter]
        images = images if shorter == side else resize(images, side)
    mean, std = (
        jnp.asarray(values, jnp.float32) for values in (preprocessing.mean, preprocessing.std)
    )
    return (unit_range(images) - mean) / std


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities [n, classes] of logits, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    shares = np.exp(shifted)
    return shares / shares.sum(axis=1, keepdims=True)


def evaluation_batch_size(side: int) -> int:
    """How many images of `side` pixels take as much memory as 500 of 64x64."""
    return max(1, min(500, 500 * 64**2 // side**2))


def check_size(size: int | None) -> None:
    """Refuse a size out of bounds.

    Raises:
        RecipeError: naming the bounds.
    """
    if size is not None and not MIN_SIDE <= size <= MAX_SIDE:
        raise RecipeError(f"size must lie between {MIN_SIDE} and {MAX_SIDE} pixels, not {size}")
