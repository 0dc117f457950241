"""What a run says of its data and classes, in config.json and in the metadata of exported weights.

A trained network then knows its classes and what to do with a photo, wherever the data are now.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from jaxcifar.common.errors import RunError, WeightsError
from jaxcifar.common.json_shape import AnyText, Shape, misfit
from jaxcifar.common.messages import shown
from jaxcifar.data import DatasetInfo, Splits
from jaxcifar.models.resnet import DTYPES
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.augment import NORMALIZATIONS
from jaxcifar.step.precision import Precision

# How images of another size become the network's input, as torchvision's Resize and CenterCrop.
INTERPOLATION = "bilinear"
DATA: Shape = {
    "class_names": [AnyText],
    "num_classes": int,
    "train": int,
    "validation": int,
    "test": int,
    "pool": int,
    "own_validation": (None, int),
    "side": (None, int),
    "image_size": int,
    "mean": [float],
    "std": [float],
    "resize": (None, int),
    "interpolation": str,
    "data_dir?": (None, AnyText),
    "revision?": AnyText,
}
MAX_CLASSES = 100_000  # names that are read from a file


def describe_data(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """The section "data" of config.json; see `DATA`.

    "train", "validation" and "test" are numbers of images, "pool" is what train (and validation, if
    "own_validation" is null) were chosen from. "side" is that of the stored images, null if they
    have several; "image_size" is that of the network's input. Sides are in pixels; "mean" and "std"
    are of RGB in [0, 1]. "data_dir" is where TFDS data were found, null for other data. "revision"
    is the commit of data from the Hugging Face hub; other data have none.
    """
    info = recipe.dataset_info
    mean, std = NORMALIZATIONS[recipe.normalization]
    revision = {} if splits.revision is None else {"revision": splits.revision}
    return revision | {
        "class_names": list(splits.class_names),
        "num_classes": len(splits.class_names),
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
        "pool": info.pool,
        "own_validation": info.validation,
        "side": info.side,
        "image_size": recipe.image_size,
        "mean": list(mean),
        "std": list(std),
        "resize": recipe.resize,
        "interpolation": INTERPOLATION,
        "data_dir": splits.data_dir,
    }


def stored_data_dir(config: Mapping[str, Any]) -> str | None:
    """The folder of TFDS data that a run was trained from, if it is still there.

    $TFDS_DATA_DIR says where data are now, and goes before it.
    """
    stored = (config.get("data") or {}).get("data_dir")
    if stored is None or os.environ.get("TFDS_DATA_DIR") or not os.path.isdir(stored):
        return None
    return str(stored)


def described_info(config: Mapping[str, Any], name: str) -> DatasetInfo | None:
    """What a run's config.json says of its data; None if it was written before they were described.

    Args:
        config: of the right shape.
        name: of the data.
    """
    data = config.get("data")
    if data is None:
        return None
    return DatasetInfo(
        name=name,
        class_names=tuple(data["class_names"]),
        pool=data["pool"],
        test=data["test"],
        side=data["side"],
        default_split=(data["train"], data["validation"]),
        validation=data["own_validation"],
    )


def check_described(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a description that contradicts itself.

    Raises:
        RunError: naming the file.
    """
    data = config.get("data")
    if data is None:
        return
    problem = misfit(data, DATA, "data")
    if problem is None and not 1 <= len(data["class_names"]) == data["num_classes"] <= MAX_CLASSES:
        problem = f"data has {len(data['class_names'])} class names for {data['num_classes']}"
    if problem:
        raise RunError(f"{path} is damaged: {problem}")


def to_metadata(recipe: Recipe, fingerprint: str | None) -> dict[str, str]:
    """The description as metadata of a weights file, without the place of the data."""
    info, (train, validation) = recipe.dataset_info, recipe.split_sizes
    metadata = {
        "classes": str(info.num_classes),
        "class_names": json.dumps(info.class_names, ensure_ascii=False),
        "train_images": str(train),
        "validation_images": str(validation),
        "test_images": str(info.test),
        "interpolation": INTERPOLATION,
        "normalization": recipe.normalization,
    }
    for name, value in (
        ("resize", recipe.resize),
        ("side", info.side),
        ("data_fingerprint", fingerprint),
    ):
        if value is not None:
            metadata[name] = str(value)
    return metadata | ScoringSettings.of(recipe).to_metadata()


class ScoringSettings(NamedTuple):
    """How a network's scores are computed: part of what it predicts, so a file of weights says it.

    Attributes:
        mirror: by the mean logits of an image and its mirror image.
        shift: and of the image shifted by so many pixels; 0 for none.
        precision: of float32 products, see `precision.computed_at`.
        dtype: of the computation.
    """

    mirror: bool = False
    shift: int = 0
    precision: Precision = "default"
    dtype: str = "float32"

    @classmethod
    def of(cls, recipe: Recipe) -> "ScoringSettings":
        """That of a recipe."""
        return cls(recipe.test_mirror, recipe.test_shift_pixels, recipe.precision, recipe.dtype)

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], source: str, side: int
    ) -> "ScoringSettings":
        """That in the metadata of a weights file, whose network sees images of `side` pixels.

        Where the file says nothing, images are scored as they are.

        Raises:
            WeightsError: they cannot be read.
        """
        usual = cls()._texts()
        mirror, shift, precision, dtype = (metadata.get(name, usual[name]) for name in usual)
        problem = None
        if mirror not in ("true", "false"):
            problem = f"test_mirror must be true or false, not {shown(mirror)}"
        elif not (shift.isascii() and shift.isdigit() and len(shift) < 6 and int(shift) < side):
            problem = (
                f"test_shift_pixels must be a number of pixels under {side}, not {shown(shift)}"
            )
        elif precision not in get_args(Precision):
            choices = ", ".join(get_args(Precision))
            problem = f"test_precision must be one of {choices}, not {shown(precision)}"
        elif dtype not in DTYPES:
            problem = f"test_dtype must be one of {', '.join(DTYPES)}, not {shown(dtype)}"
        if problem:
            raise WeightsError(f"the metadata of {source} cannot be read: {problem}")
        return cls(mirror == "true", int(shift), precision, dtype)  # type: ignore[arg-type]

    def to_metadata(self) -> dict[str, str]:
        """The metadata that `from_metadata` reads: what is not the default."""
        usual = ScoringSettings()._texts()
        return {name: text for name, text in self._texts().items() if text != usual[name]}

    def replaced_in(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """Metadata that say this, whatever they said of it."""
        others = {name: text for name, text in metadata.items() if name not in self._texts()}
        return others | self.to_metadata()

    def _texts(self) -> dict[str, str]:
        return {
            "test_mirror": str(self.mirror).lower(),
            "test_shift_pixels": str(self.shift),
            "test_precision": self.precision,
            "test_dtype": self.dtype,
        }


def class_names_of(metadata: Mapping[str, str], source: str) -> tuple[str, ...] | None:
    """The class names, in order, in the metadata of a weights file; None if it has none.

    Raises:
        WeightsError: they cannot be read.
    """
    text = metadata.get("class_names")
    if text is None:
        return None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if misfit(names, [AnyText]) is not None or not 1 <= len(names) <= MAX_CLASSES:
        raise WeightsError(
            f"the metadata of {source} cannot be read: class_names must be a JSON list of texts"
        )
    return tuple(names)
