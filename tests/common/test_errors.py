import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.common import errors
from jaxcifar.common.errors import (
    DeviceError,
    MessageError,
    ProcessLostError,
    RunError,
    WeightsError,
    message_lines,
)
from jaxcifar.common.files import Unusable
from jaxcifar.runs.manifest import ManifestError

CLASSES = [
    *(c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, MessageError)),
    Unusable,
    ManifestError,
]


@pytest.mark.parametrize("kind", [errors.ExhaustedError, errors.NoneFoundError])
def test_a_caller_can_say_another_way_out(kind):
    error = kind("3 of 4 are lost:", "no image is blue", way_out="name one with --image")
    assert str(error) == "3 of 4 are lost:\nno image is blue; name one with --image"
    assert error.problem == "3 of 4 are lost:\nno image is blue"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_name_cannot_forge_a_line_of_a_message(kind):
    error = kind("runs/\x1b[31m\nerror: forged holds no run")
    assert str(error) == r"runs/\x1b[31m\nerror: forged holds no run"
    error = kind("the weights do not fit:", "  missing: \n\u202ea", "  unexpected: b\x85")
    assert str(error).split("\n") == [
        "the weights do not fit:",
        r"  missing: \n\u202ea",
        r"  unexpected: b\x85",
    ]
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("kind", CLASSES)
@given(lines=st.lists(st.text(st.characters(codec=None)), max_size=3))
def test_copies_and_pickles_say_the_same(kind, lines):
    error = kind(*lines)
    for same in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert (type(same), str(same), same.args) == (kind, str(error), error.args)
    assert str(error).count("\n") == max(len(lines) - 1, 0)
    assert message_lines(error) == str(error).split("\n")


def test_a_message_without_control_characters_is_as_it_was_written():
    text = "naïve 'quoted' \\ ± … 猫 is not a directory: choose another --workdir"
    assert str(RunError(text)) == text
    assert RunError(text).args == (text,)
    assert issubclass(ProcessLostError, DeviceError)


def test_a_foreign_error_is_one_line():
    assert message_lines(KeyError("a\nb")) == [r"'a\nb'"]
    assert message_lines(OSError("a\x1b\r\nerror: forged")) == [r"a\x1b\r\nerror: forged"]
    assert message_lines(FileNotFoundError(2, "gone", "a\n\udcff")) == [
        r"[Errno 2] gone: 'a\n\udcff'"
    ]
    assert message_lines(ValueError()) == [""]
    assert message_lines(WeightsError("a", "  b\n")) == ["a", r"  b\n"]
