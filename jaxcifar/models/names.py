"""Names of modules and parameters, here and in torchvision, and what can be told from a name."""

import re
from collections.abc import Iterable
from typing import Any

import jax

PyTree = Any
HEAD = "fc"  # the network's classifier: one linear layer, or a sequence of layers


def path_name(path: tuple[Any, ...]) -> str:
    """The dotted name of a tree path: "layer1.0.conv1.kernel"."""
    return ".".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """All leaves by their dotted names, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def torch_name(name: str) -> str:
    """The name of a parameter or statistic in torchvision: "layer1.0.conv1.weight"."""
    module, _, leaf = name.rpartition(".")
    words = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return f"{module}.{words.get(leaf, leaf)}"


def is_below(name: str, modules: frozenset[str]) -> bool:
    """Whether `name` is one of `modules`, or is inside one of them."""
    words = name.split(".")
    return any(".".join(words[:i]) in modules for i in range(1, len(words) + 1))


def children_of(names: Iterable[str]) -> list[str]:
    """The network's children that have parameters, in the order of the forward pass."""
    return sorted({name.split(".")[0] for name in names}, key=_forward_order)


def units_of(names: Iterable[str]) -> list[str]:
    """The blocks of the stages and the remaining children, in the order of the forward pass."""
    units = []
    for child in children_of(names):
        numbers = {n.split(".")[1] for n in names if n.startswith(child + ".")}
        blocks = sorted((n for n in numbers if n.isdecimal()), key=int)
        units += [f"{child}.{n}" for n in blocks] if blocks and child != HEAD else [child]
    return units


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether the leaf at `path` is the weight of a convolution or a linear layer."""
    return path_name(path).rsplit(".", 1)[-1] == "kernel"


def kernel_mask(params: PyTree) -> PyTree:
    """True for kernels, which weight decay acts on; False for biases and BatchNorm's parameters."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def batch_norm_bias_mask(params: PyTree) -> PyTree:
    """True for the biases of BatchNorms: those whose module also has a `scale`."""
    names = set(named_leaves(params))

    def is_batch_norm_bias(path: tuple[Any, ...], _: Any) -> bool:
        module, _, leaf = path_name(path).rpartition(".")
        return leaf == "bias" and f"{module}.scale" in names

    return jax.tree_util.tree_map_with_path(is_batch_norm_bias, params)


def count_params(params: PyTree) -> int:
    """The number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _forward_order(name: str) -> tuple[int, int, str]:
    stages = {"conv1": 0, "bn1": 1, HEAD: 3}
    number = re.sub(r"\D", "", name)
    return stages.get(name, 2), int(number or 0), name
