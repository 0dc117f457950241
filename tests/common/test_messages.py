import json

from jaxcifar.common.messages import printable, shown


def test_any_value_is_shown_short_and_printable():
    deep = json.loads("[" * 900 + "]" * 900)
    for value in (deep, "x" * 10**6, {"a": deep}, [0] * 10**5, 10**4_000, "\x1b\n\0\u202e"):
        assert len(shown(value)) < 200
        assert shown(value).isprintable()
    assert shown(0.1) == "0.1"
    assert shown("a'b") == '''"a'b"'''
    assert printable("naïve\x1b\n") == r"naïve\x1b\n"
    assert printable("x" * 300) == "x" * 200 + "..."
