"""What the files of a TFDS dataset say about its images and classes."""

from pathlib import Path

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, read_bytes
from jaxcifar.data.tfds_layout import read_features

PREPARE_AGAIN = "prepare it again"
_MAX_NAMES = 4 << 20  # bytes of label.labels.txt; ImageNet's has 10,000


def image_features(path: Path) -> tuple[int | None, int]:
    """The side of the images, None if they have several sizes, and the number of classes.

    Args:
        path: of `features.json`.

    Raises:
        DataError: it cannot be understood, or the images or labels are of another kind.
    """
    value = read_features(path, PREPARE_AGAIN)
    try:
        features = value["featuresDict"]["features"]
        image, label = features.get("image", {}), features.get("label", {})
        kinds = [str(f.get("pythonClassName", "")).rpartition(".")[2] for f in (image, label)]
        if kinds != ["Image", "ClassLabel"]:
            raise DataError(
                f"{path} has the features {', '.join(sorted(features))}; it needs an Image called "
                "image and a ClassLabel called label"
            )
        dtype = image["image"].get("dtype", "uint8")
        shape = [int(length) for length in image["image"]["shape"]["dimensions"]]
        num_classes = int(label["classLabel"]["numClasses"])
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be understood ({error!r}): it is damaged or from an old TFDS; "
            f"{PREPARE_AGAIN}"
        ) from error
    if dtype != "uint8" or len(shape) != 3 or num_classes < 1:
        raise DataError(
            f"{path} says that images are {dtype} {shape} of {num_classes} classes; only uint8 "
            "[height, width, channels] of at least one class can be used"
        )
    return (shape[0] if shape[0] == shape[1] > 0 else None), num_classes


def class_names(path: Path, count: int) -> tuple[str, ...]:
    """The names in `label.labels.txt`, else the numbers of the classes.

    Raises:
        DataError: it cannot be read, or does not name `count` classes.
    """
    if not path.is_file():
        return tuple(map(str, range(count)))
    try:
        text = read_bytes(path, _MAX_NAMES).decode(errors="replace")
    except Unusable as error:
        raise DataError(f"{error}; {PREPARE_AGAIN}") from None
    names = tuple(text.rstrip("\n").split("\n"))
    if len(names) != count:
        raise DataError(f"{path} names {len(names)} classes, but features.json has {count}")
    return names
