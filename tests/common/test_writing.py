import os
import subprocess
import sys
import time

import pytest

from jaxcifar.common import writing
from jaxcifar.common.figure import save_figure
from jaxcifar.common.writing import (
    append_line,
    is_empty,
    make_folder,
    open_own,
    remove,
    remove_at_once,
    write_atomically,
)

LEFTOVER = f".jaxcifar-{'0' * 32}.tmp"


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("data", ["text \N{SNOWMAN}\n", b"\x00\xff"])
def test_a_file_is_written_and_replaced(tmp_path, data):
    path = tmp_path / "a"
    for _ in range(2):
        write_atomically(path, data)
        assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert names(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    path = tmp_path / "a"
    path.symlink_to(tmp_path / "victim")
    write_atomically(path, "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_the_names_of_unfinished_files_cannot_be_foreseen(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def note(source, target):
        assert os.stat(source).st_mode & 0o7777 == 0o666 & ~mask
        seen.append(os.path.basename(source))
        replace(source, target)

    os.umask(mask := os.umask(0))
    monkeypatch.setattr(os, "replace", note)
    for _ in range(3):
        write_atomically(tmp_path / "a", "x")
    assert len(set(seen)) == 3
    assert all(writing._is_leftover(name) for name in seen)


def test_a_foreseen_name_is_not_used(tmp_path, monkeypatch):
    """Even one who foresees the name gains nothing: the file is created, never opened."""
    (tmp_path / "victim").write_text("mine")
    (tmp_path / LEFTOVER).symlink_to(tmp_path / "victim")
    monkeypatch.setattr(writing.secrets, "token_hex", lambda n: "0" * (2 * n))
    monkeypatch.setattr(writing, "remove_leftovers", lambda folder: None)  # it came in between
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a", "x")
    assert (tmp_path / "victim").read_text() == "mine"
    monkeypatch.undo()
    write_atomically(tmp_path / "a", "x")
    assert (tmp_path / "victim").read_text() == "mine"
    assert names(tmp_path) == ["a", "victim"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, function):
    path = tmp_path / "a"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def note(*arguments, name=name, real=real):
            if name == "fsync":
                calls.append(os.readlink(f"/proc/self/fd/{arguments[0]}"))
            else:
                calls.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, note)
    write_atomically(tmp_path / "a", "x")
    assert calls[1:] == ["replace", str(tmp_path)]
    calls.clear()
    make_folder(tmp_path / "b" / "c")
    assert calls == [str(tmp_path), str(tmp_path / "b")]


def test_leftovers_of_killed_processes_are_removed_by_the_next_write(tmp_path):
    (tmp_path / LEFTOVER).write_text("half")
    (tmp_path / ".jaxcifar-notes.tmp").write_text("mine")
    assert not is_empty(tmp_path)
    (tmp_path / ".jaxcifar-notes.tmp").rename(tmp_path / "notes")
    write_atomically(tmp_path / "a", "x")
    assert names(tmp_path) == ["a", "notes"]


def test_what_another_process_is_writing_is_not_removed(tmp_path):
    held, descriptor = writing._create(tmp_path)
    write_atomically(tmp_path / "a", "x")
    assert held.exists()
    os.close(descriptor)
    write_atomically(tmp_path / "a", "x")
    assert not held.exists()


def test_a_folder_with_leftovers_only_counts_as_empty(tmp_path):
    assert is_empty(tmp_path)
    for name in (".lock", LEFTOVER):
        (tmp_path / name).touch()
    assert is_empty(tmp_path)
    (tmp_path / "config.json.tmp").touch()  # nobody's
    assert not is_empty(tmp_path)


def test_lines_are_appended_and_never_through_a_link(tmp_path):
    path = tmp_path / "a"
    append_line(path, "1")
    append_line(path, "2")
    assert path.read_text() == "1\n2\n"
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("link", "a link"), ("pipe", "a pipe")):
        with pytest.raises(OSError, match=rf"{kind}.*remove it: '.*{name}'|No such device"):
            append_line(tmp_path / name, "3")
    assert path.read_text() == "1\n2\n"


def test_a_file_of_our_own_is_no_device(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OSError, match="a link"):
        open_own(tmp_path / "null", os.O_RDWR)
    with pytest.raises(OSError, match="a pipe, a device"):
        open_own(type(tmp_path)("/dev/null"), os.O_RDWR)


def test_a_line_is_not_appended_to_a_second_name_of_the_file(tmp_path):
    """A backup by hard links keeps what it had."""
    append_line(tmp_path / "a", "1")
    (tmp_path / "backup").hardlink_to(tmp_path / "a")
    append_line(tmp_path / "a", "2")
    assert (tmp_path / "backup").read_text() == "1\n"
    assert (tmp_path / "a").read_text() == "1\n2\n"
    (tmp_path / "backup").unlink()
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="also another file"):
        open_own(tmp_path / "b", os.O_RDWR)


def test_a_folder_is_removed_in_one_step(tmp_path, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(writing.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_at_once(tmp_path / "a")
    assert is_empty(tmp_path)
    monkeypatch.undo()
    write_atomically(tmp_path / "c", "x")
    assert names(tmp_path) == ["c"]


def test_removing_a_link_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "folder" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "nowhere").symlink_to(tmp_path / "x")
    for name in ("link", "nowhere", "absent"):
        remove(tmp_path / name)
    assert names(tmp_path) == ["folder"]
    remove(tmp_path / "folder")
    assert names(tmp_path) == []


def test_a_picture_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "a.png").symlink_to(tmp_path / "victim")
    save_figure(Figure(figsize=(1, 1)), tmp_path / "a.png")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    before = (tmp_path / "a.png").read_bytes()
    assert before.startswith(b"\x89PNG")

    def fail(self, file, **_):
        (file.write if hasattr(file, "write") else open(file, "wb").write)(b"half")  # noqa: SIM115
        raise MemoryError

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(MemoryError):
        save_figure(Figure(figsize=(1, 1)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert names(tmp_path) == ["a.png", "victim"]


WRITER = """
import sys
from pathlib import Path
from jaxcifar.common.writing import write_atomically

path, letter = Path(sys.argv[1]), sys.argv[2]
for _ in range(300):
    write_atomically(path, letter * 5000)
"""


def test_two_processes_that_write_one_file_do_not_disturb_each_other(root, tmp_path):
    path = tmp_path / "a"
    command = [sys.executable, "-c", WRITER, str(path)]
    env = os.environ | {"PYTHONPATH": str(root)}
    writers = [
        subprocess.Popen([*command, letter], env=env, stderr=subprocess.PIPE, text=True)
        for letter in "xy"
    ]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_text() in ("x" * 5000, "y" * 5000)
        time.sleep(0.001)
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert names(tmp_path) == ["a"]
