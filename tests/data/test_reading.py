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
    """A source of images that tell their row, and what was asked of it."""

    side = 2

    def __init__(self, *, seconds=0.0, bad=None):
        self.seconds, self.bad = seconds, bad
        self.begun, self.threads = [], set()

    def __len__(self):
        return SIZE

    def read(self, rows):
        self.begun.append(int(rows[0]))
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
    parts=st.lists(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=6), max_size=12),
    threads=st.integers(1, 4),
    prefetch=st.integers(1, 6),
)
def test_parts_come_whole_and_in_order(parts, threads, prefetch):
    rows = [np.array(part) for part in parts]
    found = list(open_stream(Watched(), rows, threads=threads, prefetch=prefetch))
    assert [part.labels.tolist() for part in found] == parts
    assert [part.images[:, 0, 0, 0].tolist() for part in found] == parts


def test_a_slow_part_does_not_overtake():
    class Uneven(Watched):
        def read(self, rows):
            time.sleep(0.05 if rows[0] % 3 == 0 else 0)
            return super().read(rows)

    found = open_stream(Uneven(), one_by_one(12), threads=4, prefetch=6)
    assert [int(part.labels[0]) for part in found] == list(range(12))


def test_any_step_on_can_be_asked_for():
    rows = np.random.default_rng(0).permutation(SIZE).reshape(10, 5)
    whole = [part.labels for part in open_stream(Watched(), rows)]
    rest = [part.labels for part in open_stream(Watched(), rows[7:], threads=1)]
    np.testing.assert_array_equal(rest, whole[7:])


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (2, 3), (4, 2)])
def test_no_more_than_asked_for_is_read_ahead(threads, prefetch):
    source = Watched()
    stream = open_stream(source, one_by_one(30), threads=threads, prefetch=prefetch)
    for taken in range(1, 6):
        next(stream)
        most = taken + prefetch
        assert wait_for(lambda most=most: len(source.begun) == most)
        time.sleep(0.05)
        assert len(source.begun) == most
    assert len(source.threads) <= min(threads, prefetch)
    stream.close()


def test_reading_goes_on_while_the_caller_is_busy():
    source = Watched(seconds=0.05)
    stream = open_stream(source, one_by_one(5), threads=4, prefetch=4)
    next(stream)
    assert wait_for(lambda: len(source.begun) == 5)
    time.sleep(0.15)
    begun = time.perf_counter()
    assert len(list(stream)) == 4
    assert time.perf_counter() - begun < 0.04  # less than one part takes


def test_an_error_is_the_one_that_was_raised_after_the_parts_before_it():
    source = Watched(bad=3)
    stream = open_stream(source, one_by_one(40), threads=2, prefetch=2)
    for _ in range(3):
        next(stream)
    with pytest.raises(DataError, match="^picture 3 is damaged$"):
        next(stream)
    assert ended(source)
    assert max(source.begun) <= 3 + 2
    assert list(stream) == []


@pytest.mark.parametrize("how", ["break", "error", "interruption", "close", "forgotten"])
def test_however_it_is_left_its_threads_end(how):
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
    if how == "forgotten":
        del stream, use
        gc.collect()
    else:
        stream.close()
    assert ended(source)
    assert len(source.begun) <= 1 + 6


def test_a_program_that_forgets_to_close_ends():
    code = """
import numpy as np
from jaxcifar.data import Dataset
from jaxcifar.stream import open_stream
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
def test_unasked_there_is_a_thread_for_each_core(monkeypatch, cores, threads, ahead):
    monkeypatch.setattr("jaxcifar.data.reading.cores", lambda: cores)
    source = Watched(seconds=0.01)
    stream = open_stream(source, one_by_one(50))
    next(stream)
    assert wait_for(lambda: len(source.begun) == 1 + ahead)
    time.sleep(0.05)
    assert len(source.begun) == 1 + ahead
    assert len(source.threads) <= threads
    stream.close()


def test_nothing_to_read_is_nothing():
    assert list(open_stream(Watched(), [])) == []


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"prefetch": 0}, {"threads": -1}])
def test_numbers_that_are_none_are_refused_at_once(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        open_stream(Watched(), one_by_one(3), **wrong)


def test_a_lazy_split_streams_the_images_of_the_eager_one():
    eager = load_dataset("digits", split=(120, 40), seed=1)
    lazy = load_dataset("digits", split=(120, 40), seed=1, lazy=True)
    for name in ("train", "validation", "test"):
        mine, theirs = getattr(lazy, name), getattr(eager, name)
        assert isinstance(mine, Rows)
        order = np.random.default_rng(0).permutation(len(theirs))
        parts = list(open_stream(mine, np.split(order, range(50, len(order), 50)), threads=2))
        images = np.concatenate([part.images for part in parts])
        np.testing.assert_array_equal(images, theirs.images[order])
        labels = np.concatenate([part.labels for part in parts])
        np.testing.assert_array_equal(labels, theirs.labels[order])
        assert nbytes(mine) == nbytes(theirs) == theirs.images.nbytes


def test_importing_it_does_not_import_grain():
    code = "import sys, jaxcifar.stream; print({'grain', 'jax', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
