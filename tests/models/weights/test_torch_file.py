import math
import struct
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights.torch_file import read_torch
from tests.models.weights import made_torch as made
from tests.models.weights.made_torch import GOOD, file_of, with_storage

EXPECTED = np.arange(6, dtype=np.float32).reshape(2, 3)
both = pytest.mark.parametrize("make", made.CONTAINERS.values(), ids=made.CONTAINERS)


@both
def test_a_tensor_is_read(read, make):
    arrays = read(make(GOOD))
    np.testing.assert_array_equal(arrays["w"], EXPECTED)
    assert list(arrays) == ["w"]
    assert arrays["w"].dtype == np.float32


@both
def test_strides_inside_the_storage_are_followed(read, make):
    body = made.dictionary(
        {
            "t": made.tensor((3, 2), (1, 3)),
            "part": made.tensor((2,), (3,), 1),
            "scalar": made.tensor((), (), 5),
            "one": made.tensor((1, 2), (1 << 62, 1), 4),
            "ones": made.tensor((1, 4, 1), (0, 1, 2)),
            "none": made.tensor((0, 3), (3, 1)),
        }
    )
    arrays = read(make(body))
    np.testing.assert_array_equal(arrays["t"], EXPECTED.T)
    np.testing.assert_array_equal(arrays["part"], [1, 4])
    np.testing.assert_array_equal(arrays["scalar"], np.float32(5))
    assert arrays["scalar"].shape == ()
    np.testing.assert_array_equal(arrays["one"], [[4, 5]])
    np.testing.assert_array_equal(arrays["ones"], [[[0], [1], [2], [3]]])
    assert arrays["none"].shape == (0, 3)


@both
def test_tensors_of_one_storage_share_memory_and_are_read_only(read, make):
    body = made.dictionary({"a": made.tensor(), "b": made.tensor((2,), (1,), 4)})
    arrays = read(make(body))
    assert np.shares_memory(arrays["a"], arrays["b"])
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0] = 1


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("Double", struct.pack("<2d", 0.1, -2), np.array([0.1, -2])),
        ("Float", struct.pack("<2f", 0.1, -2), np.array([0.1, -2], np.float32)),
        ("Half", struct.pack("<2e", 0.1, -2), np.array([0.1, -2], np.float16)),
        ("BFloat16", b"\x80\x3f\x49\x40", np.array([1, 3.140625], np.float32)),
        ("Long", struct.pack("<2q", 1 << 40, -2), np.array([1 << 40, -2])),
        ("Int", struct.pack("<2i", 1, -2), np.array([1, -2], np.int32)),
        ("Short", struct.pack("<2h", 1, -2), np.array([1, -2], np.int16)),
        ("Char", struct.pack("<2b", 1, -2), np.array([1, -2], np.int8)),
        ("Byte", b"\1\xfe", np.array([1, 254], np.uint8)),
        ("Bool", b"\0\xfe", np.array([False, True])),
    ],
)
@pytest.mark.parametrize("container", ["zip", "stream"])
def test_every_kind_of_number_is_read_exactly(read, container, kind, raw, expected):
    storage = made.storage(kind=f"torch.{kind}Storage", count=2)
    body = made.dictionary({"w": made.tensor((2,), (1,), of=storage)})
    data = (
        made.zip_bytes(body, {"0": raw})
        if container == "zip"
        else made.stream_bytes(body, [("0", 2, raw)])
    )
    array = read(data)["w"]
    assert array.dtype == expected.dtype
    assert array.tobytes() == expected.tobytes()
    assert not array.flags.writeable


def test_bfloat16_keeps_its_infinities_and_nan(read):
    storage = made.storage(kind="torch.BFloat16Storage", count=3)
    body = made.dictionary({"w": made.tensor((3,), (1,), of=storage)})
    array = read(made.zip_bytes(body, {"0": b"\x80\x7f\x80\xff\xc0\x7f"}))["w"]
    assert array[0] == math.inf
    assert array[1] == -math.inf
    assert np.isnan(array[2])


def test_files_of_python_2_and_the_first_releases_are_read(read):
    """Byte strings, a dictionary from a list of lists, and Parameters with a state."""
    storage = made.storage(more=b"N")
    old = made.name("torch._utils._rebuild_tensor") + made.tuple_of(
        storage, made.number(0), made.numbers((2, 3)), made.numbers((3, 1))
    )
    parameter = made.name("torch.nn.parameter.Parameter") + old + b"R\x85R\x88\x89N\x87b"
    pair = b"](U\x01w" + parameter + b"e"
    body = made.name("collections.OrderedDict") + b"](" + pair + b"e\x85R"
    np.testing.assert_array_equal(read(made.stream_bytes(body))["w"], EXPECTED)


@both
def test_parameters_sizes_and_the_metadata_of_a_state_dict_are_read(read, make):
    parameter = made.name("torch._utils._rebuild_parameter") + made.tuple_of(
        made.tensor(), b"\x88", b"}"
    )
    ordered = made.name("collections.OrderedDict") + b")R"
    state = ordered + b"(" + made.text("w") + parameter + b"R" + b"u"
    state += b"}" + made.text("_metadata") + ordered + b"s" + b"b"
    body = made.dictionary(
        {"state_dict": state, "size": made.name("torch.Size") + made.numbers((1,)) + b"\x85R"}
    )
    np.testing.assert_array_equal(read(make(body))["w"], EXPECTED)


def test_protocol_4_is_read(read):
    """STACK_GLOBAL, MEMOIZE, SHORT_BINUNICODE and FRAME, as torch.save(pickle_protocol=4)."""
    body = made.dictionary({"w": made.tensor()})
    for module, last in (("torch", "FloatStorage"), ("torch._utils", "_rebuild_tensor_v2")):
        parts = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, last)]
        body = body.replace(made.name(f"{module}.{last}"), b"\x94".join(parts) + b"\x94\x93\x94")
    framed = b"\x95" + struct.pack("<Q", len(body)) + body
    np.testing.assert_array_equal(read(made.zip_bytes(framed))["w"], EXPECTED)


@both
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_under_a_usual_key_is_found(read, make, key):
    body = made.dictionary({"epoch": made.number(3), key: GOOD, "none": b"N"})
    np.testing.assert_array_equal(read(make(body))["w"], EXPECTED)


@pytest.mark.parametrize("other", ["model_ema", "state_dict_ema", "teacher"])
def test_one_of_several_networks_of_a_shape_is_not_chosen(read, refuse, other):
    first, second = (
        made.dictionary({"w": made.tensor(of=made.storage(key=key))}) for key in ("0", "1")
    )
    body = made.dictionary({"state_dict": first, other: second, "epoch": made.number(3)})
    message = rf"has several networks of one shape \(state_dict, {other}\): write the one you want"
    refuse(made.zip_bytes(body, dict.fromkeys("01", made.NUMBERS)), message)
    # The same tensors once more, and what is no network of that shape.
    vector = made.dictionary({"w": made.tensor(size=(6,), stride=(1,))})
    turned = made.dictionary({"w": made.tensor(size=(3, 2), stride=(2, 1))})
    for others in ({other: first}, {"means": vector, "centers": turned, "optimizer": b"}"}):
        body = made.dictionary({"state_dict": first, **others})
        np.testing.assert_array_equal(read(made.zip_bytes(body))["w"], EXPECTED)


@both
def test_the_names_are_the_files_with_a_prefix_too(read, make):
    two = {"module.a": made.tensor(), "module.module.b": made.tensor()}
    assert list(read(make(made.dictionary(two)))) == list(two)


@both
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (made.tensor(), "holds a Tensor, not a dictionary of tensors"),
        (b"]" + made.tensor() + b"a", "holds a list, not a dictionary of tensors"),
        (b"}", "holds no tensors"),
        (made.dictionary({"state_dict": b"}", "w": made.tensor()}), "its 'state_dict' is an empty"),
        (
            made.dictionary({"w": made.tensor(), "lr": b"N"}),
            r"in it, lr is a NoneType\. Expected a",
        ),
        (
            made.dictionary({"model": made.dictionary({"w": made.number(1)})}),
            "in its 'model', w is a int",
        ),
        (b"}" + made.number(1) + made.tensor() + b"s", "in it, 1 is a Tensor"),
    ],
)
def test_a_file_without_a_state_dict_is_refused_with_its_type(refuse, make, body, message):
    refuse(file_of(make, body), message)


def test_a_pickle_too_long_is_refused_before_it_is_read(refuse):
    data = made.zip_bytes(b"X\0\0\0\x01" + b"x" * (1 << 24))
    refuse(data, "of 16,777,2.. bytes, more than the limit of 16,777,216", most=1 << 20)
    refuse(made.stream_bytes(b"X\0\0\0\x01" + b"x" * (1 << 24)), "cannot be read", most=80 << 20)


@both
def test_many_tensors_of_one_storage_need_no_more_memory_than_one(read, make):
    names = {f"w{i}": made.tensor((250_000,), (1,), of=b"h\1") for i in range(200)}
    names["w0"] = made.tensor((250_000,), (1,), of=made.storage(count=250_000) + b"q\1")
    data = b"\0" * 1_000_000
    body = made.dictionary(names)
    file = make(body, {"0": data}) if make is made.zip_bytes else make(body, [("0", 250_000, data)])
    assert len(read(file)) == 200  # 200 MB, if each had its own


def zip_with(edit=None, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns about duplicates
        return made.zip_bytes(GOOD, edit=edit, **kwargs)


def patched(data, offset, value, entry="archive/data/0"):
    """Overwrite a field of an entry, both in the zip directory and in the entry's own header."""
    data, wanted = bytearray(data), entry.encode()
    central = data.rindex(wanted) - 46
    local = data.index(wanted) - 30
    assert data[central : central + 4] == b"PK\1\2"
    assert data[local : local + 4] == b"PK\3\4"
    for start in (central + offset, local + offset - 2):
        data[start : start + len(value)] = value
    return bytes(data)


# Zip files.

SIZE, COMPRESSED, FLAGS = 24, 20, 8
HUGE = struct.pack("<I", 0xFFFFFFF0)
GOOD_ZIP = made.zip_bytes(GOOD)
ZIPS = {
    "compressed": (zip_with(compression=zipfile.ZIP_DEFLATED), "compressed or encrypted entries"),
    "a compression bomb": (
        zip_with(compression=zipfile.ZIP_DEFLATED, storages={"0": b"\0" * (1 << 26)}),
        "compressed or encrypted entries",
    ),
    "huge sizes": (
        patched(patched(GOOD_ZIP, SIZE, HUGE), COMPRESSED, HUGE),
        "its entries claim more",
    ),
    "a huge size": (patched(GOOD_ZIP, SIZE, HUGE), "an entry with two different sizes"),
    "an encrypted entry": (patched(GOOD_ZIP, FLAGS, b"\1\0"), "compressed or encrypted entries"),
    "two of one name": (
        zip_with(lambda entries: entries.append(("archive/data/0", b"\1" * 24))),
        "two entries with the same name",
    ),
    "two pickles": (
        zip_with(lambda entries: entries.append(("other/data.pkl", made.pickled(b"}")))),
        "with 2 files data.pkl",
    ),
    "no pickle": (zip_with(lambda entries: entries.pop(0)), "with 0 files data.pkl"),
    "no storage": (zip_with(storages={}), "has no storage 0, which its tensors use"),
    "a short storage": (zip_with(storages={"0": b"\0" * 23}), "23 bytes in its storage 0"),
    "a long storage": (zip_with(storages={"0": b"\0" * 25}), "25 bytes in its storage 0"),
    "a big-endian machine": (zip_with(extra={"archive/byteorder": b"big"}), "big-endian machine"),
    "a strange byte order": (zip_with(extra={"archive/byteorder": b""}), "big-endian machine"),
    "a large byte order": (
        zip_with(extra={"archive/byteorder": b"x" * 99}),
        "more than the limit of 16",
    ),
    "a changed number": (GOOD_ZIP.replace(made.NUMBERS, made.NUMBERS[::-1]), "Bad CRC-32"),
    "more after the end": (GOOD_ZIP + b"\0", "does not end with a zip directory"),
    "much more after the end": (GOOD_ZIP + b"x" * 9999, "does not end with a zip directory"),
    "a comment": (GOOD_ZIP[:-2] + b"\4\0abcd", "does not end with a zip directory"),
    "half a comment": (GOOD_ZIP[:-2] + b"\4\0", "does not end with a zip directory"),
    "another archive in front": (
        zip_with(storages={}) + GOOD_ZIP,
        "does not begin with its first entry",
    ),
    "more after the pickle": (
        zip_with(lambda entries: entries.insert(0, ("archive/data.pkl", entries.pop(0)[1] + b"."))),
        "after the end of its pickle",
    ),
    "only a beginning": (b"PK\3\4", "cannot be read"),
    "an empty archive": (b"PK\3\4" + b"PK\5\6" + b"\0" * 18, "with 0 files data.pkl"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_a_zip_file_that_torch_would_not_write_is_refused(refuse, case):
    data, message = ZIPS[case]
    refuse(data, message)


def test_entries_that_share_bytes_may_not_add_up_to_more_than_the_file(refuse):
    """Many entries of the zip directory may point to the same bytes."""
    data = b"\0" * 1_000_000
    many = {f"w{i}": made.tensor(of=made.storage(str(i), count=250_000)) for i in range(300)}
    storages = {str(i): data if i == 0 else b"" for i in range(300)}
    file = made.zip_bytes(made.dictionary(many), storages)
    archive = bytearray(file)
    first = archive.rindex(b"archive/data/0") - 46
    for i in range(1, 300):
        start = archive.rindex(f"archive/data/{i}".encode()) - 46
        archive[start + 16 : start + 28] = archive[first + 16 : first + 28]
        archive[start + 42 : start + 46] = archive[first + 42 : first + 46]
    refuse(bytes(archive), "its entries claim more")


@pytest.mark.parametrize("byteorder", [None, b"little"])
def test_a_little_endian_zip_file_is_read(read, byteorder):
    extra = {"archive/byteorder": byteorder} if byteorder else {}
    assert list(read(zip_with(extra=extra))) == ["w"]


# Streams.

STREAMS = {
    "another magic number": (
        made.stream_bytes(GOOD, magic=made.pickled(made.number(7))),
        "not written by torch.save",
    ),
    "a plain pickle": (made.pickled(b"}"), "a pickle, but not written by torch.save"),
    "another protocol": (made.stream_bytes(GOOD, protocol=1002), "an unknown version"),
    "a big-endian machine": (made.stream_bytes(GOOD, little=False), "big-endian machine"),
    "bytes after the end": (made.stream_bytes(GOOD) + b"\0", "1 bytes after its last storage"),
    "an unlisted storage": (
        made.stream_bytes(GOOD, keys=[]),
        "not list exactly the storages that its tensors use",
    ),
    "an unused storage": (
        made.stream_bytes(GOOD, keys=["0", "1"]),
        "not list exactly the storages that its tensors use",
    ),
    "a storage listed twice": (
        made.stream_bytes(GOOD, keys=["0", "0"]),
        "not list exactly the storages that its tensors use",
    ),
    "another count": (made.stream_bytes(GOOD, [("0", 5, made.NUMBERS)]), "20 bytes in its storage"),
    "a negative count": (made.stream_bytes(GOOD, [("0", -6, made.NUMBERS)]), "in its storage"),
    "a huge count": (
        made.stream_bytes(with_storage(count=1 << 40), [("0", 1 << 40, made.NUMBERS)]),
        "is cut short: it has .* bytes, but its storages need 4,398,046,511,",
    ),
}


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_torch_would_not_write_is_refused(refuse, case):
    data, message = STREAMS[case]
    refuse(data, message)


@both
def test_a_file_cut_short_anywhere_is_refused(tmp_path, make):
    data = make(GOOD)
    path = tmp_path / "w.pth"
    for end in [*range(0, len(data), 3), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(WeightsError, match="cannot be read|cut short"):
            read_torch(path)


@both
@settings(max_examples=100, deadline=None, database=None)
@given(data=st.data())
def test_a_damaged_file_is_an_error_or_arrays(tmp_path_factory, make, data):
    file = bytearray(make(made.dictionary({"a": made.tensor(), "b": made.tensor((2,), (2,), 1)})))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(file) - 1))
        file[where : where + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(file)
    try:
        arrays = read_torch(path)
    except WeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        read_torch(tmp_path / "none.pth")


@pytest.mark.parametrize("zip64", [False, True])
def test_a_zip_directory_that_is_too_large_is_not_read(refuse, zip64):
    """zipfile would take ten times its size in memory."""
    entry = b"PK\1\2" + b"\0" * 42
    directory = entry * 100_000
    size, offset = len(directory), len(GOOD_ZIP)
    end = b""
    if zip64:
        end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, size, offset)
        end += b"PK\6\7" + struct.pack("<IQI", 0, offset + size, 1)
    in_32_bits = 0xFFFFFFFF if zip64 else size
    end += b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, in_32_bits, offset, 0)
    refuse(GOOD_ZIP + directory + end, "a zip directory of 4,600,000 bytes", most=6 << 20)
