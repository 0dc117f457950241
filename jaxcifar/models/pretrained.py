"""Weights with torchvision's names: load them into a model's variables, and export them.

Both directions are strict: every tensor of a file is used, and every leaf of a model is filled.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.load_report import COUNTER, LoadReport
from jaxcifar.models.misfits import (
    NO_TENSOR,
    Problem,
    Slot,
    architecture_of,
    find_problems,
    summarize_misfits,
)
from jaxcifar.models.names import HEAD, named_leaves, torch_name
from jaxcifar.models.prefixes import Network, only_network, split_prefix
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.resnet import ResNet, make_resnet
from jaxcifar.models.weights import read_weights, write_safetensors

Tensors = Mapping[str, np.ndarray]


def load_pretrained(
    path_or_name: str | Path,
    model: ResNet,
    *,
    key: jax.Array | None = None,
    new_head: bool = False,
    adapt_stem: bool = False,
) -> tuple[dict[str, Any], LoadReport]:
    """A model's variables from weights with the key names of torchvision and timm.

    Every key of the file is used once, and every leaf of the model is filled once, in float32. Only
    torch's `num_batches_tracked` is skipped, and the `n_averaged` of its AveragedModel.

    A prefix before all keys of the network, such as the `module.` of DataParallel or the
    `_orig_mod.` of torch.compile, is taken off, and the report names it. Other keys beside the
    network are refused as unexpected, and so is a file with two networks.

    Args:
        path_or_name: a `.safetensors` or `.pth` file, or "owner/name" on the Hugging Face hub.
        model: determines the shapes.
        key: for the random weights of a new head.
        new_head: draw the model's `fc` at random, and skip the file's: the keys of `fc`, `head`,
            `classifier`, `linear`, `projector` and `projection_head`, also beside the network.
        adapt_stem: fill the 3x3 stem of `stem="cifar"` from the centre of the file's 7x7 kernels.

    Returns:
        ``{"params", "batch_stats"}``, and the report.

    Raises:
        WeightsError: the file cannot be read, or does not fit; then the message of at most 12 lines
            groups the missing, unexpected and wrongly shaped keys by the network's children.
            `list_misfits` lists every one.

    Example:
        >>> import tempfile, jax
        >>> from jaxcifar import ResNet, export_weights, load_pretrained
        >>> model = ResNet(stage_sizes=(), width=4)
        >>> images = jax.numpy.zeros((1, 8, 8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/weights.safetensors"
        ...     export_weights(model.init(jax.random.key(0), images, train=False), path)
        ...     variables, report = load_pretrained(path, model)
        >>> report.params, report.batch_stats
        (5, 2)
    """
    file = read_weights(path_or_name)
    return fill_model(
        model,
        file.tensors,
        source=file.source,
        sha256=file.sha256,
        preprocessing=Preprocessing.from_metadata(file.metadata, file.source),
        key=key,
        new_head=new_head,
        adapt_stem=adapt_stem,
    )


def model_of(tensors: Tensors, architecture: str | None = None) -> ResNet:
    """The network of an architecture with the stem, width, head and classes of the given weights.

    The keys may have a prefix. Other differences are left for `fill_model` to find.

    Args:
        tensors: with torchvision's names.
        architecture: by default the one whose blocks the keys name, or else resnet18.

    Raises:
        ValueError: unknown architecture.
    """
    tensors = split_prefix(tensors).tensors
    kernel = tensors.get("conv1.weight", NO_TENSOR)
    sequential = f"{HEAD}.3.weight" in tensors
    head = tensors.get(f"{HEAD}.3.weight" if sequential else f"{HEAD}.weight", NO_TENSOR)
    # A tensor without elements may claim any shape, so it is ignored.
    kernel, head = (NO_TENSOR if tensor.size == 0 else tensor for tensor in (kernel, head))
    return make_resnet(
        architecture or architecture_of(tensors) or "resnet18",
        head.shape[0] if head.ndim == 2 else 1,
        width=kernel.shape[0] if kernel.ndim == 4 else 64,
        stem="cifar" if kernel.shape[2:] == (3, 3) else "imagenet",
        head="sequential" if sequential else "linear",
    )


def fill_model(
    model: ResNet,
    tensors: Tensors,
    *,
    source: str,
    sha256: str | None = None,
    preprocessing: Preprocessing | None = None,
    key: jax.Array | None = None,
    new_head: bool = False,
    adapt_stem: bool = False,
) -> tuple[dict[str, Any], LoadReport]:
    """`load_pretrained` for tensors in memory, with torchvision's names and layouts."""
    if new_head and key is None:
        raise ValueError("a new head is drawn at random: pass a key, such as jax.random.key(0)")
    network = only_network(tensors, source)
    comparison = _compare(model, network, new_head=new_head, adapt_stem=adapt_stem)
    if comparison.problems:
        lines = summarize_misfits(model, comparison.problems, network)
        raise WeightsError(f"{source} does not fit the model:", *(f"  {line}" for line in lines))

    drawn = _draw_head(model, key) if new_head else {}
    filled: dict[str, Any] = {}
    for collection, tree in comparison.shapes.items():
        leaves = [
            drawn[name]
            if name in drawn
            else jnp.array(_to_flax(comparison.arrays[torch_name(name)]), jnp.float32)
            for name in named_leaves(tree)
        ]
        filled[collection] = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return filled, LoadReport(
        source=source,
        sha256=sha256 or digest_of(tensors),
        params=sum(slot.collection == "params" for slot in comparison.slots.values()),
        batch_stats=sum(slot.collection == "batch_stats" for slot in comparison.slots.values()),
        new=tuple(comparison.new),
        unused=tuple(sorted(comparison.unused)),
        adapted=comparison.adapted,
        preprocessing=preprocessing,
        prefix=network.prefix,
    )


def list_misfits(
    model: ResNet, tensors: Tensors, *, new_head: bool = False, adapt_stem: bool = False
) -> list[str]:
    """Every missing, unexpected or wrongly shaped key, one line each; empty if all fit.

    Args:
        model: determines the shapes.
        tensors: of a file, as from ``read_weights(path).tensors``.
        new_head, adapt_stem: as for `load_pretrained`.
    """
    network = split_prefix(tensors)
    comparison = _compare(model, network, new_head=new_head, adapt_stem=adapt_stem)
    return [problem.text for problem in comparison.problems]


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A model's variables with torchvision's names and layouts, float32."""
    return {
        torch_name(name): _to_torch(np.asarray(leaf))
        for collection in ("params", "batch_stats")
        for name, leaf in named_leaves(variables[collection]).items()
    }


def export_weights(
    variables: Mapping[str, Any],
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    metadata: Mapping[str, str] | None = None,
    steps: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a `.safetensors` file that torchvision's ResNet loads with `strict=True`.

    Args:
        variables: ``{"params", "batch_stats"}`` of a ResNet.
        path: must end in ".safetensors".
        preprocessing: stored in the file's metadata, where `load_pretrained` finds it.
        metadata: further metadata.
        steps: the value of torch's `num_batches_tracked`.
        overwrite: replace an existing file.

    Raises:
        WeightsError: the file exists, is not called .safetensors, or cannot be written.

    Example:
        >>> import os, tempfile, jax
        >>> from jaxcifar import ResNet, export_weights
        >>> model = ResNet(stage_sizes=(), width=4)
        >>> images = jax.numpy.zeros((1, 8, 8, 3))
        >>> variables = model.init(jax.random.key(0), images, train=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_weights(variables, f"{folder}/weights.safetensors")
        ...     os.listdir(folder)
        ['weights.safetensors']
    """
    if Path(path).suffix != ".safetensors":
        raise WeightsError(f"{path} is written in the safetensors format: end it in .safetensors")
    tensors = to_torch(variables)
    counters = {
        key.removesuffix("running_mean") + COUNTER: np.array(steps, np.int64)
        for key in tensors
        if key.endswith("running_mean")
    }
    texts = dict(metadata or {})
    if preprocessing is not None:
        texts |= preprocessing.to_metadata()
    write_safetensors(Path(path), tensors | counters, texts, overwrite=overwrite)


class _Comparison(NamedTuple):
    """A model beside the tensors of a file."""

    shapes: dict[str, Any]  # of the model's variables, by collection
    slots: dict[str, Slot]  # the leaves to fill from the file, by torch's key
    new: list[str]  # names of the leaves to draw
    arrays: dict[str, np.ndarray]  # the file's tensors for the slots
    adapted: str | None
    unused: set[str]  # keys of the file to skip
    problems: list[Problem]


def _compare(model: ResNet, network: Network, *, new_head: bool, adapt_stem: bool) -> _Comparison:
    image = jnp.zeros((1, 32, 32, 3), jnp.float32)
    shapes = dict(
        jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    )
    slots, new = _slots(shapes, new_head)
    unused = _unused(network, new_head)
    arrays = {k: np.asarray(network.tensors[k]) for k in slots if k in network.tensors}
    adapted = _adapt_stem(arrays) if adapt_stem and model.stem == "cifar" else None
    problems = find_problems(slots, arrays, network, unused)
    return _Comparison(shapes, slots, new, arrays, adapted, unused, problems)


def _slots(shapes: Mapping[str, Any], new_head: bool) -> tuple[dict[str, Slot], list[str]]:
    """The leaves to fill from the file, by torch's key, and the names of those to draw."""
    slots, new = {}, []
    for collection, tree in shapes.items():
        for name, leaf in named_leaves(tree).items():
            if new_head and name.split(".")[0] == HEAD:
                new.append(name)
            else:
                slots[torch_name(name)] = Slot(collection, name, _torch_shape(leaf.shape))
    return slots, new


def _unused(network: Network, new_head: bool) -> set[str]:
    """The keys of the file to skip: torch's counters, and the head if it is new."""
    below = {
        name
        for name in network.tensors
        if name.rpartition(".")[2] == COUNTER
        and f"{name.removesuffix(COUNTER)}running_mean" in network.tensors
    }
    beside = network.averaging_counter()
    if new_head:
        below |= {name for name in network.tensors if network.is_head(name)}
        beside |= {key for key in network.outside if network.is_head_outside(key)}
    return {network.prefix + name for name in below} | beside


def _adapt_stem(arrays: dict[str, np.ndarray]) -> str | None:
    """Cut 7x7 stem kernels to 3x3 in place, and describe that for the report."""
    if arrays.get("conv1.weight", NO_TENSOR).shape[2:] != (7, 7):
        return None
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :, 2:5, 2:5]
    return (
        "the stem's 7x7 kernels were cut to their 3x3 centre; its stride is 1 instead of 2, and "
        "there is no max-pool. BatchNorm's running statistics no longer fit: only training with "
        "bn='batch' corrects them"
    )


def _draw_head(model: ResNet, key: jax.Array | None) -> dict[str, jax.Array]:
    """The head that `model.init` draws; compiling drops the computation of the other weights."""
    image = jnp.zeros((1, 32, 32, 3), jnp.float32)
    head = jax.jit(lambda key: model.init(key, image, train=False)["params"][HEAD])(key)
    return {f"{HEAD}.{name}": leaf for name, leaf in named_leaves(head).items()}


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torch: [out, in, h, w] for [h, w, in, out], [out, in] for [in, out]."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return shape[::-1]


def _to_flax(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


def digest_of(tensors: Tensors) -> str:
    """The SHA-256 of tensors, in the order of their names: the identity of a run's weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
