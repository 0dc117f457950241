import json
import os
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxcifar.common.files import cache_folder
from jaxcifar.data import cache
from jaxcifar.data.cache import cached
from tests.data import made_archives as made
from tests.hostile_names import NAMES

KEY, OTHER = "a" * 64, "b" * 64


class Decoder:
    """Decodes made-up images and counts the calls."""

    def __init__(self, seed=0):
        self.train, self.test = made.made_images(seed)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"train": self.train, "test": self.test}


def check(datasets, decoder):
    for split in ("train", "test"):
        np.testing.assert_array_equal(datasets[split].images, getattr(decoder, split).images)
        np.testing.assert_array_equal(datasets[split].labels, getattr(decoder, split).labels)


def cache_in(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data" / KEY / "v1"


def test_images_are_decoded_once_and_then_mapped(tmp_path):
    decoder = Decoder()
    for _ in range(3):
        datasets = cached(KEY, decoder)
        check(datasets, decoder)
        assert isinstance(datasets["train"].images, np.memmap)
        assert not datasets["train"].images.flags.writeable
    assert decoder.calls == 1
    assert [file.name for file in cache_in(tmp_path).parent.iterdir()] == ["v1"]


def test_other_data_is_cached_separately():
    one, other = Decoder(0), Decoder(1)
    cached(KEY, one)
    check(cached(OTHER, other), other)
    check(cached(KEY, one), one)
    assert (one.calls, other.calls) == (1, 1)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "gone"])
@pytest.mark.parametrize(
    "name",
    ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "checks.json"],
)
def test_a_damaged_cache_is_noticed_and_rebuilt(tmp_path, name, how):
    decoder = Decoder()
    cached(KEY, decoder)
    damage(cache_in(tmp_path) / name, how)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2
    assert [file.name for file in cache_in(tmp_path).parent.iterdir()] == ["v1"]


@pytest.mark.parametrize("checks", ["{}", "[]", "null", '{"train_images.npy": 0}'])
def test_useless_checks_count_as_damage(tmp_path, checks):
    decoder = Decoder()
    cached(KEY, decoder)
    (cache_in(tmp_path) / "checks.json").write_text(checks)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2


def test_a_failed_write_leaves_nothing_and_the_images_are_still_returned(tmp_path, monkeypatch):
    decoder = Decoder()
    real, calls = np.save, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="cannot be kept in .*No space left"):
        check(cached(KEY, decoder), decoder)
    assert list(cache_in(tmp_path).parent.iterdir()) == []


@pytest.mark.parametrize("name", ["file", *NAMES])
def test_an_unwritable_cache_is_a_warning_and_the_images_are_returned(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("")
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path / name / "cache"))
    decoder = Decoder()
    with pytest.warns(UserWarning, match="set JAXCIFAR_CACHE_DIR to a writable folder") as warned:
        check(cached(KEY, decoder), decoder)
    assert str(warned[0].message).isprintable()


def test_concurrent_loads_all_get_the_images(tmp_path):
    decoders = [Decoder() for _ in range(4)]
    barrier = threading.Barrier(len(decoders))
    loaded = {}

    def load(i):
        def decode():
            barrier.wait(10)  # none has found anything in the cache
            return decoders[i]()

        loaded[i] = cached(KEY, decode)

    threads = [threading.Thread(target=load, args=(i,)) for i in range(len(decoders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, decoder in enumerate(decoders):
        check(loaded[i], decoder)
    again = Decoder()
    check(cached(KEY, again), again)
    assert again.calls == 0
    assert [file.name for file in cache_in(tmp_path).parent.iterdir()] == ["v1"]


def test_folders_of_killed_processes_are_removed(tmp_path):
    home, elsewhere = cache_in(tmp_path).parent, tmp_path / "elsewhere"
    old, link = home / f"{cache._BUILDING}old", home / f"{cache._BUILDING}link"
    (old / "new").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    link.symlink_to(elsewhere)
    for _ in range(2):  # before it is kept, and when it is read again
        cached(KEY, Decoder())
        assert sorted(file.name for file in home.iterdir()) == ["v1"]
        assert (elsewhere / "mine").exists()
        (home / f"{cache._BUILDING}later" / "old0").mkdir(parents=True)
        if not link.is_symlink():
            link.symlink_to(elsewhere)


def test_the_environment_names_the_cache_folder(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("JAXCIFAR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/jaxcifar")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "jaxcifar"


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, and its checksum with the right one."""
    (folder / name).write_bytes(data)
    checks = json.loads((folder / "checks.json").read_text())
    (folder / "checks.json").write_text(json.dumps(checks | {name: zlib.crc32(data)}))


def npy(header: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 64


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
        "-" * 9_000 + "1",
        "(" * 9_000,
        "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }",
    ],
)
def test_an_impossible_header_counts_as_damage(tmp_path, header):
    decoder = Decoder()
    cached(KEY, decoder)
    replace_file(cache_in(tmp_path), "train_labels.npy", npy(header))
    tracemalloc.start()
    check(cached(KEY, decoder), decoder)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert decoder.calls == 2


@pytest.mark.parametrize("name", ["train_images.npy", "checks.json"])
def test_a_pipe_in_the_cache_does_not_block(tmp_path, name):
    decoder = Decoder()
    cached(KEY, decoder)
    (cache_in(tmp_path) / name).unlink()
    os.mkfifo(cache_in(tmp_path) / name)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2


def test_checks_that_are_nested_without_end_are_damage(tmp_path):
    decoder = Decoder()
    cached(KEY, decoder)
    (cache_in(tmp_path) / "checks.json").write_text("[" * 100_000)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2


def test_what_another_has_written_meanwhile_is_not_written_again(tmp_path, monkeypatch):
    saved, real = [], np.save
    monkeypatch.setattr(np, "save", lambda *given: saved.append(given[0].name) or real(*given))
    first, second = Decoder(), Decoder()

    def decode():
        check(cached(KEY, first), first)  # while this one decodes
        return second()

    check(cached(KEY, decode), second)
    assert (first.calls, second.calls) == (1, 1)
    assert len(saved) == len(set(saved)) == 4
