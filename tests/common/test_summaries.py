"""Texts that stand for large objects are few, short, printable lines."""

from hypothesis import example, given
from hypothesis import strategies as st

from jaxcifar.common.summaries import LINES, WIDTH, literal, name_list, packed, shortened, summary

texts = st.text(max_size=300)


def assert_short(text):
    lines = text.split("\n")
    assert len(lines) <= LINES
    assert all(len(line) <= WIDTH and line.isprintable() for line in lines)


@given(texts, st.integers(3, 80))
@example("a" * 10, 10)
@example("\n" * 9, 10)
def test_a_name_is_shortened_in_its_middle(text, length):
    short = shortened(text, length)
    assert len(short) <= length
    assert short.isprintable()
    if text.isprintable() and len(text) <= length:
        assert short == text


def test_a_name_of_a_megabyte_costs_nothing():
    assert len(shortened("\x1b" * 10**6, 50)) <= 50


@given(st.lists(texts, max_size=8), st.none() | texts)
def test_a_summary_is_short_whatever_the_names(parts, name):
    assert_short(summary("Splits", [shortened(part, 96) for part in parts], name=name))


@given(st.lists(texts, max_size=40), st.integers(10, 90))
def test_a_list_of_names_has_its_length(names, length):
    text = name_list(names, length)
    assert len(text) <= length
    assert text.isprintable()
    assert text.endswith("...") or text == ", ".join(shortened(name, 30) for name in names)


@given(st.lists(st.integers(0, 10**30), min_size=1, max_size=200))
def test_what_has_no_room_is_counted(numbers):
    text = packed("f(", [f"{number}, " for number in numbers])
    assert_short(text)
    if "... " in text:
        shown, _, rest = text.partition("  ... ")
        assert shown.count(",") + int(rest.split()[0]) == len(numbers)
    else:
        assert eval(text, {"f": lambda *given: list(given)}) == numbers


@given(
    texts
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
)
def test_a_literal_in_pieces_is_the_value(value):
    pieces = literal(value)
    assert all(len(piece) <= 80 and piece.isprintable() for piece in pieces)
    if len(pieces) > 1 or "…" not in pieces[0]:
        assert eval(" ".join(pieces)) == value
