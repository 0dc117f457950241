"""What the parts of a save report is dropped only while one runs, or after one failed."""

import logging
import sys
from types import SimpleNamespace

import pytest

from jaxcifar.runs import failed_saves
from jaxcifar.runs.checkpoints import Checkpoints


@pytest.fixture
def silence(monkeypatch):
    """As in a new process, and put back afterwards."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda failed: seen.append(str(failed.exc_value)))
    new = failed_saves._Silence()
    monkeypatch.setattr(failed_saves, "_silence", new)
    yield seen
    for name in ("absl", "asyncio"):
        logging.getLogger(name).removeFilter(new._keep)


def report(error):
    """As TensorStore does, from a thread that is not the main one."""
    import threading

    thread = threading.Thread(target=lambda: sys.unraisablehook(SimpleNamespace(exc_value=error)))
    thread.start()
    thread.join()


def test_opening_checkpoints_changes_nothing_in_the_process(silence, tmp_path):
    before = sys.unraisablehook, [*logging.getLogger("asyncio").filters]
    with Checkpoints(tmp_path):
        assert (sys.unraisablehook, logging.getLogger("asyncio").filters) == before


def test_reports_are_dropped_while_a_save_runs_and_after_one_failed(silence):
    owner = object()
    failed_saves.save_begins(owner)
    report(RuntimeError("Event loop is closed"))
    report(ValueError("of the user"))
    failed_saves.save_ended(owner, failed=False)
    report(RuntimeError("Event loop is closed"))
    assert silence == ["of the user", "Event loop is closed"]
    failed_saves.save_begins(owner)
    failed_saves.save_ended(owner, failed=True)
    report(RuntimeError("Event loop is closed"))
    assert len(silence) == 2


def test_a_hook_of_the_user_that_calls_ours_is_not_wrapped_again(silence):
    owner = object()
    failed_saves.save_begins(owner)
    ours = sys.unraisablehook
    sys.unraisablehook = lambda failed: ours(failed)
    failed_saves.save_begins(owner)
    report(ValueError("of the user"))
    assert silence == ["of the user"]


def test_logs_of_others_stay(silence, caplog):
    failed_saves.save_begins(object())
    logger = logging.getLogger("asyncio")
    for text in ("in /home/me/orbax_runs", "in /x/3.orbax-checkpoint-tmp/model"):
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("it failed")
    logger.error("3.orbax-checkpoint-tmp, without an exception")
    assert [record.message for record in caplog.records] == [
        "it failed",
        "3.orbax-checkpoint-tmp, without an exception",
    ]
