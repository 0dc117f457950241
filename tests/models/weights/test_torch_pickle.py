import time

import numpy as np
import pytest

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights import torch_pickle
from jaxcifar.models.weights.torch_file import read_torch
from tests.models.weights import made_torch as made
from tests.models.weights.made_torch import GOOD, file_of, one_tensor, with_storage

both = pytest.mark.parametrize("make", made.CONTAINERS.values(), ids=made.CONTAINERS)


# Files that ask to run code.


def hostile_pickles(marker):
    """Pickles that touch `marker` if they are run, and the expected messages."""
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
            "an object outside its pickle that is not a storage",
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
    np.testing.assert_array_equal(read(made.zip_bytes(body))["w"], np.arange(6).reshape(2, 3))


# Files that ask for much memory or time.


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
    "a doubled tuple as storage": (doubled_tuple(64) + b"Q", "that is not a storage"),
    "a deep list": (b"]" + b"]" * 60_000 + b"a" * 60_000, "holds a list"),
    "keys with one hash": (b"}" + made.number((1 << 61) - 1) + b"Ns", "or a huge number"),
    "many dictionaries from one list": (
        PAIRS + (made.name("collections.OrderedDict") + b"h\1\x85R") * 2000,
        "more than 150,000 steps",
    ),
    "too many dimensions": (
        made.dictionary({"w": made.tensor((1,) * 65, (1,) * 65)}),
        "size is not a tuple of at most 64 numbers",
    ),
    "an impossible empty shape": (
        made.dictionary({"w": made.tensor((0, 1 << 62, 1 << 62), (1, 1, 1))}),
        "impossible shape",
    ),
    "a list in itself": (b"]q\1h\1a", "holds a list"),
    "a dictionary in itself": (b"}q\1" + made.text("model") + b"h\1s", "model is a dict"),
}


@both
@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_costs_little_time_and_memory(refuse, make, case, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAX_STEPS", 150_000)  # slow where memory is traced
    body, message = BOMBS[case]
    # Sixty thousand steps and their memo take some megabytes by themselves.
    refuse(file_of(make, body), message, most=16 << 20)


def test_a_pickle_of_too_many_steps_is_refused_in_time(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(made.zip_bytes(b"N" * torch_pickle.MAX_STEPS + b"}"))
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="more than 1,000,000 steps"):
        read_torch(path)
    assert time.perf_counter() - start < 10


def test_the_steps_of_all_pickles_count_together(refuse, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAX_STEPS", 100)
    refuse(made.stream_bytes(b"N" * 90 + b"}"), "more than 100 steps")


# Tensors that contradict themselves.


INVALID_TENSORS = {
    "beyond the end": (one_tensor((2, 4), (4, 1)), "a tensor w that reaches beyond the 6 numbers"),
    "one beyond the end": (one_tensor((6,), (1,), 1), "reaches beyond"),
    "a scalar beyond the end": (one_tensor((), (), 6), "reaches beyond"),
    "a huge offset": (one_tensor((1,), (1,), 1 << 62), "reaches beyond"),
    "a huge size": (one_tensor((1 << 62,), (1,)), "reaches beyond"),
    "a product that wraps": (one_tensor((1 << 32, 1 << 32), (1 << 32, 1)), "reaches beyond"),
    "a huge stride": (one_tensor((2,), (1 << 62,)), "reaches beyond"),
    "an enormous size": (one_tensor((1 << 1000,), (1,)), "reaches beyond"),
    "an expansion": (one_tensor((1 << 40,), (0,)), "whose elements overlap"),
    "a small expansion": (one_tensor((2, 3), (0, 1)), "whose elements overlap"),
    "an overlap": (one_tensor((2, 3), (2, 1)), "whose elements overlap"),
    "an overlap of equal strides": (one_tensor((2, 2), (1, 1)), "whose elements overlap"),
    "a negative size": (
        one_tensor((-1,), (1,)),
        "with a size that is not a whole number of at least 0",
    ),
    "two negative sizes": (one_tensor((-2, -3), (3, 1)), "with a size that is not"),
    "a negative stride": (one_tensor((6,), (-1,), 5), "with a stride that is not"),
    "a negative offset": (one_tensor((6,), (1,), -1), "at an offset that is not"),
    "sizes without strides": (one_tensor((2, 3), (1,)), "with 2 sizes but 1 strides"),
    "metadata": (one_tensor(more=b"}" + made.text("neg") + b"\x88s"), "tensor with metadata"),
    "no storage": (one_tensor(of=made.number(5)), "a tensor in a int, not a storage"),
    "too few arguments": (
        made.name("torch._utils._rebuild_tensor_v2") + b")R",
        "from 0 arguments",
    ),
    "a parameter of nothing": (
        made.name("torch._utils._rebuild_parameter") + b"N\x88}\x87R",
        "Parameter without a tensor",
    ),
    "a size of nothing": (made.name("torch.Size") + b"N\x85R", "torch.Size of something"),
    "a size that is a string": (
        one_tensor().replace(made.numbers((2, 3)), made.text("23")),
        "size is not a tuple",
    ),
    "a size of a boolean": (
        one_tensor().replace(made.numbers((2, 3)), b"\x88K\3\x86"),
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
    "a negative count": (with_storage(count=-6), "without a valid name and size"),
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
    "a view of a storage": (with_storage(more=b"K\1"), "that is not a storage"),
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
        "expect 6 float64 numbers",
    ),
    "a storage of endless numbers": (with_storage(count=1 << 1000), "whose tensors expect"),
}


@both
@pytest.mark.parametrize("case", INVALID_TENSORS)
def test_an_invalid_tensor_is_refused(refuse, make, case):
    body, message = INVALID_TENSORS[case]
    if make is made.stream_bytes and case == "a storage of other numbers":
        message = "is cut short"
    refuse(file_of(make, body), message)


@pytest.mark.parametrize("size", [(6,), (3, 2)])
def test_a_tensor_may_fill_its_storage_to_the_last_number(read, size):
    stride = (1,) if len(size) == 1 else (2, 1)
    assert read(made.zip_bytes(one_tensor(size, stride)))["w"].max() == 5
