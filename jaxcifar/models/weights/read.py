"""Read weights from a file of either format, or from a repository of the hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from numpy.typing import NDArray

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights.hub import fetch
from jaxcifar.models.weights.other_formats import name_format
from jaxcifar.models.weights.safetensors_file import read_safetensors
from jaxcifar.models.weights.torch_file import ZIP_START, read_torch

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*(@[A-Za-z0-9_][\w./-]*)?", re.ASCII)
# A name on the hub may contain a dot too (timm/resnet18.a1_in1k), so only these mean a file.
_SUFFIXES = (
    *(".bin", ".ckpt", ".h5", ".keras", ".npz", ".onnx", ".pkl", ".pt", ".pt2", ".pth"),
    *(".safetensors", ".tar"),
)
# 4 GB: a ResNet-50 with its optimizer state, all in double precision, has 0.6 GB.
MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class WeightFile:
    """The weights in a file.

    Attributes:
        source: the path or the name on the hub, as given.
        tensors: by name, with PyTorch's names and layouts; a prefix of the names is left to
            `pretrained.fill_model`. They may be read-only and share memory.
        metadata: of a safetensors file. Known keys are "mean" and "std" (numbers separated by
            blanks), "size" (pixels), "arch" and "classes"; for a repository on the hub, the first
            three are taken from timm's `pretrained_cfg`.
        sha256: of the file, in hex.
    """

    source: str
    tensors: dict[str, NDArray[Any]]
    metadata: dict[str, str]
    sha256: str


def read_weights(path_or_name: str | os.PathLike[str]) -> WeightFile:
    """Read a file in PyTorch's or the safetensors format, or the weights of a hub repository.

    An existing path is a file; its first bytes tell the format. Otherwise a string such as
    "owner/name" or "owner/name@revision" is a repository on the Hugging Face hub. No code in a file
    is run.

    Raises:
        WeightsError: there is no such file, or it cannot be used.
    """
    source = os.fspath(path_or_name)
    if os.path.exists(source):
        path = Path(source)
        tensors, metadata = _read_file(path)
        return WeightFile(source, tensors, metadata, sha256_of(path))
    if not isinstance(path_or_name, str) or not _is_hub_name(source):
        raise WeightsError(
            f"There is no file {source!r}; give the path of a .pth or .safetensors file, or "
            "owner/name on the Hugging Face hub."
        )
    file = fetch(source)
    tensors, metadata = _read_file(file.path)
    return WeightFile(source, tensors, preprocessing_metadata(file.config) | metadata, file.sha256)


def _is_hub_name(text: str) -> bool:
    return _HUB_NAME.fullmatch(text) is not None and not text.lower().endswith(_SUFFIXES)


def _read_file(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    if path.is_dir():
        raise WeightsError(f"{path} is a directory: give the path of a file in it.")
    if not path.is_file():  # reading a pipe would block, reading a device would never end
        raise WeightsError(f"{path} is a pipe, a device or the like: give the path of a file.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    if size > MAX_BYTES:
        raise WeightsError(f"{path} has {size:,} bytes, more than the limit of {MAX_BYTES:,}.")
    # Checked first: the length at the start of a safetensors file may look like a pickle.
    if start[8:9] == b"{":
        return read_safetensors(path)
    if (other := name_format(path)) is not None:
        raise WeightsError(f"{path} is {other}")
    if start.startswith((ZIP_START, b"\x80")):
        return read_torch(path), {}
    raise WeightsError(
        f"{path} is neither a safetensors file nor written by torch.save (it begins with "
        f"{start!r}); download it again."
    )


def preprocessing_metadata(config: dict[str, Any]) -> dict[str, str]:
    """The well-formed ones of "mean", "std" and "size" in timm's config.json, as metadata.

    In older files the entries of `pretrained_cfg` are at the top level.
    """
    entries = config.get("pretrained_cfg", config)
    if not isinstance(entries, dict):
        return {}
    metadata = {
        key: " ".join(repr(float(number)) for number in entries[key])
        for key in ("mean", "std")
        if _are_numbers(entries.get(key))
    }
    size = entries.get("input_size")
    if _are_numbers(size) and size[1] == size[2] > 0 and type(size[1]) is int:
        metadata["size"] = str(size[1])
    return metadata


def _are_numbers(value: Any) -> TypeGuard[list[float]]:
    """Whether the value is a list of three numbers below a million."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(number) in (int, float) and abs(number) < 1e6 for number in value)
    )
