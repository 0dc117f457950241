"""Weights under torchvision's names, to a model's variables and back: strict in both directions."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.common.errors import WeightsError
from jaxcifar.common.messages import printable
from jaxcifar.models.names import HEAD, named_leaves, torch_name
from jaxcifar.models.resnet import ARCHITECTURES, ResNet, make_resnet
from jaxcifar.models.weights import read_weights, write_safetensors

Tensors = Mapping[str, np.ndarray]
MOST_EXTRA = 1_000  # keys of a file that are listed; a ResNet-152 has 932
COUNTER = "num_batches_tracked"  # torch's BatchNorm counts batches; with a momentum nothing uses it


@dataclass(frozen=True)
class Preprocessing:
    """What the network was trained to see: RGB in [0, 1], less `mean`, over `std`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None  # height and width, pixels

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], source: str = "the weights"
    ) -> "Preprocessing | None":
        """What a weights file says, or None.

        Raises:
            WeightsError: it says what cannot be; `source` is what the message calls it.
        """
        if "mean" not in metadata or "std" not in metadata:
            return None
        mean, std = (_floats(metadata[name]) for name in ("mean", "std"))
        size = metadata.get("size")
        problem = None
        if len(mean) != 3 or len(std) != 3 or not all(number > 0 for number in std):
            problem = "mean and std must be three numbers each, those of std positive"
        elif size is not None and not re.fullmatch("[1-9][0-9]{0,3}", size):
            problem = "size must be a number of pixels, under 10,000"
        if problem:
            raise WeightsError(f"the metadata of {source} cannot be read: {problem}")
        return cls(mean, std, None if size is None else int(size))

    def to_metadata(self) -> dict[str, str]:
        """The same as strings, as `from_metadata` reads them."""
        found = {name: " ".join(map(str, getattr(self, name))) for name in ("mean", "std")}
        return found | ({} if self.size is None else {"size": str(self.size)})


def _floats(text: str) -> tuple[float, ...]:
    """Three finite numbers with blanks between, or fewer of them where it is something else."""
    try:
        numbers = tuple(float(word) for word in text[:200].split()[:4])
    except ValueError:
        return ()
    return numbers if all(abs(number) < 1e6 for number in numbers) else ()


@dataclass(frozen=True)
class LoadReport:
    """What came from where. `str` of it is a text for people."""

    source: str  # as given: a path, a name on the hub or a run
    sha256: str  # of the file; of a run's weights, of its tensors in the order of their names
    params: int  # parameter leaves filled from it
    batch_stats: int  # statistics leaves
    new: tuple[str, ...]  # leaves that were drawn instead
    unused: tuple[str, ...]  # keys of the file left out: an old head, and torch's batch counters
    adapted: str | None  # what was done to the stem
    preprocessing: Preprocessing | None  # None where the file does not say

    def __str__(self) -> str:
        lines = [
            f"weights from {self.source} (SHA-256 {self.sha256[:12]}...): {self.params} parameter "
            f"leaves and {self.batch_stats} statistics leaves"
        ]
        if self.new:
            lines.append(f"  new: {', '.join(self.new)}")
        dropped = [key for key in self.unused if not key.endswith(COUNTER)]
        if dropped:
            lines.append(f"  left out: {printable(', '.join(dropped), most=2_000)}")
        if self.adapted:
            lines.append(f"  {self.adapted}")
        if self.preprocessing is not None:
            size = "" if self.preprocessing.size is None else f", {self.preprocessing.size} pixels"
            mean, std = (" ".join(map(str, x)) for x in self.preprocessing_values())
            lines.append(f"  they were trained on mean {mean}, std {std}{size}")
        else:
            lines.append("  the file does not say on which mean and std they were trained")
        return "\n".join(lines)

    def preprocessing_values(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std), empty where the file does not say."""
        known = self.preprocessing
        return ((), ()) if known is None else (known.mean, known.std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        known = self.preprocessing
        return {
            "source": self.source,
            "sha256": self.sha256,
            "new": list(self.new),
            "adapted": self.adapted,
            "preprocessing": None
            if known is None
            else {"mean": list(known.mean), "std": list(known.std), "size": known.size},
        }


def load_pretrained(
    path_or_name: str | Path,
    model: ResNet,
    *,
    key: jax.Array | None = None,
    new_head: bool = False,
    adapt_stem: bool = False,
) -> tuple[dict[str, Any], LoadReport]:
    """A model's variables from weights in torchvision's (and timm's) key names.

    Every key of the file is used once and every leaf of the model filled once, in float32; torch's
    `num_batches_tracked` alone is passed over.

    Args:
        path_or_name: a `.safetensors` or `.pth` file, or "owner/name" on the Hugging Face hub.
        model: decides the shapes.
        key: of the new head's random weights.
        new_head: leave the file's `fc` out, whatever its shape, and draw the model's anew.
        adapt_stem: let the 3x3 stem of `stem="cifar"` take the centre of the file's 7x7 kernels.

    Returns:
        ``{"params", "batch_stats"}``, and the report.

    Raises:
        WeightsError: the file cannot be read, or does not fit: then every missing, unexpected and
            wrongly shaped key is listed.
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


def model_of(tensors: Tensors, architecture: str) -> ResNet:
    """The network of an architecture with the stem, width, head and classes that weights have.

    Whether they fit it otherwise is for `fill_model` to say.

    Raises:
        ValueError: unknown architecture.
    """
    kernel = tensors.get("conv1.weight", _NONE)
    sequential = f"{HEAD}.3.weight" in tensors
    head = tensors.get(f"{HEAD}.3.weight" if sequential else f"{HEAD}.weight", _NONE)
    # Without elements a tensor may have any shape.
    kernel, head = (_NONE if tensor.size == 0 else tensor for tensor in (kernel, head))
    return make_resnet(
        architecture,
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
    """`load_pretrained` for tensors in memory, under torchvision's names and in its layouts."""
    if new_head and key is None:
        raise ValueError("a new head is drawn at random: give the key to draw it with")
    shapes = _shapes(model)
    counters = {name for name in tensors if name.rpartition(".")[2] == COUNTER}
    unused = {name for name in counters if f"{name.removesuffix(COUNTER)}running_mean" in tensors}
    wanted: dict[str, tuple[str, str]] = {}  # torch's key -> (collection, our name)
    new = []
    for collection, tree in shapes.items():
        for name in named_leaves(tree):
            if new_head and name.split(".")[0] == HEAD:
                new.append(name)
            else:
                wanted[torch_name(name)] = (collection, name)
    if new_head:
        unused |= {name for name in tensors if name.split(".")[0] == HEAD}

    arrays = {name: np.asarray(tensors[name]) for name in wanted if name in tensors}
    adapted = None
    if (
        adapt_stem
        and model.stem == "cifar"
        and arrays.get("conv1.weight", _NONE).shape[2:] == (7, 7)
    ):
        arrays["conv1.weight"] = arrays["conv1.weight"][:, :, 2:5, 2:5]
        adapted = (
            "the stem's 7x7 kernels were cut to their 3x3 centre, its stride is 1, not 2, and no "
            "max-pool follows: only training with bn='batch' makes BatchNorm's running statistics "
            "true again"
        )
    problems = _misfits(model, shapes, wanted, arrays, set(tensors) - set(wanted) - unused)
    if problems:
        raise WeightsError(f"{source} does not fit the model:\n  " + "\n  ".join(problems))

    drawn = _draw_head(model, key) if new_head else {}
    filled: dict[str, Any] = {}
    for collection, tree in shapes.items():
        leaves = [
            drawn[name]
            if name in drawn
            else jnp.array(_to_flax(arrays[torch_name(name)]), jnp.float32)
            for name in named_leaves(tree)
        ]
        filled[collection] = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return filled, LoadReport(
        source=source,
        sha256=sha256 or _digest(tensors),
        params=sum(collection == "params" for collection, _ in wanted.values()),
        batch_stats=sum(collection == "batch_stats" for collection, _ in wanted.values()),
        new=tuple(new),
        unused=tuple(sorted(unused)),
        adapted=adapted,
        preprocessing=preprocessing,
    )


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A model's variables under torchvision's names and in its layouts, float32."""
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
        preprocessing: travels in the file's metadata, where `load_pretrained` finds it.
        metadata: more of it.
        steps: for torch's `num_batches_tracked`.
        overwrite: replace a file of that name.

    Raises:
        WeightsError: the file exists, is not called .safetensors, or cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise WeightsError(f"{path}: the format is safetensors, so call the file .safetensors")
    tensors = to_torch(variables)
    counters = {
        key.removesuffix("running_mean") + COUNTER: np.array(steps, np.int64)
        for key in tensors
        if key.endswith("running_mean")
    }
    described = dict(metadata or {})
    if preprocessing is not None:
        described |= preprocessing.to_metadata()
    write_safetensors(Path(path), tensors | counters, described, overwrite=overwrite)


_NONE = np.zeros(())


def _shapes(model: ResNet) -> dict[str, Any]:
    image = jnp.zeros((1, 32, 32, 3), jnp.float32)
    return dict(jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0)))


def _draw_head(model: ResNet, key: jax.Array | None) -> dict[str, jax.Array]:
    """The head that `model.init` would draw; compiled, the rest of the network falls away."""
    image = jnp.zeros((1, 32, 32, 3), jnp.float32)
    head = jax.jit(lambda key: model.init(key, image, train=False)["params"][HEAD])(key)
    return {f"{HEAD}.{name}": leaf for name, leaf in named_leaves(head).items()}


def _misfits(
    model: ResNet,
    shapes: Mapping[str, Any],
    wanted: Mapping[str, tuple[str, str]],
    arrays: Tensors,
    extra: set[str],
) -> list[str]:
    """Everything that is wrong, a line each."""
    named = {name: named_leaves(tree) for name, tree in shapes.items()}
    missing = [key for key in wanted if key not in arrays]
    lines = [f"missing: {key}" for key in missing]
    lines += [f"unexpected: {printable(key)}" for key in sorted(extra)[:MOST_EXTRA]]
    if len(extra) > MOST_EXTRA:
        lines.append(f"unexpected: {len(extra) - MOST_EXTRA:,} more")
    for key, array in arrays.items():
        collection, name = wanted[key]
        shape = _torch_shape(named[collection][name].shape)
        if array.shape != shape:
            lines.append(f"{key}: {array.shape} in the file, {shape} in the model")
        elif array.dtype.kind != "f":
            lines.append(f"{key}: {array.dtype} in the file, not floating-point numbers")
        elif not np.isfinite(array).all():
            lines.append(f"{key}: not all of its numbers are finite")
        elif name.endswith(".var") and (array < 0).any():
            lines.append(f"{key}: a variance is negative")
    return lines + (_hints(model, arrays, extra, missing) if lines else [])


def _hints(model: ResNet, arrays: Tensors, extra: set[str], missing: list[str]) -> list[str]:
    """What the misfits look like, and the way out."""
    hints = []
    depth = _looks_like({*arrays, *extra})
    mine = next(
        (
            name
            for name, shape in ARCHITECTURES.items()
            if (model.stage_sizes, model.bottleneck) == (shape["stage_sizes"], shape["bottleneck"])
        ),
        None,
    )
    if depth != mine and depth is not None:
        hints.append(f"these are the weights of a {depth}: build that model")
    stem = arrays.get("conv1.weight", _NONE).shape[2:]
    if model.stem == "cifar" and stem == (7, 7):
        hints.append(
            "the file has the 7x7 ImageNet stem and the model the 3x3 CIFAR stem: build the model "
            "with stem='imagenet', or ask for adapt_stem"
        )
    if model.stem == "imagenet" and stem == (3, 3):
        hints.append("the file has the 3x3 CIFAR stem: build the model with stem='cifar'")
    if f"{HEAD}.0.weight" in extra and f"{HEAD}.weight" in missing:
        hints.append("the file has a sequential head: build the model with head='sequential'")
    if f"{HEAD}.weight" in extra and f"{HEAD}.0.weight" in missing:
        hints.append("the file has a linear head: build the model with head='linear'")
    head = [key for key in (*missing, *extra) if key.split(".")[0] == HEAD]
    weight = arrays.get(f"{HEAD}.weight", _NONE)
    if head or (weight.ndim == 2 and weight.shape[0] != model.num_classes):
        hints.append("for another head than the file's, ask for new_head")
    return hints


def _looks_like(keys: set[str]) -> str | None:
    """The architecture whose blocks the keys name."""
    words = [key.split(".") for key in keys]
    stages = sorted({w[0] for w in words if w[0].startswith("layer") and len(w) > 2})
    sizes = tuple(len({w[1] for w in words if w[0] == stage and len(w) > 2}) for stage in stages)
    bottleneck = any(len(w) > 2 and w[2] == "conv3" for w in words)
    for name, shape in ARCHITECTURES.items():
        if (shape["stage_sizes"], shape["bottleneck"]) == (sizes, bottleneck):
            return name
    return None


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of one of our leaves: [h, w, in, out] is [out, in, h, w] there, [in, out] is [out, in]."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return shape[::-1]


def _to_flax(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
