"""Digests of many files."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data.contents import file_digests


@pytest.fixture
def tasks(monkeypatch):
    """What is given to pools of threads."""
    given, real = [], ThreadPoolExecutor.submit
    monkeypatch.setattr(
        ThreadPoolExecutor, "submit", lambda *task, **named: given.append(1) or real(*task, **named)
    )
    return given


def test_many_files_are_few_tasks(tmp_path, tasks):
    for i in range(5):
        (tmp_path / str(i)).write_text(f"contents {i}")
    files = [str(i % 5) for i in range(5_000)]
    digests = file_digests("x", "a state", tmp_path, files, lambda: None)
    assert len(tasks) < 1_000
    expected = [hashlib.sha256(f"contents {i}".encode()).digest() for i in range(5)]
    assert digests.tobytes() == b"".join(expected) * 1_000


def test_a_few_files_are_hashed_each_by_itself(tmp_path, tasks):
    (tmp_path / "shard").touch()
    file_digests("x", "a state", tmp_path, ["shard"] * 64, lambda: None)
    assert len(tasks) >= 64


def test_files_that_cannot_be_read_are_all_named(tmp_path):
    (tmp_path / "there").touch()
    with pytest.raises(DataError, match="2 pictures of x cannot be read") as caught:
        file_digests("x", "a state", tmp_path, ["gone", "there", "lost"], lambda: None)
    assert [line.strip() for line in caught.value.args[1:]] == [
        f"{tmp_path / name}: No such file or directory" for name in ("gone", "lost")
    ]
    assert np.array_equal(
        file_digests("x", "a state", tmp_path, ["there"], lambda: None).tobytes(),
        hashlib.sha256(b"").digest(),
    )
