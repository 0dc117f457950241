import gc
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.common.errors import DataError
from jaxcifar.data import Dataset, Rows, load_dataset
from jaxcifar.data.reading import nbytes, open_stream

SIZE = 50


class Watched:
    """A source whose images hold their row number; it records the rows and threads of each read."""

    side = 2

    def __init__(self, *, seconds=0.0, bad=None):
        self.seconds, self.bad = seconds, bad
        self.started, self.threads = [], set()

    def __len__(self):
        return SIZE

    def read(self, rows):
        self.started.append(int(rows[0]))
        self.threads.add(threading.current_thread())
        time.sleep(self.seconds)
        if self.bad in rows:
            raise DataError(f"picture {self.bad} is damaged")
        images = np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 2, 2, 3))
        return Dataset(images.copy(), rows.astype(np.int32))


def one_by_one(count):
    return [np.array([i]) for i in range(count)]


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def ended(source):
    return wait_for(lambda: not any(thread.is_alive() for thread in source.threads))


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.lists(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=6), max_size=12),
    threads=st.integers(1, 4),
    prefetch=st.integers(1, 6),
)
def test_chunks_come_complete_and_in_order(chunks, threads, prefetch):
    rows = [np.array(chunk) for chunk in chunks]
    read = list(open_stream(Watched(), rows, threads=threads, prefetch=prefetch))
    assert [chunk.labels.tolist() for chunk in read] == chunks
    assert [chunk.images[:, 0, 0, 0].tolist() for chunk in read] == chunks


def test_a_slow_chunk_is_not_overtaken():
    class Uneven(Watched):
        def read(self, rows):
            time.sleep(0.05 if rows[0] % 3 == 0 else 0)
            return super().read(rows)

    stream = open_stream(Uneven(), one_by_one(12), threads=4, prefetch=6)
    assert [int(chunk.labels[0]) for chunk in stream] == list(range(12))


def test_reading_can_start_at_any_step():
    rows = np.random.default_rng(0).permutation(SIZE).reshape(10, 5)
    whole = [chunk.labels for chunk in open_stream(Watched(), rows)]
    rest = [chunk.labels for chunk in open_stream(Watched(), rows[7:], threads=1)]
    np.testing.assert_array_equal(rest, whole[7:])


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (2, 3), (4, 2)])
def test_no_more_than_prefetch_is_read_ahead(threads, prefetch):
    source = Watched()
    stream = open_stream(source, one_by_one(30), threads=threads, prefetch=prefetch)
    for taken in range(1, 6):
        next(stream)
        most = taken + prefetch
        assert wait_for(lambda most=most: len(source.started) == most)
        time.sleep(0.05)
        assert len(source.started) == most
    assert len(source.threads) <= min(threads, prefetch)
    stream.close()


def test_reading_continues_while_the_caller_is_busy():
    source = Watched(seconds=0.05)
    stream = open_stream(source, one_by_one(5), threads=4, prefetch=4)
    next(stream)
    assert wait_for(lambda: len(source.started) == 5)
    time.sleep(0.15)
    start = time.perf_counter()
    assert len(list(stream)) == 4
    assert time.perf_counter() - start < 0.04  # less than one chunk takes


def test_an_error_is_raised_unchanged_after_the_chunks_before_it():
    source = Watched(bad=3)
    stream = open_stream(source, one_by_one(40), threads=2, prefetch=2)
    for _ in range(3):
        next(stream)
    with pytest.raises(DataError, match="^picture 3 is damaged$"):
        next(stream)
    assert ended(source)
    assert max(source.started) <= 3 + 2
    assert list(stream) == []


@pytest.mark.parametrize("how", ["break", "error", "interruption", "close", "unreferenced"])
def test_threads_end_however_the_loop_is_left(how):
    source = Watched(seconds=0.02)
    stream = open_stream(source, one_by_one(40), threads=3, prefetch=6)

    def use():
        for _ in stream:
            if how == "error":
                raise KeyError
            if how == "interruption":
                raise KeyboardInterrupt
            break

    with suppress(KeyError, KeyboardInterrupt):
        use()
    if how == "unreferenced":
        del stream, use
        gc.collect()
    else:
        stream.close()
    assert ended(source)
    assert len(source.started) <= 1 + 6


def test_a_program_that_does_not_close_the_stream_ends():
    code = """
import numpy as np
from jaxcifar.data import Dataset
from jaxcifar.data.reading import open_stream
class Source:
    side = 2
    def __len__(self): return 9
    def read(self, rows): return Dataset(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int32))
stream = open_stream(Source(), [np.array([0])] * 1000)
next(stream)
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize(("cores", "threads", "ahead"), [(1, 1, 2), (3, 3, 3), (64, 16, 16)])
def test_by_default_there_is_a_thread_for_each_core(monkeypatch, cores, threads, ahead):
    monkeypatch.setattr("jaxcifar.data.reading.cores", lambda: cores)
    source = Watched(seconds=0.01)
    stream = open_stream(source, one_by_one(50))
    next(stream)
    assert wait_for(lambda: len(source.started) == 1 + ahead)
    time.sleep(0.05)
    assert len(source.started) == 1 + ahead
    assert len(source.threads) <= threads
    stream.close()


def test_no_chunks_give_an_empty_stream():
    assert list(open_stream(Watched(), [])) == []


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"prefetch": 0}, {"threads": -1}])
def test_numbers_below_one_are_refused_at_once(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        open_stream(Watched(), one_by_one(3), **wrong)


def test_a_lazy_split_streams_the_images_of_the_eager_one():
    eager = load_dataset("digits", split=(120, 40), seed=1)
    lazy = load_dataset("digits", split=(120, 40), seed=1, lazy=True)
    for name in ("train", "validation", "test"):
        mine, theirs = getattr(lazy, name), getattr(eager, name)
        assert isinstance(mine, Rows)
        order = np.random.default_rng(0).permutation(len(theirs))
        chunks = list(open_stream(mine, np.split(order, range(50, len(order), 50)), threads=2))
        images = np.concatenate([chunk.images for chunk in chunks])
        np.testing.assert_array_equal(images, theirs.images[order])
        labels = np.concatenate([chunk.labels for chunk in chunks])
        np.testing.assert_array_equal(labels, theirs.labels[order])
        assert nbytes(mine) == nbytes(theirs) == theirs.images.nbytes
