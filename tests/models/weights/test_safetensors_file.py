import json
import os
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights import read_weights, write_safetensors
from jaxcifar.models.weights.safetensors_file import read_safetensors
from tests.models.weights import made_torch as made

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "bool"]
DTYPES += ["uint64", "uint32", "uint16", "uint8"]


def file_bytes(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


@pytest.fixture
def arrays():
    return {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(3, np.int64)}


def test_the_same_arguments_give_the_same_bytes(path, arrays):
    metadata = {f"key {number}": "text" for number in range(9)}
    write_safetensors(path, arrays, metadata)
    first = path.read_bytes()
    assert int.from_bytes(first[:8], "little") % 8 == 0
    for order in (metadata, dict(reversed(metadata.items()))):
        write_safetensors(path, dict(reversed(arrays.items())), order, overwrite=True)
        assert path.read_bytes() == first


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4))
@settings(deadline=None)
def test_the_library_reads_any_metadata_that_was_written(tmp_path_factory, metadata):
    path = tmp_path_factory.getbasetemp() / "metadata.safetensors"
    write_safetensors(path, {"a": np.arange(3.0)}, metadata, overwrite=True)
    with safe_open(path, "numpy") as file:
        assert (file.metadata() or {}) == metadata
        np.testing.assert_array_equal(file.get_tensor("a"), np.arange(3.0), strict=True)


# Reading.


def test_tensors_and_metadata_are_those_that_the_library_wrote(path, arrays):
    save_file(arrays, path, {"arch": "resnet18", "mean": "0.5 0.5 0.5"})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"arch": "resnet18", "mean": "0.5 0.5 0.5"}
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def test_a_file_without_metadata_has_none(path, arrays):
    save_file(arrays, path)
    assert read_safetensors(path)[1] == {}


def test_half_precision_is_read_exactly(path):
    """bfloat16 by the definition of its bits, together with float16 and float32."""
    header = {
        "bf": entry(0, 8, (2, 2), "BF16"),
        "f": entry(8, 12, (1,), "F32"),
        "h": entry(12, 16, (2,), "F16"),
    }
    data = b"\x80\x3f\x49\x40\x80\xff\x01\x00" + struct.pack("<f", 7) + struct.pack("<2e", 0.1, -2)
    path.write_bytes(file_bytes(header, data))
    tensors, _ = read_safetensors(path)
    assert list(tensors) == ["bf", "f", "h"]
    bf = np.array([[1, 3.140625], [-np.inf, 2.0**-133]], np.float32)
    np.testing.assert_array_equal(tensors["bf"], bf, strict=True)
    np.testing.assert_array_equal(tensors["f"], np.array([7], np.float32), strict=True)
    np.testing.assert_array_equal(tensors["h"], np.array([0.1, -2], np.float16), strict=True)


def test_bfloat16_needs_no_other_library(path, monkeypatch):
    path.write_bytes(file_bytes({"w": entry(0, 2, (1,), "BF16")}, b"\x80\x3f"))
    for module in ("ml_dtypes", "jax", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    assert read_safetensors(path)[0]["w"].tolist() == [1.0]


def test_files_of_torch_are_read(path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    state = {str(dtype): torch.randn(3, 2).to(dtype) for dtype in (torch.bfloat16, torch.half)}
    library.save_file(state, path)
    tensors, _ = read_safetensors(path)
    for name, tensor in state.items():
        expected = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(tensors[name], expected.numpy(), strict=True)


DAMAGED = {
    "nothing": (b"", "header too small"),
    "a header beyond the file": (struct.pack("<Q", 1000) + b"{}", "invalid header length"),
    "a huge header": (b"\xff" * 8 + b"{}", "header too large"),
    "no JSON": (file_bytes(b"{nonsense"), "invalid JSON"),
    "deep JSON": (file_bytes(b'{"a":' + b"[" * 100_000), "invalid JSON"),
    "no object": (file_bytes(b"[]"), "invalid JSON"),
    "no text": (file_bytes(b"{\xff\xfe}"), "header"),
    "overlapping offsets": (
        file_bytes({"a": entry(0, 4), "b": entry(0, 4)}, b"\0" * 4),
        "invalid offset",
    ),
    "offsets beyond the end": (file_bytes({"a": entry(0, 4)}, b"\0" * 3), "not fully covered"),
    "more after the end": (file_bytes({"a": entry(0, 4)}, b"\0" * 5), "not fully covered"),
    "a hole": (file_bytes({"a": entry(4, 8)}, b"\0" * 8), "invalid offset"),
    "a shape of another size": (file_bytes({"a": entry(0, 4, (2,))}, b"\0" * 4), "invalid shape"),
    "a shape that overflows": (
        file_bytes({"a": entry(0, 4, (1 << 32, (1 << 32) + 1))}, b"\0" * 4),
        "overflow",
    ),
    "an empty shape that is too large": (
        file_bytes({"a": entry(0, 0, (0, 1 << 62))}),
        "array is too big",
    ),
    "an empty bfloat16 shape that is too large": (
        file_bytes({"a": entry(0, 0, (0, 1 << 62, 1 << 62), "BF16")}),
        "array is too big",
    ),
    "too many dimensions": (file_bytes({"a": entry(0, 4, (1,) * 70)}, b"\0" * 4), "dimension"),
    "a negative size": (file_bytes({"a": entry(0, 4, (-1,))}, b"\0" * 4), "invalid JSON"),
    "metadata that is no string": (file_bytes({"__metadata__": {"a": 3}}), "expected a string"),
    "an unknown dtype": (file_bytes({"a": entry(0, 4, (1,), "F99")}, b"\0" * 4), "unknown variant"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_error(path, case):
    data, message = DAMAGED[case]
    path.write_bytes(data)
    with made.little_memory_and_time():
        with pytest.raises(WeightsError, match=message) as info:
            read_safetensors(path)
    assert "w.safetensors cannot be read as a safetensors file" in str(info.value)


def test_numbers_that_numpy_lacks_are_refused_by_name(path):
    path.write_bytes(file_bytes({"layer.w": entry(0, 4, (4,), "F8_E4M3")}, b"\0" * 4))
    with pytest.raises(WeightsError, match="holds 'layer.w' as F8_E4M3 numbers"):
        read_safetensors(path)


def test_a_missing_file_is_an_error(path):
    with pytest.raises(WeightsError, match="No such file"):
        read_safetensors(path)


@settings(max_examples=100, deadline=None, database=None)
@given(data=st.data())
def test_a_file_damaged_anywhere_is_an_error_or_arrays(tmp_path_factory, data):
    header = {"__metadata__": {"a": "b"}, "a": entry(0, 8, (2,)), "b": entry(8, 12, (2,), "BF16")}
    file = bytearray(file_bytes(header, b"\0" * 12))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(file) - 1))
        file[where : where + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(file)
    try:
        tensors, _ = read_safetensors(path)
    except WeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in tensors.values())


# Writing.


@st.composite
def strided_arrays(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(draw(st.sampled_from("<>")))
    array = (np.random.default_rng(0).normal(size=shape) * 50).astype(np.int8).astype(dtype)
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    if array.ndim and draw(st.booleans()):
        array = array[:: draw(st.sampled_from([-1, 2]))]
    return np.broadcast_to(array, (2, *array.shape)) if draw(st.booleans()) else array


@settings(max_examples=60, deadline=None, database=None)
@given(arrays=st.dictionaries(st.text('a.\0é"', max_size=5), strided_arrays(), max_size=3))
def test_arrays_of_any_strides_are_read_as_written(tmp_path_factory, arrays):
    path = tmp_path_factory.getbasetemp() / "written.safetensors"
    write_safetensors(path, arrays, {"arch": "x"}, overwrite=True)
    library = load_file(path)
    tensors, metadata = read_safetensors(path)
    assert metadata == {"arch": "x"}
    assert tensors.keys() == arrays.keys() == library.keys()
    for name, array in arrays.items():
        native = array.astype(array.dtype.newbyteorder("="))
        np.testing.assert_array_equal(tensors[name], native, strict=True)
        np.testing.assert_array_equal(library[name], native, strict=True)


def test_an_existing_file_is_not_replaced_without_overwrite(path, arrays):
    path.write_bytes(b"mine")
    with pytest.raises(WeightsError, match=r"w\.safetensors exists: .*overwrite=True"):
        write_safetensors(path, arrays)
    assert path.read_bytes() == b"mine"
    write_safetensors(path, arrays, overwrite=True)
    assert read_weights(path).tensors.keys() == arrays.keys()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, arrays, monkeypatch):
    path.write_bytes(b"mine")
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                write_safetensors(path, arrays, overwrite=True)
        assert path.read_bytes() == b"mine"
        assert os.listdir(path.parent) == [path.name]


def test_the_file_is_synced_before_it_gets_its_name(path, arrays, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        calls.append(("fsync", os.fstat(descriptor).st_size, path.exists()))
        fsync(descriptor)

    def note_replace(source, target):
        calls.append(("replace", os.path.getsize(source), os.path.exists(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_safetensors(path, arrays)
    size, folder = path.stat().st_size, path.parent.stat().st_size
    # The last one is of the folder, whose entries are durable only then.
    assert calls == [("fsync", size, False), ("replace", size, False), ("fsync", folder, True)]


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"w": np.array(["a"])}, {}, "'w' has dtype str32, which cannot be stored; use float32"),
        ({"w": np.array([None])}, {}, "'w' has dtype object"),
        ({"w": np.zeros(1, complex)}, {}, "'w' has dtype complex128"),
        ({"__metadata__": np.zeros(1)}, {}, "a tensor cannot be named '__metadata__'"),
        ({3: np.zeros(1)}, {}, "a tensor cannot be named 3"),
        ({"\ud800": np.zeros(1)}, {}, "the tensors cannot be stored"),
        (
            {"w": np.zeros(1)},
            {"size": 32},
            "keys and values of metadata must be strings, not {'size': 32}",
        ),
        ({"w": np.zeros(1)}, {32: "size"}, "keys and values of metadata must be strings"),
    ],
)
def test_arguments_that_cannot_be_stored_are_refused(path, tensors, metadata, message):
    with pytest.raises(WeightsError, match=message):
        write_safetensors(path, tensors, metadata)
    assert os.listdir(path.parent) == []


def test_a_directory_is_refused(tmp_path, arrays):
    with pytest.raises(WeightsError, match="is a directory"):
        write_safetensors(tmp_path, arrays, overwrite=True)


def test_a_missing_folder_is_an_os_error(tmp_path, arrays):
    with pytest.raises(WeightsError, match="there is no folder"):
        write_safetensors(tmp_path / "none" / "w.safetensors", arrays)


def test_a_header_of_many_tensors_is_not_parsed(path):
    header = {f"w{i}": entry(0, 0, (0,)) for i in range(100_000)}
    path.write_bytes(file_bytes(header))
    with made.little_memory_and_time(), pytest.raises(WeightsError, match="header too large"):
        read_safetensors(path)
