import json
import os

import pytest

from jaxcifar.common.files import AnyNumber, Unusable, misfit, parse_json, read_bytes, read_json
from jaxcifar.common.messages import printable, shown


def test_a_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    assert read_bytes(tmp_path / "x", 4) == b"1234"
    with pytest.raises(Unusable, match="x has 4 bytes, where at most 3 are read"):
        read_bytes(tmp_path / "x", 3)


def test_a_sparse_file_costs_nothing(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(Unusable, match=r"has 4,398,046,511,104 bytes"):
        read_json(tmp_path / "x")


def test_what_is_no_file_is_neither_waited_for_nor_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in (
        ("pipe", "is a pipe, a device or the like, not a file"),
        ("/dev/zero", "is a pipe, a device or the like, not a file"),
        (".", "is a directory, not a file"),
        ("none", "none cannot be read: No such file"),
        ("loop", "loop cannot be read: Too many levels of symbolic links"),
        ("a\0b", r"a\\x00b cannot be read: .*embedded null"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(Unusable, match=message):
            read_bytes(tmp_path / name, 10)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "f cannot be read as JSON: it is nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 5_000, "f cannot be read as JSON: Exceeds the limit"),
        (b'"\xff"', "f cannot be read as JSON: 'utf-8' codec"),
        (b"\xff\xfe1\x00", "codec"),
        (b"", "Expecting value"),
        (b"\0", "Expecting value"),
    ],
)
def test_what_is_no_json_is_one_error(data, message):
    with pytest.raises(Unusable, match=message):
        parse_json(data, "f")


@pytest.mark.parametrize(
    ("value", "shape", "problem"),
    [
        (1, int, None),
        (True, int, "it is True, not a whole number"),
        (1.0, int, "it is 1.0, not a whole number"),
        (2**63, int, "it is 9223372036854775808, not a whole number"),
        (1, float, None),
        (float("nan"), float, "it is nan, not a finite number"),
        (10**400, float, "not a finite number"),
        (float("nan"), AnyNumber, None),
        ("1", AnyNumber, "it is '1', not a number"),
        (10**400, AnyNumber, "not a number"),
        ("a b", str, None),
        ("a\x1b[2J", str, r"it is 'a\x1b[2J', not a line of text"),
        (None, (None, float), None),
        ("x", (None, float), "it is 'x', not a finite number"),
        ([1, "x"], [int], "it[1] is 'x', not a whole number"),
        ({}, [int], "it is {}, not a list"),
        ([], {"a": int}, "it is [], not an object"),
        ({}, {"a": int}, "a is missing"),
        ({}, {"a?": int}, None),
        ({"a": None}, {"a?": int}, "a is None, not a whole number"),
        ({"a": {"b": []}}, {"a": {"b": dict}}, "a.b is [], not an object"),
        ({"a": 1, "b": "x"}, {"a": int, "*": str}, None),
        ({"a": 1, "b\n": 2}, {"a": int, "*": str}, r"b\n is 2, not a line of text"),
        ({"a?": "x"}, {"a?": int}, None),
    ],
)
def test_what_does_not_fit_is_named(value, shape, problem):
    found = misfit(value, shape)
    assert found == problem or (problem and problem in found)


def test_values_are_shown_shortly_whatever_they_hold():
    deep = json.loads("[" * 900 + "]" * 900)
    for value in (deep, "x" * 10**6, {"a": deep}, [0] * 10**5, 10**4_000, "\x1b\n\0\u202e"):
        assert len(shown(value)) < 200
        assert shown(value).isprintable()
    assert shown(0.1) == "0.1"
    assert shown("a'b") == '''"a'b"'''
    assert printable("naïve\x1b\n") == r"naïve\x1b\n"
    assert printable("x" * 300) == "x" * 200 + "..."
