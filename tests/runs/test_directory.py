import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jaxcifar.common.errors import RunError
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History
from jaxcifar.runs.shapes import COLUMNS


@pytest.fixture
def run_dir(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create({"recipe": {}})
    return directory


def test_a_directory_with_a_run_is_refused_and_untouched_unless_overwriting(run_dir):
    run_dir.append_row({"epoch": 1, "step": 3})
    before = run_dir.metrics.read_bytes()
    with pytest.raises(RunError, match="--resume.*--overwrite"):
        run_dir.check_free(overwrite=False)
    assert run_dir.metrics.read_bytes() == before
    run_dir.check_free(overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_directory_is_refused_even_when_overwriting(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty and holds no run"):
        RunDirectory(tmp_path).check_free(overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwriting_removes_the_run_and_nothing_else(run_dir):
    (run_dir.path / "notes.txt").write_text("mine")
    run_dir.figures.mkdir()
    (run_dir.figures / "curves.png").write_bytes(b"old")
    run_dir.append_row({"epoch": 1, "step": 3})
    run_dir.create({"recipe": {"epochs": 2}})
    assert sorted(p.name for p in run_dir.path.iterdir()) == ["config.json", "notes.txt"]
    assert run_dir.read_config() == {"recipe": {"epochs": 2}}


def test_a_kill_while_overwriting_leaves_a_run_that_can_be_overwritten(run_dir, monkeypatch):
    run_dir.append_row({"epoch": 1, "step": 3})

    def killed(self, config):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "write_config", killed)
    with pytest.raises(KeyboardInterrupt):
        run_dir.create({"recipe": {"epochs": 2}})
    assert not run_dir.metrics.exists()
    run_dir.check_free(overwrite=True)


def test_the_config_json_of_another_tool_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RunError, match="not empty and holds no run"):
        RunDirectory(tmp_path).check_free(overwrite=True)
    with pytest.raises(RunError, match="has no recipe"):
        RunDirectory(tmp_path).read_config()


def test_an_empty_directory_is_free_to_use_but_holds_no_run(tmp_path):
    RunDirectory(tmp_path).check_free(overwrite=False)
    with pytest.raises(RunError, match="is empty"):
        RunDirectory(tmp_path).read_config()


def test_a_file_instead_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        RunDirectory(tmp_path / "run").check_free(overwrite=True)


def test_missing_foreign_and_damaged_runs_have_messages_of_their_own(tmp_path):
    with pytest.raises(RunError, match="there is no run directory"):
        RunDirectory(tmp_path / "none").read_config()
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(RunError, match=r"a.txt is a file, not a run .* visualize takes it with -"):
        RunDirectory(tmp_path / "a.txt").read_config()
    with pytest.raises(RunError, match="holds no run"):
        RunDirectory(tmp_path).read_config()
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match=r"config\.json"):
            RunDirectory(tmp_path).read_config()


def test_history_survives_a_line_cut_off_by_a_crash(run_dir):
    rows = [{"epoch": e, "step": 3 * e, "train_loss": 1 / e} for e in (1, 2)]
    for row in rows:
        run_dir.append_row(row)
    with run_dir.metrics.open("a") as file:
        file.write('{"epoch": 3, "st')
    assert run_dir.read_history() == History(rows)
    assert run_dir.read_history().column("step") == [3, 6]


def test_a_damaged_line_in_the_middle_is_named(run_dir):
    run_dir.metrics.write_text('{"epoch": 1, "step": 3}\nrubbish\n{"epoch": 3, "step": 9}\n')
    with pytest.raises(RunError, match="line 2"):
        run_dir.read_history()


def test_epochs_after_the_checkpoint_are_dropped(run_dir):
    for epoch in (1, 2, 3):
        run_dir.append_row(dict.fromkeys(COLUMNS, 0.5) | {"epoch": epoch, "step": 10 * epoch})
    assert run_dir.keep_history(20).column("epoch") == [1, 2]
    lines = run_dir.metrics.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


HOLDER = """
import sys
from pathlib import Path
from jaxcifar.runs.directory import RunDirectory

with RunDirectory(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(root, tmp_path):
    """Another process that holds a run's lock until it is killed or its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_live_run_is_called_in_use(holder, tmp_path):
    run_dir = RunDirectory(tmp_path / "run")
    run_dir.create({"recipe": {}})
    run_dir.append_row({"epoch": 1, "step": 3})
    with pytest.raises(RunError, match=rf"in use by another process \(pid {holder.pid}\)"):
        run_dir.check_free(overwrite=False)
    holder.communicate()
    with pytest.raises(RunError, match="holds a run"):
        run_dir.check_free(overwrite=False)


def locked(run_dir):
    with run_dir.lock():
        return sorted(path.name for path in run_dir.path.iterdir())


@pytest.mark.parametrize("end", ["killed", "done"])
def test_a_run_in_use_by_another_process_is_refused_until_that_ends(holder, tmp_path, end):
    run_dir = RunDirectory(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(
            RunError, match=rf"in use by another process \(pid {holder.pid}\).*--workdir"
        ):
            locked(run_dir)
    holder.kill() if end == "killed" else holder.communicate()
    holder.wait()
    assert locked(run_dir) == [".lock"]
    assert not (run_dir.path / ".lock").exists()


def test_a_lock_counts_neither_as_a_run_nor_as_a_foreign_file(run_dir, tmp_path):
    new = RunDirectory(tmp_path / "new")
    with new.lock():
        assert not new.holds_run()
        new.check_free(overwrite=False)
        with pytest.raises(RunError, match="is empty"):
            new.read_config()
        with pytest.raises(RunError, match="in use"):
            locked(RunDirectory(tmp_path / "new"))
        new.create({"recipe": {}})
        new.append_row({"epoch": 1, "step": 3})
        with pytest.raises(RunError, match="--resume"):
            new.check_free(overwrite=False)
        new.create({"recipe": {"epochs": 2}})  # overwriting keeps the lock
        with pytest.raises(RunError, match="in use"):
            locked(RunDirectory(tmp_path / "new"))
    assert [path.name for path in new.path.iterdir()] == ["config.json"]


def test_the_lock_is_released_after_an_error(run_dir):
    with pytest.raises(KeyError), run_dir.lock():
        raise KeyError
    assert ".lock" in locked(run_dir)


def test_a_lock_file_that_its_holder_has_just_removed_is_not_used(run_dir, monkeypatch):
    import fcntl

    flock, calls = fcntl.flock, []

    def slowly(descriptor, how):
        # Its holder ends after we opened the file and before we lock it.
        if not calls:
            (run_dir.path / ".lock").unlink()
        calls.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slowly)
    with run_dir.lock():
        monkeypatch.undo()
        assert len(calls) == 2
        with pytest.raises(RunError, match="in use"):
            locked(RunDirectory(run_dir.path))


def test_a_disk_without_locks_is_used_without(run_dir, monkeypatch):
    import fcntl

    def unsupported(descriptor, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert "config.json" in locked(run_dir)


@pytest.fixture
def unwritable():
    """A directory that this process may not write; root, who may, becomes nobody."""
    directory = Path(tempfile.mkdtemp(prefix="jaxcifar-tests-"))
    directory.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_a_directory_that_cannot_be_written_is_refused_before_training(unwritable):
    for path in (unwritable, unwritable / "run", unwritable / "a" / "run"):
        run_dir = RunDirectory(path)
        with pytest.raises(RunError, match=f"{unwritable} cannot be written.*--workdir"):
            run_dir.check_free(overwrite=False)
        with pytest.raises(RunError, match="cannot be written .Permission denied.*--workdir"):
            run_dir.create({"recipe": {}})
        with pytest.raises(RunError, match="cannot be written .Permission denied.*--workdir"):
            locked(run_dir)


def test_a_file_above_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    run_dir = RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="file is a file"):
        run_dir.check_free(overwrite=True)
    with pytest.raises(RunError, match="Not a directory"):
        run_dir.create({"recipe": {}})


def test_overwriting_removes_damaged_checkpoints_too(run_dir):
    (run_dir.damaged / "30").mkdir(parents=True)
    run_dir.create({"recipe": {}})
    assert not run_dir.damaged.exists()


GOOD_ROW = dict.fromkeys(COLUMNS, 0.5) | {"epoch": 1, "step": 3}
SCORE = {"validation_accuracy": 0.5, "test": {"accuracy": 0.5}}
GOOD_SUMMARY = {"train_accuracy": 0.5, "train_seconds": 1.0, "best": SCORE, "last": SCORE}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"recipe":' + b"[" * 100_000, "nested too deeply"),
        (b'{"recipe": "\xff"}', "cannot be read as JSON: 'utf-8' codec"),
        (b'{"recipe": ' + b"9" * 5_000 + b"}", "cannot be read as JSON"),
        (b'{"recipe": []}', "has no recipe"),
        (b'{"recipe": {}, "weights": [1]}', r"is damaged: weights is \[1\], not an object"),
        (b'{"recipe": {}, "weights": {"source": "w"}}', "damaged: weights.sha256 is missing"),
        (b'{"recipe": {}, "experiment": 1}', "experiment is 1, not a line of text"),
    ],
)
def test_an_invalid_config_is_one_error(run_dir, data, message):
    run_dir.config.write_bytes(data)
    with pytest.raises(RunError, match=message) as caught:
        run_dir.read_config()
    assert str(run_dir.config) in str(caught.value)


def test_pipes_are_not_read(run_dir):
    run_dir.config.unlink()
    for path in (run_dir.config, run_dir.metrics, run_dir.summary):
        os.mkfifo(path)
    assert not run_dir.holds_run()
    with pytest.raises(RunError, match="holds no run"):
        run_dir.read_config()
    assert run_dir.read_history() == History()
    assert run_dir.read_summary() is None


def test_files_of_absurd_length_are_not_read(run_dir):
    for path in (run_dir.config, run_dir.metrics, run_dir.summary):
        path.touch()
        os.truncate(path, 1 << 40)
    for read in (run_dir.read_config, run_dir.read_history, run_dir.read_summary):
        with pytest.raises(RunError, match="has 1,099,511,627,776 bytes"):
            read()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "does not describe an epoch: it is \\[1\\], not an object"),
        ("7", "not an object"),
        ('{"epoch": "1", "step": 3}', "epoch is '1', not a number"),
        ('{"epoch": 1}', "step is missing"),
        ('{"epoch": 1, "step": 3.5}', "step is 3.5, not a whole number"),
        ('{"epoch": 1, "step": null}', "step is None, not a whole number"),
        ('{"epoch": 1, "step": 3, "seconds": NaN}', "seconds is nan, not a finite number"),
        ('{"epoch": 1, "step": 3, "train_loss": 1' + "0" * 400 + "}", "train_loss is .*a number"),
        ("[" * 100_000, "line 1, cannot be read as JSON: it is nested too deeply"),
        ("\0", "line 1, cannot be read as JSON"),
    ],
)
def test_a_line_that_does_not_describe_an_epoch_is_named(run_dir, line, message):
    run_dir.metrics.write_text(f'{line}\n{{"epoch": 2, "step": 6}}\n')
    with pytest.raises(RunError, match=message) as caught:
        run_dir.read_history()
    assert f"{run_dir.metrics}, line 1," in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_history_may_hold_a_loss_that_is_not_finite(run_dir):
    run_dir.append_row(GOOD_ROW | {"validation_loss": float("inf"), "train_loss": float("nan")})
    assert run_dir.read_history().column("validation_loss") == [float("inf")]


def test_an_epoch_without_a_value_that_resuming_needs_is_named(run_dir):
    run_dir.append_row({"epoch": 1, "step": 3})
    with pytest.raises(RunError, match="the history has no train_loss for epoch 1"):
        run_dir.read_history().column("train_loss")
    with pytest.raises(RunError, match="has no validation_accuracy"):
        run_dir.read_history().validated()
    with pytest.raises(RunError, match="has an epoch without learning_rate"):
        run_dir.keep_history(3)
    assert run_dir.metrics.read_text() == '{"epoch": 1, "step": 3}\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_seconds": "1"}, "train_seconds is '1', not a finite number"),
        ({"train_seconds": float("nan")}, "train_seconds is nan"),
        ({"best": None}, "best is None, not an object"),
        ({"last": SCORE | {"test": 0.5}}, "last.test is 0.5, not an object"),
        ({"last": SCORE | {"validation_accuracy": None}}, "last.validation_accuracy is None"),
        ({"parameters": 1.5}, "parameters is 1.5, not a whole number"),
    ],
)
def test_an_invalid_summary_is_one_error(run_dir, change, message):
    run_dir.write_summary(GOOD_SUMMARY)
    assert run_dir.read_summary() == GOOD_SUMMARY
    run_dir.write_summary(GOOD_SUMMARY | change)
    with pytest.raises(RunError, match=f"summary.json is damaged: {message}"):
        run_dir.read_summary()


@pytest.mark.parametrize(
    ("epochs", "steps", "message"),
    [
        ((1, 1, 2), (3, 3, 6), "line 2, describes epoch 1, and epoch 2 comes next"),
        ((1, 3), (3, 9), "line 2, describes epoch 3, and epoch 2 comes next"),
        ((2, 1), (6, 3), "line 1, describes epoch 2, and epoch 1 comes next"),
        ((2, 3), (6, 9), "line 1, describes epoch 2, and epoch 1 comes next"),
        ((1, 2, 3), (3, 6, 8), "line 3, ends epoch 3 at step 8, and an epoch has 3 steps"),
        ((1,), (0,), "line 1, ends epoch 1 at step 0"),
    ],
    ids=["duplicated", "missing", "swapped", "the first missing", "another step", "no step"],
)
def test_epochs_that_are_not_1_to_n_are_refused_by_line(run_dir, epochs, steps, message):
    for epoch, step in zip(epochs, steps, strict=True):
        run_dir.append_row({"epoch": epoch, "step": step})
    with pytest.raises(RunError, match=rf"metrics\.jsonl, {message}.*changed after training"):
        run_dir.read_history()


def test_a_history_that_ends_before_its_checkpoint_is_refused(run_dir):
    for epoch in (1, 2):
        run_dir.append_row(dict.fromkeys(COLUMNS, 0.5) | {"epoch": epoch, "step": 10 * epoch})
    before = run_dir.metrics.read_bytes()
    with pytest.raises(RunError, match="up to step 20, and the checkpoint ends one at step 30"):
        run_dir.keep_history(30)
    assert run_dir.metrics.read_bytes() == before
    run_dir.metrics.unlink()
    with pytest.raises(RunError, match="up to step 0"):
        run_dir.keep_history(10)


def test_the_summary_goes_with_the_epochs_it_is_of(run_dir):
    for epoch in (1, 2):
        run_dir.append_row(dict.fromkeys(COLUMNS, 0.5) | {"epoch": epoch, "step": 10 * epoch})
    run_dir.write_summary(GOOD_SUMMARY | {"stopped_after_epoch": 2, "stopped_by": "on_epoch"})
    run_dir.keep_history(20)
    assert run_dir.read_summary() is not None
    run_dir.keep_history(10)  # the checkpoint of step 20 was damaged
    assert run_dir.read_summary() is None


def test_a_row_that_cannot_be_written_names_the_file_and_the_way_out(run_dir, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: run_dir.append_row({"epoch": 1, "step": 3}),
        lambda: run_dir.write_summary({}),
        lambda: run_dir.keep_history(0),
    ):
        with pytest.raises(RunError, match=r"json.* cannot be written \(No space.*--resume"):
            write()


def test_each_place_where_a_run_goes_on_is_noted_once(tmp_path):
    run = RunDirectory(tmp_path)
    here, there = {"device": "cpu"}, {"device": "gpu"}
    run.create({"recipe": {}, "machine": here})
    for step, machine in ((3, here), (3, here), (3, there), (3, there), (6, there), (9, here)):
        run.note_resumed(step, machine)
    config = run.read_config()
    assert (config["recipe"], config["machine"]) == ({}, here)
    assert config["resumed"] == [
        {"step": 3},
        {"step": 3, "machine": there},
        {"step": 6},
        {"step": 9, "machine": here},
    ]


def test_a_run_that_begins_anew_has_one_machine(tmp_path):
    run = RunDirectory(tmp_path)
    run.create({"recipe": {}, "machine": {"device": "cpu"}, "resumed": [{"step": 3}]})
    run.note_resumed(0, {"device": "gpu"})
    assert run.read_config() == {"recipe": {}, "machine": {"device": "gpu"}}
