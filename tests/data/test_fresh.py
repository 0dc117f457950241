import os
import time

import pytest

from jaxcifar.data.fresh import Kept, mark, unchanged

LONG_AGO = 1_000_000_000


class Listed:
    def __init__(self, folder):
        self.marks = (mark(folder),)
        self.names = sorted(os.listdir(folder))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    os.utime(tmp_path / "folder", (LONG_AGO, LONG_AGO))
    return tmp_path / "folder"


def test_a_folder_is_listed_again_only_when_it_has_changed(folder):
    kept, calls = Kept(), []

    def names():
        return kept.get("x", lambda: calls.append(1) or Listed(folder)).names

    assert [names(), names()] == [[], []]
    assert len(calls) == 1
    (folder / "a").touch()
    assert [names(), names()] == [["a"], ["a"]]
    assert len(calls) == 3  # it has just been changed, and is not trusted


def test_a_change_that_leaves_the_same_time_is_seen(folder):
    """Disks count time in steps: two changes may have the same."""
    now = time.time_ns()
    os.utime(folder, ns=(now, now))
    kept = Kept()
    kept.get("x", lambda: Listed(folder))
    (folder / "a").touch()
    os.utime(folder, ns=(now, now))
    assert kept.get("x", lambda: Listed(folder)).names == ["a"]


def test_another_folder_in_its_place_is_seen(folder, tmp_path):
    kept = Kept()
    kept.get("x", lambda: Listed(folder))
    folder.rename(tmp_path / "old")
    folder.mkdir()
    (folder / "a").touch()
    os.utime(folder, (LONG_AGO, LONG_AGO))
    assert kept.get("x", lambda: Listed(folder)).names == ["a"]


def test_a_time_in_the_future_and_a_folder_that_is_gone_are_not_trusted(folder):
    ahead = time.time() + 10_000
    os.utime(folder, (ahead, ahead))
    assert not unchanged([mark(folder)])
    os.utime(folder, (LONG_AGO, LONG_AGO))
    seen = mark(folder)
    assert unchanged([seen])
    folder.rmdir()
    assert not unchanged([seen])


def test_the_last_few_are_kept(folder):
    kept, calls = Kept(most=2), []
    for key in "abcba":
        kept.get(key, lambda: calls.append(1) or Listed(folder))
    assert len(calls) == 4  # a was forgotten when c came
