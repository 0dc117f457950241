"""The differences between a file's tensors and a model, and what to do about them."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from jaxcifar.common.messages import printable, shown
from jaxcifar.models.names import HEAD, children_of
from jaxcifar.models.prefixes import OTHER_HEADS, Network, saving_line
from jaxcifar.models.resnet import ARCHITECTURES, ResNet

MAX_LINES = 12  # of a message, its first line included
NO_TENSOR = np.zeros(())
_PARTS_OF_A_BLOCK = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"}
Kind = Literal["missing", "unexpected", "outside", "shape", "dtype", "infinite", "negative"]


class Slot(NamedTuple):
    """A leaf of a model that a tensor of the file fills."""

    collection: str  # "params" or "batch_stats"
    name: str  # dotted, without the collection
    shape: tuple[int, ...]  # in torch's layout


class Problem(NamedTuple):
    """One key of a file or of a model, and what is wrong with it."""

    kind: Kind
    key: str
    text: str  # a line


class _Line(NamedTuple):
    """A line of a message, for one or more problems."""

    text: str
    keys: int


def find_problems(
    slots: Mapping[str, Slot],
    arrays: Mapping[str, np.ndarray],
    network: Network,
    unused: set[str],
) -> list[Problem]:
    """Every key that does not fit; empty if everything fits.

    Args:
        slots: the leaves to fill, by torch's key.
        arrays: the tensors of the file for these keys, as far as it has them.
        network: all tensors of the file.
        unused: keys of the file, with their prefix, that are skipped.
    """
    missing = [key for key in slots if key not in arrays]
    problems = [Problem("missing", key, f"missing: {key}") for key in missing]
    extra = [k for k in network.tensors if k not in slots and network.prefix + k not in unused]
    for key in sorted(extra):
        problems.append(Problem("unexpected", key, f"unexpected: {printable(key)}"))
    for key in sorted(set(network.outside) - unused):
        text = f"unexpected, outside {shown(network.prefix)}: {printable(key)}"
        problems.append(Problem("outside", key, text))
    for key, array in arrays.items():
        expected = slots[key].shape
        if array.shape != expected:
            text = f"{key}: {array.shape} in the file, {expected} in the model"
            problems.append(Problem("shape", key, text))
        elif wrong := _wrong_numbers(array, is_variance=slots[key].name.endswith(".var")):
            kind, text = wrong
            problems.append(Problem(kind, key, f"{key}: {text}"))
    return problems


def summarize_misfits(model: ResNet, problems: list[Problem], network: Network) -> list[str]:
    """A message of at most `MAX_LINES - 1` lines: problems by the network's children, then hints.

    Args:
        model: that the problems were found with.
        problems: at least one.
        network: all tensors of the file.
    """
    before = []
    if network.prefix:
        before = [
            f"the keys begin with {shown(network.prefix)}: it was taken off, and is not shown below"
        ]
    hints = _hints(model, problems, network)
    return [*before, *_grouped(problems, MAX_LINES - 1 - len(before) - len(hints)), *hints]


def _wrong_numbers(array: np.ndarray, *, is_variance: bool) -> tuple[Kind, str] | None:
    if array.dtype.kind != "f":
        return "dtype", f"{array.dtype} in the file, not floating-point numbers"
    if not np.isfinite(array).all():
        return "infinite", "not all numbers are finite"
    if is_variance and (array < 0).any():
        return "negative", "a variance is negative"
    return None


def _grouped(problems: list[Problem], room: int) -> list[str]:
    """The problems of one kind and child on one line; a last line counts what has no room."""
    kinds: dict[Kind, dict[str, list[Problem]]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, {}).setdefault(_child(problem.key), []).append(problem)
    lines = [
        [_line(groups[child]) for child in _ordered(kind, groups)] for kind, groups in kinds.items()
    ]
    if sum(map(len, lines)) <= room:
        return [line.text for of_kind in lines for line in of_kind]
    kept = _share(list(map(len, lines)), room - 1)
    left = sum(line.keys for of_kind, n in zip(lines, kept, strict=True) for line in of_kind[n:])
    texts = [line.text for of_kind, n in zip(lines, kept, strict=True) for line in of_kind[:n]]
    return [*texts, f"and {left:,} more keys that do not fit"]


def _share(wanted: list[int], room: int) -> list[int]:
    """How many lines each kind gets of `room`, the first kinds first, one after another."""
    kept = [0] * len(wanted)
    while room and kept != wanted:
        for i, most in enumerate(wanted):
            if room and kept[i] < most:
                kept[i] += 1
                room -= 1
    return kept


def _child(key: str) -> str:
    return key.split(".")[0]


def _ordered(kind: Kind, children: Iterable[str]) -> list[str]:
    """The model's children in the order of the forward pass, names from outside by alphabet."""
    foreign = kind in ("unexpected", "outside")
    return sorted(children) if foreign else children_of(children)


def _line(group: list[Problem]) -> _Line:
    """The first weight of a group, and how many more there are."""
    first = min(group, key=lambda p: (not p.key.endswith(".weight"), "bn" in p.key))
    comma = "" if first.kind in ("missing", "unexpected", "outside") else ","
    more = f"{comma} and {len(group) - 1:,} more of {printable(_child(first.key))}"
    return _Line(first.text + (more if len(group) > 1 else ""), len(group))


def _hints(model: ResNet, problems: list[Problem], network: Network) -> list[str]:
    """Likely causes of the problems, and the ways out."""
    hints = []
    if depth := _depth_hint(model, network.tensors):
        hints.append(depth)
    stem = network.tensors.get("conv1.weight", NO_TENSOR).shape[1:]
    if model.stem == "cifar" and stem == (3, 7, 7):
        hints.append(
            "the file has the 7x7 ImageNet stem and the model the 3x3 CIFAR stem: build the model "
            "with stem='imagenet' (--stem imagenet), or use adapt_stem (--adapt-stem)"
        )
    if model.stem == "imagenet" and stem == (3, 3, 3):
        hints.append(
            "the file has the 3x3 CIFAR stem: build the model with stem='cifar' (--stem cifar)"
        )
    width = network.tensors.get("conv1.weight", NO_TENSOR).shape[:1]
    if width and width != (model.width,):
        hints.append(
            f"the file's first layer has {width[0]} channels and the model's {model.width}: build "
            f"the model with width={width[0]} (--width {width[0]})"
        )
    hints += _head_hints(problems, network)
    if any(problem.kind == "outside" for problem in problems):
        hints.append(f"to keep one network only: {saving_line(network.prefix)}")
    return hints


def _depth_hint(model: ResNet, tensors: Mapping[str, np.ndarray]) -> str | None:
    """The architecture that the file's blocks have, if it is not the model's."""
    depth = architecture_of(tensors)
    if depth is None or depth == _name_of(model.stage_sizes, model.bottleneck):
        return None
    stem = tensors.get("conv1.weight", NO_TENSOR).shape
    inner = tensors.get("layer1.0.conv2.weight", NO_TENSOR).shape
    if len(stem) == len(inner) == 4 and inner[:2] != (stem[0], stem[0]):
        return (
            f"the file has the depth of a {depth}, but wider or grouped convolutions, as a wide "
            "ResNet or a ResNeXt: no model here has them"
        )
    return f"these are the weights of a {depth}: build that model (--architecture {depth})"


def _head_hints(problems: list[Problem], network: Network) -> list[str]:
    missing = {p.key for p in problems if p.kind == "missing" and _child(p.key) == HEAD}
    extra = {p.key for p in problems if p.kind == "unexpected" and network.is_head(p.key)}
    beside = {p.key for p in problems if p.kind == "outside" and network.is_head_outside(p.key)}
    other = sorted(beside | {key for key in extra if _child(key) in OTHER_HEADS})
    wrong = any(p.kind == "shape" and _child(p.key) == HEAD for p in problems)
    if missing and other:
        weights = [key for key in other if key.endswith(".weight")]
        rename = f"rename its keys to {HEAD}.weight and {HEAD}.bias, or "
        return [
            f"the file's head is {printable((weights or other)[0])}: "
            f"{rename if len(weights) == 1 else ''}to replace it by a new one, use new_head "
            "(--new-head)"
        ]
    hints = []
    if f"{HEAD}.0.weight" in extra and f"{HEAD}.weight" in missing:
        hints.append(
            "the file has a sequential head: build the model with head='sequential' "
            "(--head sequential)"
        )
    if f"{HEAD}.weight" in extra and f"{HEAD}.0.weight" in missing:
        hints.append(
            "the file has a linear head: build the model with head='linear' (--head linear)"
        )
    has_head = any(_child(key) == HEAD for key in network.tensors)
    if missing and not has_head:
        hints.append(
            "the file has no head: train a new one, by new_head (--new-head of jaxcifar train)"
        )
    elif missing or extra or beside or wrong:
        hints.append("to replace the file's head by a new one, use new_head (--new-head)")
    return hints


def architecture_of(keys: Iterable[str]) -> str | None:
    """The architecture whose blocks the keys name; None if a block has parts of another kind."""
    words = [key.split(".") for key in keys]
    blocks = [w for w in words if w[0].startswith("layer") and len(w) > 2]
    if not {w[2] for w in blocks} <= _PARTS_OF_A_BLOCK:
        return None
    stages = sorted({w[0] for w in blocks})
    sizes = tuple(len({w[1] for w in blocks if w[0] == stage}) for stage in stages)
    return _name_of(sizes, any(w[2] == "conv3" for w in blocks))


def _name_of(stage_sizes: tuple[int, ...], bottleneck: bool) -> str | None:
    for name, shape in ARCHITECTURES.items():
        if (shape["stage_sizes"], shape["bottleneck"]) == (stage_sizes, bottleneck):
            return name
    return None
