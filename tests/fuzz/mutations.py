"""Corruptions of valid files: bytes flipped, cut, repeated, moved; extreme numbers; odd JSON."""

import copy
import json

from hypothesis import strategies as st

EXTREMES = [
    n.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for order in ("little", "big")
    for n in (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1)
]

ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**62, 2**63, -(2**63), 10**30, 10**400, -1, 0]),
    st.sampled_from([1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf"), 0.5]),
    st.sampled_from(
        ["", "x" * 3000, "\0", "\x1b[2J", "../../x", "/etc/passwd", "\ud800", "9" * 5000]
    ),
    st.sampled_from(
        ["nan", "0.1", "1_0", "frozen", "**.**.*", "*" * 40 + "x", "layer_decay:1e-300"]
    ),
    st.sampled_from([[], {}, [[]], [None], {"": {}}, [0.5] * 300, {"a": {"b": [1]}}]),
    st.text(max_size=20),
).map(copy.deepcopy)  # the lists among them may be changed

ODD_KEYS = ["", "x", "\x1b", "epochs", "seeds", "*"]


@st.composite
def changed_bytes(draw, data, least=1):
    """`data` after some changes."""
    data = bytearray(data)
    for _ in range(draw(st.integers(least, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        # Most of a file is often one thing, such as pixels; the interesting bytes are at its ends.
        at = draw(st.sampled_from([at, at % 64, len(data) - 1 - at % 64])) % len(data)
        kind = draw(st.sampled_from(["flip", "cut", "extreme", "repeat", "move", "drop", "put"]))
        length = draw(st.integers(1, 40))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "extreme":
            number = draw(st.sampled_from(EXTREMES))
            data[at : at + len(number)] = number
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * draw(st.sampled_from([1, 2, 1000]))
        elif kind == "move":
            piece = data[at : at + length]
            del data[at : at + length]
            to = draw(st.integers(0, len(data)))
            data[to:to] = piece
        elif kind == "drop":
            del data[at : at + length]
        else:
            data[at:at] = draw(st.binary(max_size=20))
    return bytes(data)


def _paths(value, path=()):
    """The path of every value inside."""
    yield path
    items = {dict: dict.items, list: enumerate}.get(type(value))
    if items is not None:
        for key, item in items(value):
            yield from _paths(item, (*path, key))


@st.composite
def changed_json(draw, value):
    """The bytes of a JSON value in which some items are gone, new or something else."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in _paths(value) if path]
        if not paths:
            break
        *outer, last = draw(st.sampled_from(paths))
        inside = value
        for key in outer:
            inside = inside[key]
        kind = draw(st.sampled_from(["other", "other", "other", "gone", "new"]))
        if kind == "other":
            inside[last] = draw(ODD_VALUES)
        elif kind == "gone":
            del inside[last]
        elif isinstance(inside, dict):
            inside[draw(st.sampled_from(ODD_KEYS))] = draw(ODD_VALUES)
        else:
            inside.append(draw(ODD_VALUES))
    text = json.dumps(value, indent=draw(st.sampled_from([None, 2]))).encode()
    deep = draw(st.sampled_from([0] * 19 + [100_000]))
    text = b"[" * deep + text
    return draw(st.one_of(st.just(text), st.just(text), st.just(text), changed_bytes(text)))
