import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights import WeightFile, read, read_weights, write_safetensors
from tests.models.weights import made_torch as made

METADATA = {"mean": "0.5 0.5 0.5", "std": "1 1 1", "size": "32", "arch": "x", "classes": "2"}


@pytest.fixture(autouse=True)
def requested(monkeypatch):
    """The names that were looked up on the hub."""
    names = []

    def fetch(name):
        names.append(name)
        raise WeightsError("no hub in this test")

    monkeypatch.setattr(read, "fetch", fetch)
    return names


@pytest.fixture
def expected():
    return np.arange(6, dtype=np.float32).reshape(2, 3)


def write(path, kind):
    if kind == "safetensors":
        write_safetensors(path, {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, METADATA)
    else:
        body = made.dictionary({"w": made.tensor()})
        path.write_bytes(made.CONTAINERS[kind](body))


@pytest.mark.parametrize("kind", ["safetensors", "zip", "stream"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ""])
@pytest.mark.parametrize("as_given", [str, Path])
def test_the_first_bytes_and_not_the_suffix_tell_the_format(
    tmp_path, expected, kind, suffix, as_given
):
    path = tmp_path / f"w{suffix}"
    write(path, kind)
    weights = read_weights(as_given(path))
    np.testing.assert_array_equal(weights.tensors["w"], expected, strict=True)
    assert weights == WeightFile(
        str(path),
        weights.tensors,
        METADATA if kind == "safetensors" else {},
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def test_a_safetensors_file_whose_first_bytes_look_like_a_pickle_is_read(tmp_path):
    for size in range(400, 700):
        path = tmp_path / f"{size}.safetensors"
        save_file({"w": np.ones(1)}, path, {"x": "x" * size})
        if path.read_bytes().startswith(b"\x80\x02"):
            assert read_weights(path).tensors["w"].tolist() == [1]
            return
    raise AssertionError("no such file was made")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"neither a safetensors file nor written by torch.save \(it begins with b''\)"),
        (b"PNG, not weights", "neither a safetensors file nor .*b'PNG, not weights'"),
        (b"\x80", "cannot be read as a file of torch.save"),
        (b"\x80\x02}.", "not written by torch.save"),
        (b"\xff" * 8 + b"{", "cannot be read as a safetensors file"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path, data, message):
    path = tmp_path / "w.pth"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="is a directory"):
        read_weights(tmp_path)


def test_a_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="is a pipe, a device or the like"):
        read_weights(tmp_path / "w.pth")


def test_a_device_is_refused():
    with pytest.raises(WeightsError, match="is a pipe, a device or the like"):
        read_weights("/dev/zero")


def test_a_file_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    path.write_bytes(b"x")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read: Permission denied"):
        read_weights(path)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.pth",
        "weights/resnet18.pth",
        "weights/resnet18.PTH",
        "weights/model.safetensors",
        "weights/pytorch_model.bin",
        "./weights/resnet18",
        "../resnet18",
        "/none/resnet18",
        "a/b/c",
        "resnet18",
        "resnet18@main",
        "timm/",
        "timm/resnet18@",
        "timm/resnet18@../x",
        "timm/..",
        "timm/resnet 18",
        "timm/resn\u00e9t",
        "timm/resnet18\n",
        "",
        "a\0b",
        "x" * 5000,
        Path("timm/resnet18"),
    ],
)
def test_a_name_like_a_files_is_a_missing_file_and_never_looked_up_on_the_hub(requested, name):
    with pytest.raises(WeightsError, match="There is no file"):
        read_weights(name)
    assert requested == []


@pytest.mark.parametrize(
    "name",
    [
        "timm/resnet18.a1_in1k",
        "timm/resnet18.a1_in1k@main",
        "a/b@refs/pr/1",
        "microsoft/resnet-18@2439f60ef33a0d46d85da5001d52aeda5b00ce9f",
    ],
)
def test_a_name_that_is_not_a_path_is_looked_up_on_the_hub(requested, name):
    with pytest.raises(WeightsError, match="no hub in this test"):
        read_weights(name)
    assert requested == [name]


def test_a_path_that_looks_like_a_name_is_a_path(tmp_path, monkeypatch, requested):
    monkeypatch.chdir(tmp_path)
    Path("timm").mkdir()
    write(Path("timm/resnet18"), "zip")
    assert list(read_weights("timm/resnet18").tensors) == ["w"]
    assert requested == []


def test_importing_it_imports_nothing_heavy():
    code = "import jaxcifar.models.weights, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "safetensors" in loaded
    assert not loaded & {"jax", "flax", "torch", "ml_dtypes", "huggingface_hub"}


def test_an_absurdly_large_file_is_not_read(tmp_path):
    path = tmp_path / "w.pth"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(1 << 42)
    with pytest.raises(WeightsError, match=r"has 4,398,046,511,104 bytes, more than the limit of"):
        read_weights(path)
