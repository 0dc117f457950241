"""The ResNet in a file whose keys have a prefix, such as the `module.` of DataParallel.

A network is found by its keys: `conv1.weight`, `bn1.*` and `layerN.M.*` below one prefix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxcifar.common.errors import WeightsError
from jaxcifar.common.messages import printable, shown
from jaxcifar.models.names import HEAD

# What other libraries call a classifier or a projection: timm, torchvision, lightly, solo-learn.
OTHER_HEADS = ("classifier", "head", "linear", "projection_head", "projector")
_HEADS = (HEAD, *OTHER_HEADS)
# The shortest prefix wins: a block has a conv1 and a bn1, too, but no network has its name.
_KEY = re.compile(
    r"(?P<prefix>(?:[^.]*\.)*?)"
    r"(?P<name>conv1\.weight|(?:bn1|layer\d+\.\d+\.(?:conv\d|bn\d|downsample\.\d))\.\w+)"
)
_LISTED = 4  # prefixes that a message names


class Network(NamedTuple):
    """The tensors of a file, told apart by the prefix of its ResNet.

    Attributes:
        prefix: ends with a dot, or is empty.
        tensors: those below the prefix, by their names without it.
        outside: the other keys of the file.
        others: the prefixes of further whole networks.
        is_resnet: whether any key is one of a ResNet.
    """

    prefix: str
    tensors: dict[str, np.ndarray]
    outside: tuple[str, ...]
    others: tuple[str, ...]
    is_resnet: bool

    def is_head(self, name: str) -> bool:
        """Whether a name below the prefix belongs to the network's head."""
        return name.split(".")[0] in _HEADS

    def is_head_outside(self, key: str) -> bool:
        """Whether a key of the file belongs to a head beside the network, or beside its parents."""
        words = self.prefix.split(".")[:-1]
        parents = ["".join(f"{word}." for word in words[:i]) for i in range(len(words))]
        return any(key.startswith(p) and self.is_head(key[len(p) :]) for p in parents)

    def averaging_counter(self) -> set[str]:
        """The key of torch's AveragedModel that counts the averaged models, beside `module.`."""
        parent, word = self.prefix.removesuffix("module."), "n_averaged"
        return {parent + word} & set(self.outside) if parent != self.prefix else set()


def split_prefix(tensors: Mapping[str, np.ndarray]) -> Network:
    """Take off the prefix below which the keys make up a ResNet.

    Where no network is whole, the prefix is that of most of the keys of a ResNet, so that a message
    can say what the network lacks.
    """
    keys: dict[str, set[str]] = {}
    for key in tensors:
        if match := _KEY.fullmatch(key):
            keys.setdefault(match["prefix"], set()).add(match["name"])
    whole = [prefix for prefix, names in keys.items() if _is_whole(names)]
    most = Counter({prefix: len(names) for prefix, names in keys.items()}).most_common(1)
    prefix = (whole or [prefix for prefix, _ in most] or [""])[0]
    return Network(
        prefix,
        {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)},
        tuple(key for key in tensors if not key.startswith(prefix)),
        tuple(other for other in whole if other != prefix),
        any(name != "conv1.weight" for names in keys.values() for name in names),
    )


def only_network(tensors: Mapping[str, np.ndarray], source: str) -> Network:
    """`split_prefix` of a file that must have one ResNet.

    Raises:
        WeightsError: it has several, or none.
    """
    network = split_prefix(tensors)
    if network.others:
        prefixes = [network.prefix, *network.others]
        more = f" and {len(prefixes) - _LISTED} more" if len(prefixes) > _LISTED else ""
        raise WeightsError(
            f"{source} has {len(prefixes)} networks, whose keys begin with "
            f"{' and '.join(map(shown, prefixes[:_LISTED]))}{more}: save the one you want, as in",
            f"  {saving_line(max(prefixes, key=len))}",  # no other begins with it
        )
    if not network.is_resnet:
        first = ", ".join(printable(key, most=60) for key in list(tensors)[:3])
        found = f"its first keys are {first}" if tensors else "it has no tensors"
        raise WeightsError(
            f"{source} does not fit the model: these are not the weights of a ResNet with "
            f"torchvision's key names ({found})",
            "  torchvision's begin with conv1.weight, bn1.weight, layer1.0.conv1.weight: take a "
            "file of such a ResNet, or rename the keys",
        )
    return network


def saving_line(prefix: str) -> str:
    """A line of Python that saves the network below a prefix, without the prefix."""
    text = shown(prefix)
    return (
        f"torch.save({{k.removeprefix({text}): v for k, v in state.items() if "
        f"k.startswith({text})}}, 'weights.pth')  # state: the file's state dict"
    )


def _is_whole(names: Iterable[str]) -> bool:
    return {"conv1.weight", "bn1.weight"} <= set(names)
