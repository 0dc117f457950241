"""What is known of a dataset without loading it, and a warning about classes without an image."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.messages import warn


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a dataset that are known without loading it.

    Attributes:
        name: as in `load_dataset`.
        class_names: in label order.
        pool: number of images to train on; with those to validate on, if `validation` is None.
        test: number of images in the test split.
        side: height and width in pixels; there are always three channels. None if the images have
            several sizes; then `load_dataset` needs the side to scale them to.
        default_split: (train, validation).
        validation: number of images of a validation split of its own; None if validation images
            are taken from the pool, which then holds both.
    """

    name: str
    class_names: tuple[str, ...]
    pool: int
    test: int
    side: int | None
    default_split: tuple[int, int]
    validation: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def warn_absent(
    info: DatasetInfo,
    labels: Mapping[str, NDArray[np.int32]],
    *,
    advice: str = "use more images, or --stratified",
    whole: Collection[str] = (),
    stacklevel: int = 1,
) -> None:
    """One warning about classes without an image, which are not learned or not scored.

    Args:
        info: of the dataset.
        labels: what a split is called in the warning, and its labels, int32 `[n]`.
        advice: the way out, where another choice of images might have some.
        whole: the splits that have all images there are for them, so that there is no other choice.
        stacklevel: as of `messages.warn`.
    """
    if info.num_classes == 1:
        only = f"{info.name} has one class alone, {info.class_names[0]}: nothing to tell apart"
        warn(only, stacklevel=stacklevel + 1)
        return
    problems, missing, lacking = [], [], []
    for split, of_split in labels.items():
        present = set(np.unique(of_split).tolist())
        absent = [name for i, name in enumerate(info.class_names) if i not in present]
        missing.append(set(absent))
        if absent:
            some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" * (len(absent) > 5))
            lacking.append(split)
            problems.append(f"no image of {some} among the {len(of_split):,} {split} images")
    if problems:
        if set(lacking) <= set(whole):
            advice = "add images of them"
        all_used = sum(map(len, labels.values())) >= info.pool + (info.validation or 0)
        nowhere = set.union(*missing) == set.intersection(*missing)
        if all_used and nowhere:  # no other choice has some
            advice = "add images of them, or leave out the classes"
        warn(f"{info.name} has {', and '.join(problems)}; {advice}", stacklevel=stacklevel + 1)
