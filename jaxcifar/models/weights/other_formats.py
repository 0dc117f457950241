"""Files that are often taken for weights: what they are, and how to get weights from them.

They are told by their first bytes, and zip archives by the names of their entries. Nothing in them
is decoded or run.
"""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from jaxcifar.common.messages import printable
from jaxcifar.models.weights.torch_file import ZIP_START, check_zip_end

_START = 512  # bytes: the mark of a tar archive ends at 262
_SAVE = 'torch.save(model.state_dict(), "weights.pth")'
_FROM_PYTORCH = f"save the weights of the PyTorch model instead, with {_SAVE}"
_NOT_TORCH = "give a .pth or .safetensors file with the key names of torchvision's ResNets"
_UNPACK = "unpack it, and give the path of the file of weights in it"
# The first bytes of formats that need no more than these.
_MARKS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself: fetch it with git lfs pull",
    ),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes: {_NOT_TORCH}"),
    (b"model_checkpoint_path:", f"the index of TensorFlow checkpoints: {_NOT_TORCH}"),
    (b"\x93NUMPY", f"a NumPy array (.npy) without names: {_NOT_TORCH}"),
    (b"GGUF", f"a GGUF file of a language model: {_NOT_TORCH}"),
    (b"\x1f\x8b", f"compressed by gzip: {_UNPACK}"),
    (b"BZh", f"compressed by bzip2: {_UNPACK}"),
    (b"\xfd7zXZ\x00", f"compressed by xz: {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd: {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK}"),
)
# LevelDB's mark at the end of a table, which a checkpoint's index is.
_TABLE_END = bytes.fromhex("57fb808b247547db")
# ModelProto begins with its ir_version (at least 3 in any release) and one of its next fields.
_ONNX = re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
_SAVED_MODEL = b"\x08\x01\x12"  # schema version 1, and a graph
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_TEXT_OF_JSON = re.compile(rb"\s*[\[{]\s*[\"\]}]")


def name_format(path: Path) -> str | None:
    """What the file is and what to do, to follow "PATH is"; None if it is none of these formats.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_START)
        file.seek(max(0, path.stat().st_size - len(_TABLE_END)))
        end = file.read(len(_TABLE_END))
    if start.startswith(ZIP_START):
        return _name_zip(path)
    for mark, text in _MARKS:
        if start.startswith(mark):
            return text
    if _WEB_PAGE.match(start):
        return "a web page, not the file itself: download the file by the link to its raw data"
    if _TEXT_OF_JSON.match(start):
        return "a text in JSON, perhaps a server's error: download the file again"
    if start[257:262] == b"ustar":
        return f"a tar archive: {_UNPACK}"
    if end == _TABLE_END or re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
        return f"part of a TensorFlow checkpoint: {_NOT_TORCH}"
    if start.startswith(_SAVED_MODEL):
        return f"a TensorFlow SavedModel: {_NOT_TORCH}"
    if _ONNX.match(start):
        return f"an ONNX model, whose export may merge BatchNorms and rename keys: {_FROM_PYTORCH}"
    return None


def _name_zip(path: Path) -> str | None:
    """As `name_format`, for a zip archive; None for a damaged one, which `read_torch` reports."""
    try:
        with path.open("rb") as file:
            check_zip_end(file, path.stat().st_size)
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
    except Exception:  # zipfile raises any exception for a forged file
        return None
    return _name_entries(names, path)


def _name_entries(names: list[str], path: Path) -> str | None:
    file = printable(repr(str(path)))
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last and _any_below("code", names):
        return (
            "a TorchScript archive (torch.jit.save), not a state dict: save its weights, with "
            f'torch.save(torch.jit.load({file}).state_dict(), "weights.pth")'
        )
    if "archive_format" in last or "serialized_exported_program.json" in last:
        return (
            "an exported program (torch.export.save), not a state dict: save its weights, with "
            f'torch.save(torch.export.load({file}).state_dict, "weights.pth")'
        )
    if names and all(name.endswith(".npy") for name in names):
        return (
            "an archive of NumPy arrays (.npz): write it as safetensors, with "
            f'safetensors.numpy.save_file(dict(numpy.load({file})), "weights.safetensors")'
        )
    if "model.weights.h5" in last:
        return f"a Keras model: {_NOT_TORCH}"
    inner = next((n for n in names if n.endswith((".pth", ".pt", ".safetensors"))), None)
    if inner is not None and "data.pkl" not in last:
        return f"a zip archive with {printable(inner)} in it: {_UNPACK}"
    return None


def _any_below(folder: str, names: Iterable[str]) -> bool:
    return any(folder in name.split("/")[:-1] for name in names)
