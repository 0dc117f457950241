from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxcifar.training import pieces
from jaxcifar.training.pieces import in_pieces


@given(st.integers(0, 60), st.integers(1, 5), st.lists(st.floats(0, 9), min_size=1))
def test_pieces_add_up_with_any_clock(total, batch_size, ticks):
    now, counts, reports, events = 0.0, [], [], []

    def clock():
        nonlocal now
        now += ticks[len(events) % len(ticks)]
        return now

    def advance(count):
        counts.append(count)
        events.append("advance")
        return {"steps": sum(counts)}

    def report(examples, sums):
        reports.append((examples, sums["steps"]))
        events.append("report")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "time", SimpleNamespace(perf_counter=clock))
        in_pieces(advance, total, batch_size, report)
    assert sum(counts) == total
    assert all(count > 0 for count in counts)
    assert [examples for examples, _ in reports] == [count * batch_size for count in counts]
    assert [steps for _, steps in reports] == list(np.cumsum(counts))
    if len(counts) > 1:
        assert events[:3] == ["advance", "advance", "report"], "the device never idles"


def test_a_stop_ends_the_pieces_and_reports_those_that_were_started():
    counts, reports = [], []

    def advance(count):
        counts.append(count)
        return {}

    def allow(count):
        return min(count, 2) if sum(counts) < 5 else 0

    ended = in_pieces(advance, 20, 3, lambda n, _: reports.append(n), allow=allow)
    assert not ended
    assert sum(counts) in (5, 6)
    assert reports == [3 * count for count in counts]


@given(st.integers(1, 40), st.integers(1, 7))
def test_no_piece_is_larger_than_the_limit(total, chunk):
    counts = []

    def limit(done):
        return chunk - done % chunk

    assert in_pieces(counts.append, total, 1, None, limit=limit)
    edges = np.cumsum(counts)
    assert edges[-1] == total
    assert {*range(chunk, total, chunk)} <= {*edges.tolist()}


def test_without_a_listener_there_is_one_piece():
    counts = []
    in_pieces(counts.append, 17, 8, None)
    assert counts == [17]


def test_pieces_grow_until_they_take_the_intended_time(monkeypatch):
    now, counts = 0.0, []
    seconds_per_step = pieces.SECONDS_PER_PIECE / 10

    def advance(count):
        nonlocal now
        counts.append(count)
        now += count * seconds_per_step
        return {}

    monkeypatch.setattr(pieces, "time", SimpleNamespace(perf_counter=lambda: now))
    in_pieces(advance, 200, 1, lambda *_: None)
    assert counts[0] == 1
    assert max(counts) <= 20
    assert counts[len(counts) // 2] >= 5
