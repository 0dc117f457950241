"""Parameter paths in torchvision's words, and what can be said of a tree by them."""

from typing import Any

import jax

PyTree = Any


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as one dotted name: "layer1.0.conv1.kernel"."""
    return ".".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Every leaf by its dotted name, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether the leaf at `path` is a convolution's or linear layer's weight."""
    return path_name(path).rsplit(".", 1)[-1] == "kernel"


def kernel_mask(params: PyTree) -> PyTree:
    """True on kernels, False on biases and BatchNorm's parameters: what weight decay acts on."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def count_params(params: PyTree) -> int:
    """Number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def summarize(params: PyTree) -> str:
    """A table of the top-level modules, their leaves and parameters, with the total."""
    rows = [(name, len(jax.tree.leaves(sub)), count_params(sub)) for name, sub in params.items()]
    rows.sort(key=lambda row: _forward_order(row[0]))
    rows.append(("total", len(jax.tree.leaves(params)), count_params(params)))
    lines = [f"{'module':<10}{'leaves':>8}{'parameters':>14}"]
    lines += [f"{name:<10}{leaves:>8}{count:>14,}" for name, leaves, count in rows]
    return "\n".join(lines)


def _forward_order(name: str) -> tuple[int, str]:
    stages = {"conv1": 0, "bn1": 1, "fc": 3}
    return stages.get(name, 2), name
