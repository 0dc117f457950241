import ast
import doctest
import json
import logging
import unicodedata
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.common import messages
from jaxcifar.common.messages import (
    counted,
    did_you_mean,
    escaped,
    get_logger,
    join_lines,
    printable,
    reason_of,
    say,
    shown,
    warn,
)

ANY_TEXT = st.text(st.characters(codec=None))  # lone surrogates, too


def test_any_value_is_shown_short_and_printable():
    deep = json.loads("[" * 900 + "]" * 900)
    for value in (deep, "x" * 10**6, {"a": deep}, [0] * 10**5, 10**4_000, "\x1b\n\0\u202e"):
        assert len(shown(value)) < 200
        assert shown(value).isprintable()
    assert shown(0.1) == "0.1"
    assert shown("a'b") == '''"a'b"'''
    assert printable("naïve\x1b\n") == r"naïve\x1b\n"
    assert printable("x" * 300) == "x" * 200 + "..."


@given(ANY_TEXT)
def test_escaped_text_is_printable_and_can_be_read_back(text):
    line = escaped(text)
    # Controls, marks of direction, surrogates, private and unassigned characters; line ends.
    bad = ("C", "Zl", "Zp")
    assert not any(unicodedata.category(character).startswith(bad) for character in line)
    assert len(line.splitlines()) == bool(text)
    line.encode()
    assert escaped(line) == line
    if "\\" not in text:  # else what looks like an escape may have been in the text
        assert ast.literal_eval('"""' + line.replace('"', '\\"') + '"""') == text


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"])))
def test_printable_text_stays_as_it_is(text):
    assert escaped(text) == text


@given(st.lists(ANY_TEXT, min_size=1))
def test_lines_are_those_that_were_joined(texts):
    assert join_lines(texts).split("\n") == [escaped(text) for text in texts]
    assert len(join_lines(texts).split("\n")) == len(texts)


def test_examples():
    assert doctest.testmod(messages).attempted
    assert not doctest.testmod(messages).failed


def test_said_lines_are_escaped(capsys):
    say("wrote a\x1b[31m\nerror: forged", "", 3, flush=True)
    say()
    assert capsys.readouterr().out == "wrote a\\x1b[31m\\nerror: forged\n\n3\n"


def test_a_warning_is_escaped_and_of_its_caller():
    def warner():
        warn("a\x1b\n\u202eb is damaged", RuntimeWarning, stacklevel=2)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warner()
        warn("c\r")
    assert [str(w.message) for w in caught] == [r"a\x1b\n\u202eb is damaged", r"c\r"]
    assert [w.category for w in caught] == [RuntimeWarning, UserWarning]
    assert {w.filename for w in caught} == {__file__}
    lines = [w.lineno for w in caught]
    assert lines[1] == lines[0] + 1  # the lines of the two calls above


def test_a_log_record_is_escaped(caplog):
    logger = get_logger("jaxcifar.of_a_test")
    assert get_logger("jaxcifar.of_a_test") is logger
    logger.warning("%s: %d of %s", "a\x1b", 3, "b\nerror: forged")
    logger.warning("100 %\u202e")
    assert caplog.messages == [r"a\x1b: 3 of b\nerror: forged", r"100 %\u202e"]
    assert len(logger.filters) == 1
    assert logger is logging.getLogger("jaxcifar.of_a_test")


@pytest.mark.parametrize("name", ["cat\n", "zebra\x1b[31m"])
def test_suggested_names_are_escaped(name):
    assert did_you_mean("cat", [name]).isprintable()
    assert did_you_mean("", [name]).isprintable()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("first\nsecond"), "first"),
        (ValueError("\n  indented\n"), "indented"),
        (MemoryError(), "MemoryError"),
        (OSError(" \n"), "OSError"),
        (RuntimeError("a\x1b[31m"), r"a\x1b[31m"),
    ],
)
def test_a_reason_is_the_first_line_or_the_class(error, reason):
    assert reason_of(error) == reason


def test_a_number_has_its_noun_in_the_right_form():
    forms = [counted(n, "image") for n in (0, 1, 2, 2_000)]
    assert forms == ["0 images", "1 image", "2 images", "2,000 images"]
