import json
import os
import struct
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxcifar.common.files import cache_folder
from jaxcifar.data import cache
from jaxcifar.data.cache import cached
from tests.data import made_archives as made

KEY, OTHER = "a" * 64, "b" * 64


class Decoder:
    """Decodes made-up images and counts how often."""

    def __init__(self, seed=0):
        self.train, self.test = made.made_images(seed)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"train": self.train, "test": self.test}


def check(found, decoder):
    for split in ("train", "test"):
        np.testing.assert_array_equal(found[split].images, getattr(decoder, split).images)
        np.testing.assert_array_equal(found[split].labels, getattr(decoder, split).labels)


def kept_in(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data" / KEY / "v1"


def test_images_are_decoded_once_and_then_mapped(tmp_path):
    decoder = Decoder()
    for _ in range(3):
        found = cached(KEY, decoder)
        check(found, decoder)
        assert isinstance(found["train"].images, np.memmap)
        assert not found["train"].images.flags.writeable
    assert decoder.calls == 1
    assert [file.name for file in kept_in(tmp_path).parent.iterdir()] == ["v1"]


def test_other_data_has_another_cache():
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
def test_a_damaged_cache_is_noticed_and_made_again(tmp_path, name, how):
    decoder = Decoder()
    cached(KEY, decoder)
    damage(kept_in(tmp_path) / name, how)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2
    assert [file.name for file in kept_in(tmp_path).parent.iterdir()] == ["v1"]


@pytest.mark.parametrize("checks", ["{}", "[]", "null", '{"train_images.npy": 0}'])
def test_checks_that_say_nothing_are_damage(tmp_path, checks):
    decoder = Decoder()
    cached(KEY, decoder)
    (kept_in(tmp_path) / "checks.json").write_text(checks)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2


def test_a_failed_write_leaves_nothing_and_the_images_are_used(tmp_path, monkeypatch):
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
    assert list(kept_in(tmp_path).parent.iterdir()) == []


def test_without_a_place_to_write_the_images_are_used_with_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    decoder = Decoder()
    with pytest.warns(UserWarning, match="Set JAXCIFAR_CACHE_DIR"):
        check(cached(KEY, decoder), decoder)


def test_two_at_once_both_get_the_images(tmp_path):
    decoders = [Decoder() for _ in range(4)]
    barrier = threading.Barrier(len(decoders))
    found = {}

    def load(i):
        def decode():
            barrier.wait(10)  # all have seen that nothing is kept
            return decoders[i]()

        found[i] = cached(KEY, decode)

    threads = [threading.Thread(target=load, args=(i,)) for i in range(len(decoders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, decoder in enumerate(decoders):
        check(found[i], decoder)
    again = Decoder()
    check(cached(KEY, again), again)
    assert again.calls == 0
    assert [file.name for file in kept_in(tmp_path).parent.iterdir()] == ["v1"]


def test_what_a_killed_process_left_is_swept_after_a_while(tmp_path):
    home = kept_in(tmp_path).parent
    old, new = home / f"{cache._BUILDING}old", home / f"{cache._BUILDING}new"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    cached(KEY, Decoder())
    assert sorted(file.name for file in home.iterdir()) == [new.name, "v1"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("JAXCIFAR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/jaxcifar")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "jaxcifar"


def keep_instead(place: Path, name: str, data: bytes) -> None:
    """Another file, with the checksum that it has."""
    (place / name).write_bytes(data)
    checks = json.loads((place / "checks.json").read_text())
    (place / "checks.json").write_text(json.dumps(checks | {name: zlib.crc32(data)}))


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
def test_a_header_that_cannot_be_is_damage(tmp_path, header):
    decoder = Decoder()
    cached(KEY, decoder)
    keep_instead(kept_in(tmp_path), "train_labels.npy", npy(header))
    tracemalloc.start()
    check(cached(KEY, decoder), decoder)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert decoder.calls == 2


@pytest.mark.parametrize("name", ["train_images.npy", "checks.json"])
def test_a_pipe_in_the_cache_is_not_waited_for(tmp_path, name):
    decoder = Decoder()
    cached(KEY, decoder)
    (kept_in(tmp_path) / name).unlink()
    os.mkfifo(kept_in(tmp_path) / name)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2


def test_checks_that_are_nested_without_end_are_damage(tmp_path):
    decoder = Decoder()
    cached(KEY, decoder)
    (kept_in(tmp_path) / "checks.json").write_text("[" * 100_000)
    check(cached(KEY, decoder), decoder)
    assert decoder.calls == 2
