import pytest

from jaxcifar.common.json_shape import AnyNumber, AnyText, misfit


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
        ("a\x1b[2J\n\udcff", AnyText, None),
        (b"a", AnyText, "it is b'a', not a line of text"),
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
def test_a_misfit_is_named(value, shape, problem):
    result = misfit(value, shape)
    assert result == problem or (problem and problem in result)
