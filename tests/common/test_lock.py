import errno
import os
import threading

import pytest

from jaxcifar.common import lock
from jaxcifar.common.errors import RunError
from jaxcifar.common.lock import hold, in_use, wait_for_turn


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
    file = folder / ".lock"
    if kind == "link":
        file.symlink_to(victim)
    elif kind == "dangling link":
        file.symlink_to(tmp_path / "new")
    elif kind == "hard link":
        file.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    with (
        pytest.raises(RunError, match=r"run cannot be written .*; \.lock\).*--workdir"),
        hold(folder),
    ):
        pass
    assert victim.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_a_link_to_nothing_is_called_one(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="a link to nothing"), hold(tmp_path / "run"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(2):  # this process does not hold it ever after
            with (
                pytest.raises(RunError, match=r"run cannot be written \(.*\): free some space"),
                hold(tmp_path / "a" / "run"),
            ):
                pass
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "a" / "run"):
        pass


def test_a_folder_that_its_last_holder_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    real, calls = lock.open_own, []

    def slowly(path, flags):
        calls.append(path)
        if len(calls) == 1:
            path.parent.rmdir()
        return real(path, flags)

    monkeypatch.setattr(lock, "open_own", slowly)
    with hold(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()
    assert len(calls) == 2


def test_who_holds_a_folder_can_be_asked(tmp_path, monkeypatch):
    assert in_use(tmp_path) is None
    with hold(tmp_path):
        assert in_use(tmp_path) is None  # it is we
        pid = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: 1)
        assert f"in use by another process (pid {pid})" in in_use(tmp_path)
    (tmp_path / ".lock").write_text("1\n")  # of a killed process
    assert in_use(tmp_path) is None
    assert (tmp_path / ".lock").read_text() == "1\n"


@pytest.mark.filterwarnings("ignore:another process works")
@pytest.mark.parametrize("long", [0.05, 10])
def test_turns_are_taken(tmp_path, monkeypatch, long):
    monkeypatch.setattr(lock, "_LONG", long)
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


def test_a_long_wait_is_told_and_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_LONG", 0.05)

    class Stop(Exception):
        pass

    def never(descriptor, how):
        if not how & lock.fcntl.LOCK_NB:
            raise Stop
        raise BlockingIOError(11, "held")

    monkeypatch.setattr(lock.fcntl, "flock", never)
    with wait_for_turn(tmp_path, wait=False) as alone:
        assert alone is False
    with (
        pytest.warns(UserWarning, match="another process works in .*Ctrl-C stops"),
        pytest.raises(Stop),
        wait_for_turn(tmp_path),
    ):
        pass
