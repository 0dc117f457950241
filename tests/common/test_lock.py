import os
import threading

import pytest

from jaxcifar.common.errors import RunError
from jaxcifar.common.lock import hold, wait_for_turn


def test_a_folder_is_made_held_and_if_it_stays_empty_removed(tmp_path):
    folder = tmp_path / "a" / "b"
    with hold(folder):
        assert (folder / ".lock").read_text() == f"{os.getpid()}\n"
        with (
            pytest.raises(RunError, match=rf"in use .*\(pid {os.getpid()}\).*--out"),
            hold(folder, "--out"),
        ):
            pass
    assert list(tmp_path.iterdir()) == []
    with hold(folder):
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]
    folder.joinpath("kept").unlink()
    with hold(folder):
        pass
    assert folder.is_dir(), "it was there before"


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_a_lock_that_is_something_else_is_never_written(tmp_path, kind):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    folder.mkdir()
    lock = folder / ".lock"
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "dangling link":
        lock.symlink_to(tmp_path / "new")
    elif kind == "hard link":
        lock.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    if kind == "hard link":  # taking our name off it harms nobody
        with hold(folder):
            assert lock.read_text() == f"{os.getpid()}\n"
    else:
        with pytest.raises(RunError, match="run cannot be written .*--workdir"), hold(folder):
            pass
    assert victim.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_turns_are_taken(tmp_path):
    order = []

    def second():
        with wait_for_turn(tmp_path) as alone:
            order.append(("second", alone))

    with wait_for_turn(tmp_path) as alone:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append(("first", alone))
    thread.join()
    assert order == [("first", True), ("second", True)]
    assert list(tmp_path.iterdir()) == []
