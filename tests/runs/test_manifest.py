import json
import os

import pytest

from jaxcifar.runs import manifest


@pytest.fixture
def step(tmp_path):
    directory = tmp_path / "step"
    (directory / "model" / "d").mkdir(parents=True)
    (directory / "model" / "d" / "data").write_bytes(bytes(range(256)) * 10)
    (directory / "model" / "_METADATA").write_text("{}")
    (directory / "empty").write_bytes(b"")
    (directory / "_CHECKPOINT_METADATA").write_text("{}")
    manifest.write(directory)
    return directory


def rewrite(step, change):
    path = step / manifest.NAME
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_an_unchanged_directory_verifies(step):
    assert manifest.verify(step) == []
    listed = manifest.read(step)
    assert sorted(listed) == ["empty", "model/_METADATA", "model/d/data"]
    assert listed["model/d/data"]["bytes"] == 2560


def test_every_flipped_bit_of_a_file_is_detected(step):
    path = step / "model" / "_METADATA"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert manifest.verify(step) == ["model/_METADATA has other contents than were written"]


def test_a_flipped_bit_of_the_manifest_itself_is_detected(step):
    path = step / manifest.NAME
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 11):  # all 4,000 take ten seconds, and are detected
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert manifest.verify(step), (bit, bytes(damaged))


def test_a_manifest_cut_off_anywhere_is_detected(step):
    path = step / manifest.NAME
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert manifest.verify(step), length


def test_missing_extra_and_shorter_files_are_named(step):
    (step / "empty").unlink()
    (step / "model" / "more").write_text("x")
    (step / "model" / "d" / "data").write_bytes(b"short")
    assert manifest.verify(step) == [
        "empty is missing",
        "model/d/data has 5 bytes, but 2560 were written",
        "model/more is not in the manifest",
    ]
    assert manifest.verify(step, "model/d") == ["model/d/data has 5 bytes, but 2560 were written"]


def test_files_that_orbax_writes_last_are_left_out(step):
    (step / "_CHECKPOINT_METADATA").write_text("rewritten")
    (step / "commit_success.txt").write_text("written")
    assert manifest.verify(step) == []
    # Only at the top.
    (step / "model" / "commit_success.txt").write_text("written")
    assert manifest.verify(step) == ["model/commit_success.txt is not in the manifest"]


def test_links_and_pipes_are_refused_and_not_opened(step, tmp_path):
    data = step / "model" / "d" / "data"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    assert manifest.verify(step) == ["model/d/data is not a plain file"]
    data.unlink()
    os.mkfifo(data)  # opening it would block for ever
    assert manifest.verify(step) == ["model/d/data is not a plain file"]
    data.unlink()
    (step / "model" / "d").rmdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "d" / "data")
    (step / "model" / "d").symlink_to(tmp_path / "d")
    assert manifest.verify(step) == ["model/d is not in the manifest", "model/d/data is missing"]


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "a/../b", "", ".", "a//b", "a\\b"])
def test_names_that_leave_the_directory_are_refused(step, name):
    def add(value):
        value["files"][name] = value["files"]["empty"]

    rewrite(step, add)
    assert "which does not name a file" in manifest.verify(step)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(version=2), "version 1"),
        (lambda value: value.update(files={}), "lists no files"),
        (lambda value: value.update(files=["empty"]), "lists no files"),
        (lambda value: value["files"].update(empty=None), "no size and SHA-256 for empty"),
        (lambda value: value["files"]["empty"].update(bytes=-1), "no size for empty"),
        (lambda value: value["files"]["empty"].update(bytes=True), "no size for empty"),
        (lambda value: value["files"]["empty"].update(sha256="0"), "no SHA-256 for empty"),
        (lambda value: value["files"]["empty"].update(sha256=7), "no SHA-256 for empty"),
    ],
)
def test_a_manifest_with_invalid_entries_is_refused(step, change, message):
    rewrite(step, change)
    (problem,) = manifest.verify(step)
    assert message in problem


@pytest.mark.parametrize("text", ["", "[]", "7", "\xff", "[" * 100_000, '{"version": 1}'])
def test_a_file_that_is_not_a_manifest_is_refused(step, text):
    (step / manifest.NAME).write_text(text, encoding="latin-1")
    (problem,) = manifest.verify(step)
    assert problem.startswith("manifest.json is")


def test_a_huge_manifest_is_not_read(step, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_BYTES", 100)
    assert manifest.verify(step) == ["manifest.json is larger than 100 bytes"]


def test_a_missing_or_linked_manifest_is_refused(step, tmp_path):
    path = step / manifest.NAME
    path.rename(tmp_path / "manifest")
    assert manifest.verify(step) == ["manifest.json is missing"]
    path.symlink_to(tmp_path / "manifest")
    assert manifest.verify(step) == ["manifest.json is not a plain file"]


def test_a_missing_directory_is_a_problem_not_an_exception(tmp_path):
    assert manifest.verify(tmp_path / "none") == ["manifest.json is missing"]
