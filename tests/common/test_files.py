import os

import pytest

from jaxcifar.common.files import Unusable, cache_folder, parse_json, read_bytes, read_json


def test_a_file_is_read_up_to_the_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    assert read_bytes(tmp_path / "x", 4) == b"1234"
    with pytest.raises(Unusable, match="x has 4 bytes, more than the limit of 3"):
        read_bytes(tmp_path / "x", 3)


def test_a_huge_sparse_file_is_refused_unread(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(Unusable, match=r"has 4,398,046,511,104 bytes"):
        read_json(tmp_path / "x")


def test_anything_but_a_regular_file_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in (
        ("pipe", "is a pipe, a device or the like, not a file"),
        ("/dev/zero", "is a pipe, a device or the like, not a file"),
        (".", "is a directory, not a file"),
        ("none", "none cannot be read: No such file"),
        ("loop", "loop cannot be read: Too many levels of symbolic links"),
        ("a\0b", r"a\\x00b cannot be read: .*embedded null"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(Unusable, match=message):
            read_bytes(tmp_path / name, 10)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "f cannot be read as JSON: it is nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 5_000, "f cannot be read as JSON: Exceeds the limit"),
        (b'"\xff"', "f cannot be read as JSON: 'utf-8' codec"),
        (b"\xff\xfe1\x00", "codec"),
        (b"", "Expecting value"),
        (b"\0", "Expecting value"),
    ],
)
def test_text_that_is_not_json_is_one_error(data, message):
    with pytest.raises(Unusable, match=message):
        parse_json(data, "f")


def test_a_cache_folder_whose_name_starts_with_a_tilde_is_not_a_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", "./~cache")
    assert cache_folder() == tmp_path / "~cache"
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", "~nobody-of-that-name/cache")
    with pytest.raises(OSError, match="JAXCIFAR_CACHE_DIR: .* no home folder of that user"):
        cache_folder()
