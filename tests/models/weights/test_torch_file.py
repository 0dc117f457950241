import math
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights import torch_pickle
from jaxcifar.models.weights.torch_file import read_torch
from tests.models.weights import made_torch as made

GOOD = made.dictionary({"w": made.tensor()})
EXPECTED = np.arange(6, dtype=np.float32).reshape(2, 3)
both = pytest.mark.parametrize("make", made.CONTAINERS.values(), ids=made.CONTAINERS)


def file_of(make, body):
    """The old format lists just the storages that are mentioned."""
    return make(body) if make is made.zip_bytes or b"storage" in body else make(body, [])


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file, with bounds on memory and time, and notices what they set off."""

    def read(data, **bounds):
        path = tmp_path / "w.pth"
        path.write_bytes(data)
        with made.little_memory_and_time(**bounds):
            try:
                return read_torch(path)
            finally:
                assert not (tmp_path / "marker").exists(), "the file ran something"

    return read


@pytest.fixture
def refuse(read):
    def refuse(data, message, **bounds):
        with pytest.raises(WeightsError, match=message) as info:
            read(data, **bounds)
        assert "w.pth" in str(info.value)
        assert len(str(info.value)) < 700

    return refuse


# What is read.


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


def test_what_python_2_and_the_first_releases_wrote_is_read(read):
    """Strings of bytes, a dictionary made of a list of lists, and Parameters with a state."""
    storage = made.storage(more=b"N")
    old = made.name("torch._utils._rebuild_tensor") + made.tuple_of(
        storage, made.number(0), made.numbers((2, 3)), made.numbers((3, 1))
    )
    parameter = made.name("torch.nn.parameter.Parameter") + old + b"R\x85R\x88\x89N\x87b"
    pair = b"](U\x01w" + parameter + b"e"
    body = made.name("collections.OrderedDict") + b"](" + pair + b"e\x85R"
    np.testing.assert_array_equal(read(made.stream_bytes(body))["w"], EXPECTED)


@both
def test_parameters_sizes_and_the_metadata_of_a_state_dict_are_no_hindrance(read, make):
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
def test_the_usual_members_are_looked_into(read, make, key):
    body = made.dictionary({"epoch": made.number(3), key: GOOD, "none": b"N"})
    np.testing.assert_array_equal(read(make(body))["w"], EXPECTED)


@both
def test_the_prefix_of_data_parallel_is_taken_off_when_all_have_it(read, make):
    two = {"module.a": made.tensor(), "module.module.b": made.tensor()}
    assert list(read(make(made.dictionary(two)))) == ["a", "module.b"]
    mixed = {"module.a": made.tensor(), "b": made.tensor()}
    assert list(read(make(made.dictionary(mixed)))) == ["module.a", "b"]


# What holds no state dict.


@both
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (made.tensor(), "holds a Tensor where a dictionary"),
        (b"]" + made.tensor() + b"a", "holds a list where a dictionary"),
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
def test_what_is_no_state_dict_is_refused_saying_what_it_is(refuse, make, body, message):
    refuse(file_of(make, body), message)


# Code.

RUN = "cposix\nsystem\n"


def hostile_pickles(marker):
    """Pickles that touch `marker` if they get anywhere, and what refuses them."""
    command = made.text(f"touch {marker}")
    call = command + b"\x85"
    system = b"cposix\nsystem\n"
    run = "asks to run posix.system"
    short = b"\x8c\x05posix\x8c\x06system"
    ordered = made.name("collections.OrderedDict")
    return {
        "GLOBAL": (system + call + b"R", run),
        "GLOBAL of Python 2": (b"c__builtin__\neval\n" + call + b"R", "to run __builtin__.eval"),
        "getattr": (b"cbuiltins\ngetattr\n" + call + b"R", "asks to run builtins.getattr"),
        "a name with dots": (
            b"\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93)R",
            "asks to run collections.OrderedDict.__init__",
        ),
        "another name of torch": (b"ctorch.hub\nload\n" + call + b"R", "to run torch.hub.load"),
        "a class of the user": (b"c__main__\nNet\n)\x81", "asks to run __main__.Net"),
        "STACK_GLOBAL": (short + b"\x93" + call + b"R", run),
        "STACK_GLOBAL of no strings": (b"K\1K\2\x93", "whose name is not a string"),
        "STACK_GLOBAL from the memo": (
            b"\x8c\x05posix\x94\x8c\x06system\x94h\0h\1\x93" + call + b"R",
            run,
        ),
        "INST": (b"(" + command + b"iposix\nsystem\n", r"opcode INST \(posix system\)"),
        "OBJ": (b"(" + system + command + b"o", run),
        "OBJ of a known name": (b"(" + ordered + b"o", "opcode OBJ"),
        "NEWOBJ": (system + call + b"\x81", run),
        "NEWOBJ of a known name": (ordered + b")\x81", "opcode NEWOBJ"),
        "NEWOBJ_EX": (ordered + b")}\x92", "opcode NEWOBJ_EX"),
        "EXT1": (b"\x82\x01" + call + b"R", "opcode EXT1"),
        "EXT2": (b"\x83\x01\x00" + call + b"R", "opcode EXT2"),
        "EXT4": (b"\x84\x01\x00\x00\x00" + call + b"R", "opcode EXT4"),
        "REDUCE of a string": (made.text("posix.system") + call + b"R", "calls a str"),
        "REDUCE of a storage type": (
            made.name("torch.FloatStorage") + call + b"R",
            "calls a torch.FloatStorage",
        ),
        "REDUCE with a list": (ordered + b"]R", "with a list"),
        "BUILD on a name": (
            ordered + b"}" + made.text("__init__") + command + b"sb",
            "sets the state of a collections.OrderedDict",
        ),
        "BUILD on a list": (b"]}b", "sets the state of a list"),
        "SETITEM on a name": (
            ordered + command + command + b"s",
            "sets an item of a collections.OrderedDict",
        ),
        "APPEND to a name": (ordered + command + b"a", "appends to a collections.OrderedDict"),
        "PERSID": (b"Pposix.system\n", "opcode PERSID"),
        "a persistent module": (
            made.tuple_of(made.text("module"), ordered, command, command, b"N") + b"Q",
            "something other than a storage",
        ),
        "a name with control characters": (b"cposix\x1b[2J\nsystem\n", r"run posix\\x1b\[2J.sys"),
        "an endless name": (b"c" + b"m" * 9999 + b"\nf\n", r"asks to run m{80}\.\.\.:"),
    }


@both
@pytest.mark.parametrize("case", hostile_pickles(""))
def test_a_file_that_asks_for_code_is_refused_and_runs_nothing(refuse, tmp_path, make, case):
    body, message = hostile_pickles(tmp_path / "marker")[case]
    value = made.dictionary({"w": made.tensor()})[:-1] + made.text("x") + body + b"u"
    refuse(make(value), message)


@pytest.mark.parametrize("keep", ["magic", "about", "keys"])
def test_code_in_the_small_pickles_of_the_old_format_is_refused(refuse, tmp_path, keep):
    evil = made.pickled(b"cposix\nsystem\n" + made.text(f"touch {tmp_path}/marker") + b"\x85R")
    good = made.stream_bytes(GOOD)
    about = made.pickled(b"}(" + made.text("little_endian") + b"\x88u")
    keys = made.pickled(b"](" + made.text("0") + b"e")
    replaced = {"magic": made.MAGIC, "about": about, "keys": keys}[keep]
    assert good.count(replaced) == 1
    refuse(good.replace(replaced, evil), "asks to run posix.system")


def test_state_set_on_a_dictionary_or_tensor_changes_nothing(read):
    state = b"}" + made.text("__class__") + made.text("x") + b"s" + made.text("storage") + b"Ns"
    body = made.dictionary({"w": made.tensor() + state + b"b"}) + state + b"b"
    np.testing.assert_array_equal(read(made.zip_bytes(body))["w"], EXPECTED)


# Bombs.


def doubled_tuple(levels):
    return b")" + b"q\1h\1\x86" * levels


PAIRS = b"](" + b"](K\1K\1e" * 2000 + b"eq\1"
BOMBS = {
    "a huge memo index": (b"}r\xff\xff\xff\x7f", "holds no tensors"),
    "an unknown memo index": (b"j\xff\xff\xff\x7f", "cannot be read"),
    "a huge string": (b"X\xff\xff\xff\xff", "cannot be read"),
    "a huge string of 8 bytes": (b"\x8d" + b"\xff" * 7 + b"\x0f", "cannot be read"),
    "huge bytes": (b"\x8e" + b"\xff" * 7 + b"\x0f", "cannot be read"),
    "a huge bytearray": (b"\x96" + b"\xff" * 7 + b"\x0f", "cannot be read"),
    "a huge frame": (b"\x95" + b"\xff" * 8 + b"}", "holds no tensors"),
    "a huge whole number": (b"\x8b\xff\xff\xff\x7f", "cannot be read"),
    "a huge decimal number": (b"L" + b"9" * 99999 + b"L\n", "cannot be read|opcode LONG"),
    "a doubled tuple as key": (
        b"}" + doubled_tuple(64) + b"Ns",
        "a key that is a tuple",
    ),
    "a deep tuple as key": (b"})" + b"\x85" * 60_000 + b"Ns", "a key that is a tuple"),
    "a doubled tuple as name": (doubled_tuple(64) + doubled_tuple(64) + b"\x93", "not a string"),
    "a doubled tuple as storage": (doubled_tuple(64) + b"Q", "other than a storage"),
    "a deep list": (b"]" + b"]" * 60_000 + b"a" * 60_000, "holds a list"),
    "keys with one hash": (b"}" + made.number((1 << 61) - 1) + b"Ns", "or a huge number"),
    "one list made dictionaries again and again": (
        PAIRS + (made.name("collections.OrderedDict") + b"h\1\x85R") * 2000,
        "more than 150,000 steps",
    ),
    "a number of dimensions": (
        made.dictionary({"w": made.tensor((1,) * 65, (1,) * 65)}),
        "size is not a tuple of numbers",
    ),
    "a shape of nothing": (
        made.dictionary({"w": made.tensor((0, 1 << 62, 1 << 62), (1, 1, 1))}),
        "impossible shape",
    ),
    "a list in itself": (b"]q\1h\1a", "holds a list"),
    "a dictionary in itself": (b"}q\1" + made.text("model") + b"h\1s", "model is a dict"),
}


@both
@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_costs_little_time_and_memory(refuse, make, case, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MOST_STEPS", 150_000)  # slow where memory is traced
    body, message = BOMBS[case]
    # Sixty thousand steps and their memo take some megabytes by themselves.
    refuse(file_of(make, body), message, most=16 << 20)


def test_a_pickle_of_too_many_steps_ends_in_time(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(made.zip_bytes(b"N" * torch_pickle.MOST_STEPS + b"}"))
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="more than 1,000,000 steps"):
        read_torch(path)
    assert time.perf_counter() - start < 10


def test_the_steps_of_all_pickles_count_together(refuse, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MOST_STEPS", 100)
    refuse(made.stream_bytes(b"N" * 90 + b"}"), "more than 100 steps")


def test_a_pickle_too_long_is_refused_before_it_is_read(refuse):
    data = made.zip_bytes(b"X\0\0\0\x01" + b"x" * (1 << 24))
    refuse(data, "of 16,777,2.. bytes, where at most 16,777,216", most=1 << 20)
    refuse(made.stream_bytes(b"X\0\0\0\x01" + b"x" * (1 << 24)), "cannot be read", most=80 << 20)


@both
def test_many_tensors_of_one_storage_cost_no_more_than_one(read, make):
    names = {f"w{i}": made.tensor((250_000,), (1,), of=b"h\1") for i in range(200)}
    names["w0"] = made.tensor((250_000,), (1,), of=made.storage(count=250_000) + b"q\1")
    data = b"\0" * 1_000_000
    body = made.dictionary(names)
    file = make(body, {"0": data}) if make is made.zip_bytes else make(body, [("0", 250_000, data)])
    assert len(read(file)) == 200  # 200 MB, if each had its own


# Tensors that contradict themselves.


def with_storage(**changes):
    return made.dictionary({"w": made.tensor(of=made.storage(**changes))})


def one(*args, **kwargs):
    return made.dictionary({"w": made.tensor(*args, **kwargs)})


FALSE = {
    "beyond the end": (one((2, 4), (4, 1)), "a tensor w that reaches beyond the 6 numbers"),
    "one beyond the end": (one((6,), (1,), 1), "reaches beyond"),
    "a scalar beyond the end": (one((), (), 6), "reaches beyond"),
    "a huge offset": (one((1,), (1,), 1 << 62), "reaches beyond"),
    "a huge size": (one((1 << 62,), (1,)), "reaches beyond"),
    "a product that wraps": (one((1 << 32, 1 << 32), (1 << 32, 1)), "reaches beyond"),
    "a huge stride": (one((2,), (1 << 62,)), "reaches beyond"),
    "an enormous size": (one((1 << 1000,), (1,)), "reaches beyond"),
    "an expansion": (one((1 << 40,), (0,)), "whose elements overlap"),
    "a small expansion": (one((2, 3), (0, 1)), "whose elements overlap"),
    "an overlap": (one((2, 3), (2, 1)), "whose elements overlap"),
    "an overlap of equal strides": (one((2, 2), (1, 1)), "whose elements overlap"),
    "a negative size": (one((-1,), (1,)), "with a size that is not a number from 0"),
    "two negative sizes": (one((-2, -3), (3, 1)), "with a size that is not"),
    "a negative stride": (one((6,), (-1,), 5), "with a stride that is not"),
    "a negative offset": (one((6,), (1,), -1), "at an offset that is not"),
    "sizes without strides": (one((2, 3), (1,)), "of 2 sizes and 1 strides"),
    "metadata": (one(more=b"}" + made.text("neg") + b"\x88s"), "tensor with metadata"),
    "no storage": (one(of=made.number(5)), "a tensor in a int, not a storage"),
    "too few arguments": (
        made.name("torch._utils._rebuild_tensor_v2") + b")R",
        "from 0 arguments",
    ),
    "a parameter of nothing": (
        made.name("torch._utils._rebuild_parameter") + b"N\x88}\x87R",
        "Parameter that holds no tensor",
    ),
    "a size of nothing": (made.name("torch.Size") + b"N\x85R", "torch.Size of something"),
    "a size that is a string": (
        one().replace(made.numbers((2, 3)), made.text("23")),
        "size is not a tuple",
    ),
    "a size of a boolean": (
        one().replace(made.numbers((2, 3)), b"\x88K\3\x86"),
        "with a size that is not",
    ),
    "a dictionary of a number": (
        made.name("collections.OrderedDict") + b"K\1\x85R",
        "other than a list of pairs",
    ),
    "a dictionary of no pairs": (
        made.name("collections.OrderedDict") + b"]K\1a\x85R",
        "other than a list of pairs",
    ),
    "a dictionary of pairs with any key": (
        made.name("collections.OrderedDict") + b"]))\x86a\x85R",
        "a key that is a tuple",
    ),
    "a negative count": (with_storage(count=-6), "without a proper name and size"),
    "a storage of a number": (
        with_storage().replace(made.name("torch.FloatStorage"), b"K\1"),
        "whose type is a int",
    ),
    "a storage of a function": (
        with_storage(kind="torch.Size"),
        "whose type is a torch.Size",
    ),
    "numbers of a kind not known": (
        with_storage(kind="torch.ComplexFloatStorage"),
        "asks to run torch.ComplexFloatStorage",
    ),
    "a view of a storage": (with_storage(more=b"K\1"), "other than a storage"),
    "a storage of two counts": (
        made.dictionary({"a": made.tensor(), "b": made.tensor(of=made.storage(count=5))}),
        "its storage 0 in two ways",
    ),
    "a storage of two kinds": (
        made.dictionary(
            {"a": made.tensor(), "b": made.tensor(of=made.storage(kind="torch.IntStorage"))}
        ),
        "its storage 0 in two ways",
    ),
    "a storage of another size": (
        with_storage(count=7),
        "in its storage 0, whose tensors expect 7",
    ),
    "a storage of other numbers": (
        with_storage(kind="torch.DoubleStorage"),
        "expect 6 numbers of float64",
    ),
    "a storage of endless numbers": (with_storage(count=1 << 1000), "whose tensors expect"),
}


@both
@pytest.mark.parametrize("case", FALSE)
def test_a_tensor_that_cannot_be_is_refused(refuse, make, case):
    body, message = FALSE[case]
    if make is made.stream_bytes and case == "a storage of other numbers":
        message = "is cut short"
    refuse(file_of(make, body), message)


@pytest.mark.parametrize("size", [(6,), (3, 2)])
def test_a_tensor_may_fill_its_storage_to_the_last_number(read, size):
    stride = (1,) if len(size) == 1 else (2, 1)
    assert read(made.zip_bytes(one(size, stride)))["w"].max() == 5


# Zip files.


def zip_with(edit=None, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the duplicates asked for
        return made.zip_bytes(GOOD, edit=edit, **kwargs)


def patched(data, offset, value, entry="archive/data/0"):
    """Overwrites a field in the list of contents, and likewise in the entry's own header."""
    data, wanted = bytearray(data), entry.encode()
    central = data.rindex(wanted) - 46
    local = data.index(wanted) - 30
    assert data[central : central + 4] == b"PK\1\2"
    assert data[local : local + 4] == b"PK\3\4"
    for start in (central + offset, local + offset - 2):
        data[start : start + len(value)] = value
    return bytes(data)


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
        "its entries declare more",
    ),
    "a huge size": (patched(GOOD_ZIP, SIZE, HUGE), "an entry with two sizes"),
    "an encrypted entry": (patched(GOOD_ZIP, FLAGS, b"\1\0"), "compressed or encrypted entries"),
    "two of one name": (
        zip_with(lambda entries: entries.append(("archive/data/0", b"\1" * 24))),
        "two entries of one name",
    ),
    "two pickles": (
        zip_with(lambda entries: entries.append(("other/data.pkl", made.pickled(b"}")))),
        "with 2 data.pkl",
    ),
    "no pickle": (zip_with(lambda entries: entries.pop(0)), "with 0 data.pkl"),
    "no storage": (zip_with(storages={}), "lacks its storage 0"),
    "a short storage": (zip_with(storages={"0": b"\0" * 23}), "23 bytes in its storage 0"),
    "a long storage": (zip_with(storages={"0": b"\0" * 25}), "25 bytes in its storage 0"),
    "a big-endian machine": (zip_with(extra={"archive/byteorder": b"big"}), "big-endian machine"),
    "a strange byte order": (zip_with(extra={"archive/byteorder": b""}), "big-endian machine"),
    "a large byte order": (zip_with(extra={"archive/byteorder": b"x" * 99}), "at most 16 can be"),
    "a changed number": (GOOD_ZIP.replace(made.NUMBERS, made.NUMBERS[::-1]), "Bad CRC-32"),
    "more after the end": (GOOD_ZIP + b"\0", "does not end with its list of contents"),
    "much more after the end": (GOOD_ZIP + b"x" * 9999, "does not end with its list"),
    "a comment": (GOOD_ZIP[:-2] + b"\4\0abcd", "does not end with its list"),
    "half a comment": (GOOD_ZIP[:-2] + b"\4\0", "does not end with its list"),
    "another archive in front": (
        zip_with(storages={}) + GOOD_ZIP,
        "does not begin with its first entry",
    ),
    "more after the pickle": (
        zip_with(lambda entries: entries.insert(0, ("archive/data.pkl", entries.pop(0)[1] + b"."))),
        "after the end of its pickle",
    ),
    "only a beginning": (b"PK\3\4", "cannot be read"),
    "an empty archive": (b"PK\3\4" + b"PK\5\6" + b"\0" * 18, "with 0 data.pkl"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_a_zip_file_that_torch_would_not_write_is_refused(refuse, case):
    data, message = ZIPS[case]
    refuse(data, message)


def test_entries_that_share_bytes_may_not_add_up_to_more_than_the_file(refuse):
    """A thousand entries in the list of contents may all point to one."""
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
    refuse(bytes(archive), "its entries declare more")


@pytest.mark.parametrize("byteorder", [None, b"little"])
def test_a_little_endian_zip_file_is_read(read, byteorder):
    extra = {"archive/byteorder": byteorder} if byteorder else {}
    assert list(read(zip_with(extra=extra))) == ["w"]


# Streams.


STREAMS = {
    "another magic number": (
        made.stream_bytes(GOOD, magic=made.pickled(made.number(7))),
        "not one of torch.save",
    ),
    "a plain pickle": (made.pickled(b"}"), "a pickle, but not one of torch.save"),
    "another protocol": (made.stream_bytes(GOOD, protocol=1002), "a version"),
    "a big-endian machine": (made.stream_bytes(GOOD, little=False), "big-endian machine"),
    "bytes after the end": (made.stream_bytes(GOOD) + b"\0", "1 bytes after its last storage"),
    "an unlisted storage": (made.stream_bytes(GOOD, keys=[]), "other storages than"),
    "an unused storage": (made.stream_bytes(GOOD, keys=["0", "1"]), "other storages than"),
    "a storage listed twice": (made.stream_bytes(GOOD, keys=["0", "0"]), "other storages than"),
    "another count": (made.stream_bytes(GOOD, [("0", 5, made.NUMBERS)]), "20 bytes in its storage"),
    "a negative count": (made.stream_bytes(GOOD, [("0", -6, made.NUMBERS)]), "in its storage"),
    "a huge count": (
        made.stream_bytes(with_storage(count=1 << 40), [("0", 1 << 40, made.NUMBERS)]),
        "is cut short: it has .* bytes, and its storages need 4,398,046,511,",
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
def test_a_list_of_contents_too_long_is_not_read(refuse, zip64):
    """zipfile makes ten times its size of it."""
    entry = b"PK\1\2" + b"\0" * 42
    contents = entry * 100_000
    size, place = len(contents), len(GOOD_ZIP)
    end = b""
    if zip64:
        end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, size, place)
        end += b"PK\6\7" + struct.pack("<IQI", 0, place + size, 1)
    in_32_bits = 0xFFFFFFFF if zip64 else size
    end += b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, in_32_bits, place, 0)
    refuse(GOOD_ZIP + contents + end, "a list of contents of 4,600,000 bytes", most=6 << 20)
