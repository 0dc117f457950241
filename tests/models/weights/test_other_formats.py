"""Files that are not weights are called by their names, with the way out, in one line."""

import io
import re
import tarfile
import zipfile

import numpy as np
import pytest

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights import read_weights
from tests.hostile_names import NAMES
from tests.models.weights import made_torch as made


def zip_of(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return out.getvalue()


def tar_of(name):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


SCRIPTED = ("m/data.pkl", "m/code/__torch__.py", "m/constants.pkl", "m/version")
FILES = {
    "TorchScript": (zip_of(*SCRIPTED), r"is a TorchScript archive .*torch\.jit\.load\("),
    "pt2": (
        zip_of("m/models/model.json", "m/archive_format", "m/byteorder"),
        r"is an exported program .*torch\.export\.load\(",
    ),
    "old pt2": (zip_of("serialized_exported_program.json", "version"), "exported program"),
    "npz": (zip_of("a.npy", "b.npy"), r"\(\.npz\).*safetensors\.numpy\.save_file\("),
    "Keras": (zip_of("metadata.json", "config.json", "model.weights.h5"), "is a Keras model: give"),
    "a packed file": (zip_of("w/resnet18.pth"), r"zip archive with w/resnet18\.pth in it: unpack"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\0\0\0", "is an HDF5 file, as Keras writes: give"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x05" + b"2.4.0:", r"is an ONNX model.*state_dict\(\)"),
    "ONNX without a producer": (b"\x08\x0a\x3a\xff\x01\x0a", "is an ONNX model"),
    "SavedModel": (b"\x08\x01\x12\xff\x01\x0a\x10", "is a TensorFlow SavedModel: give"),
    "TensorFlow index": (
        b"\0\0\x09model" + bytes.fromhex("57fb808b247547db"),
        "is part of a TensorFlow checkpoint: give",
    ),
    "TensorFlow list": (b'model_checkpoint_path: "a"', "the index of TensorFlow checkpoints"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "web page": (b"<!DOCTYPE html>\n<html>", "is a web page, not the file itself: download"),
    "old web page": (b"\n <HTML><body>404</body>", "is a web page"),
    "XML": (b"<?xml version='1.0'?><Error>", "is a web page"),
    "JSON": (b'{"error": "Repository not found"}', "is a text in JSON"),
    "npy": (b"\x93NUMPY\x01\x00", r"a NumPy array \(\.npy\)"),
    "GGUF": (b"GGUF\3\0\0\0", "a GGUF file"),
    "gzip": (b"\x1f\x8b\x08\0", "is compressed by gzip: unpack it"),
    "xz": (b"\xfd7zXZ\0\0", "is compressed by xz: unpack it"),
    "tar": (tar_of("resnet18.pth"), "is a tar archive: unpack it"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", FILES)
def test_it_is_called_by_its_name_in_one_line(tmp_path, case, suffix):
    data, message = FILES[case]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path} is ")
    assert "\n" not in str(caught.value)


def test_the_data_of_a_tensorflow_checkpoint_are_known_by_their_name(tmp_path):
    path = tmp_path / "model.ckpt-100.data-00000-of-00001"
    path.write_bytes(b"\1\2\3\4" * 9)
    with pytest.raises(WeightsError, match="part of a TensorFlow checkpoint"):
        read_weights(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_line_about_an_npz_works(tmp_path, monkeypatch, save):
    import safetensors.numpy

    monkeypatch.chdir(tmp_path)
    save("w.npz", w=np.arange(3.0))
    with pytest.raises(WeightsError) as caught:
        read_weights("w.npz")
    line = re.search(r"safetensors\.numpy\.save_file\(.*", str(caught.value))[0]
    exec(line, {"safetensors": safetensors, "numpy": np})
    np.testing.assert_array_equal(read_weights("weights.safetensors").tensors["w"], np.arange(3.0))


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name and "\0" not in name])
def test_names_cannot_forge_a_line(tmp_path, name):
    try:
        (tmp_path / name).write_bytes(zip_of(*SCRIPTED))
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    with pytest.raises(WeightsError, match="TorchScript") as caught:
        read_weights(tmp_path / name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("make", made.CONTAINERS.values(), ids=made.CONTAINERS)
def test_a_whole_pickled_object_is_called_one(tmp_path, make):
    path = tmp_path / "w.pth"
    path.write_bytes(made.file_of(make, b"c__main__\nNet\n)\x81}b"))
    with pytest.raises(WeightsError, match=r"is a whole pickled object.*model\.state_dict\(\)"):
        read_weights(path)
    body = made.dictionary({"w": made.tensor(), "args": b"cargparse\nNamespace\n)\x81}b"})
    path.write_bytes(make(body))
    with pytest.raises(WeightsError, match=r"w\.pth asks to run argparse\.Namespace"):
        read_weights(path)


def test_a_damaged_zip_is_left_to_the_reader_of_torch(tmp_path):
    data = zip_of(*SCRIPTED)
    path = tmp_path / "w.pth"
    for end in range(4, len(data), 7):
        path.write_bytes(data[:end])
        with pytest.raises(WeightsError, match="cut short|cannot be read"):
            read_weights(path)


@pytest.mark.parametrize("kind", ["script", "module", "old module"])
def test_files_of_torch_are_called_by_their_names(tmp_path, monkeypatch, kind):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 2)
    if kind == "script":
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 2)), "w.pt")
    else:
        torch.save(model, "w.pt", _use_new_zipfile_serialization=kind == "module")
    called = {"script": "is a TorchScript archive"}.get(kind, "is a whole pickled object")
    with pytest.raises(WeightsError, match=called) as caught:
        read_weights("w.pt")
    if kind == "script":
        exec(re.search(r"torch\.save\(.*", str(caught.value))[0], {"torch": torch})
        tensors = read_weights("weights.pth").tensors
        np.testing.assert_array_equal(tensors["weight"], model.weight.detach().numpy())


@pytest.mark.slow
def test_an_exported_program_of_torch_is_called_one_and_the_line_works(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 2)
    torch.export.save(torch.export.export(model, (torch.ones(1, 2),)), "w.pt2")
    with pytest.raises(WeightsError, match="is an exported program") as caught:
        read_weights("w.pt2")
    exec(re.search(r"torch\.save\(.*", str(caught.value))[0], {"torch": torch})
    np.testing.assert_array_equal(
        read_weights("weights.pth").tensors["weight"], model.weight.detach().numpy()
    )
