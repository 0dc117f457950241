"""Names of parameters: paths in a tree, and torchvision's names for them."""

from typing import Any

import jax

PyTree = Any
HEAD = "fc"


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as one dotted name: "layer1.0.conv1.kernel"."""
    return ".".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Every leaf by its dotted name, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def torch_name(name: str) -> str:
    """Torchvision's key of a parameter or statistic: "layer1.0.conv1.weight"."""
    module, _, leaf = name.rpartition(".")
    words = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return f"{module}.{words.get(leaf, leaf)}"


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether the leaf at `path` is a convolution's or linear layer's weight."""
    return path_name(path).rsplit(".", 1)[-1] == "kernel"


def kernel_mask(params: PyTree) -> PyTree:
    """True on kernels, False on biases and BatchNorm's parameters: what weight decay acts on."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def batch_norm_bias_mask(params: PyTree) -> PyTree:
    """True on the biases of BatchNorms, which alone stand beside a scale."""
    names = set(named_leaves(params))

    def is_one(path: tuple[Any, ...], _: Any) -> bool:
        module, _, leaf = path_name(path).rpartition(".")
        return leaf == "bias" and f"{module}.scale" in names

    return jax.tree_util.tree_map_with_path(is_one, params)


def count_params(params: PyTree) -> int:
    """Number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
