"""The differences between a file's tensors and a model, and what to do about them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxcifar.common.messages import printable
from jaxcifar.models.names import HEAD
from jaxcifar.models.resnet import ARCHITECTURES, ResNet

MAX_UNEXPECTED = 1_000  # keys that are listed; a ResNet-152 has 932
NO_TENSOR = np.zeros(())


class Slot(NamedTuple):
    """A leaf of a model that a tensor of the file fills."""

    collection: str  # "params" or "batch_stats"
    name: str  # dotted, without the collection
    shape: tuple[int, ...]  # in torch's layout


def find_misfits(
    model: ResNet, slots: Mapping[str, Slot], arrays: Mapping[str, np.ndarray], extra: set[str]
) -> list[str]:
    """All problems, one line each, followed by hints; empty if everything fits.

    Args:
        model: that the slots belong to.
        slots: the leaves to fill, by torch's key.
        arrays: the tensors of the file for these keys, as far as it has them.
        extra: keys of the file that nothing uses.
    """
    missing = [key for key in slots if key not in arrays]
    lines = [f"missing: {key}" for key in missing]
    lines += [f"unexpected: {printable(key)}" for key in sorted(extra)[:MAX_UNEXPECTED]]
    if len(extra) > MAX_UNEXPECTED:
        lines.append(f"unexpected: {len(extra) - MAX_UNEXPECTED:,} more")
    for key, array in arrays.items():
        slot = slots[key]
        if array.shape != slot.shape:
            lines.append(f"{key}: {array.shape} in the file, {slot.shape} in the model")
        elif array.dtype.kind != "f":
            lines.append(f"{key}: {array.dtype} in the file, not floating-point numbers")
        elif not np.isfinite(array).all():
            lines.append(f"{key}: not all numbers are finite")
        elif slot.name.endswith(".var") and (array < 0).any():
            lines.append(f"{key}: a variance is negative")
    return lines + (_hints(model, arrays, extra, missing) if lines else [])


def _hints(
    model: ResNet, arrays: Mapping[str, np.ndarray], extra: set[str], missing: list[str]
) -> list[str]:
    """Likely causes of the problems, and the ways out."""
    hints = []
    depth = architecture_of({*arrays, *extra})
    if depth is not None and depth != _name_of(model.stage_sizes, model.bottleneck):
        hints.append(f"these are the weights of a {depth}: build that model")
    stem = arrays.get("conv1.weight", NO_TENSOR).shape[2:]
    if model.stem == "cifar" and stem == (7, 7):
        hints.append(
            "the file has the 7x7 ImageNet stem and the model the 3x3 CIFAR stem: build the model "
            "with stem='imagenet', or use adapt_stem"
        )
    if model.stem == "imagenet" and stem == (3, 3):
        hints.append("the file has the 3x3 CIFAR stem: build the model with stem='cifar'")
    if f"{HEAD}.0.weight" in extra and f"{HEAD}.weight" in missing:
        hints.append("the file has a sequential head: build the model with head='sequential'")
    if f"{HEAD}.weight" in extra and f"{HEAD}.0.weight" in missing:
        hints.append("the file has a linear head: build the model with head='linear'")
    head = [key for key in (*missing, *extra) if key.split(".")[0] == HEAD]
    weight = arrays.get(f"{HEAD}.weight", NO_TENSOR)
    if head or (weight.ndim == 2 and weight.shape[0] != model.num_classes):
        hints.append("to replace the file's head by a new one, use new_head")
    return hints


def architecture_of(keys: set[str]) -> str | None:
    """The architecture whose blocks the keys name."""
    words = [key.split(".") for key in keys]
    stages = sorted({w[0] for w in words if w[0].startswith("layer") and len(w) > 2})
    sizes = tuple(len({w[1] for w in words if w[0] == stage and len(w) > 2}) for stage in stages)
    return _name_of(sizes, any(len(w) > 2 and w[2] == "conv3" for w in words))


def _name_of(stage_sizes: tuple[int, ...], bottleneck: bool) -> str | None:
    for name, shape in ARCHITECTURES.items():
        if (shape["stage_sizes"], shape["bottleneck"]) == (stage_sizes, bottleneck):
            return name
    return None
