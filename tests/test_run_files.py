import json

import pytest

from jaxcifar.run_files import COLUMNS, History, RunError, RunFiles


@pytest.fixture
def files(tmp_path):
    run = RunFiles(tmp_path / "run")
    run.create({"recipe": {}})
    return run


def test_a_directory_with_a_run_is_refused_and_untouched_unless_overwriting(files):
    files.append_row({"epoch": 1, "step": 3})
    before = files.metrics.read_bytes()
    with pytest.raises(RunError, match="--resume.*--overwrite"):
        files.check_free(overwrite=False)
    assert files.metrics.read_bytes() == before
    files.check_free(overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_directory_is_refused_even_when_overwriting(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty and holds no run"):
        RunFiles(tmp_path).check_free(overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwriting_removes_the_run_and_nothing_else(files):
    (files.path / "notes.txt").write_text("mine")
    files.figures.mkdir()
    (files.figures / "curves.png").write_bytes(b"old")
    files.append_row({"epoch": 1, "step": 3})
    files.create({"recipe": {"epochs": 2}})
    assert sorted(p.name for p in files.path.iterdir()) == ["config.json", "notes.txt"]
    assert files.read_config() == {"recipe": {"epochs": 2}}


def test_a_kill_while_overwriting_leaves_a_run_that_can_be_overwritten(files, monkeypatch):
    files.append_row({"epoch": 1, "step": 3})

    def killed(self, config):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFiles, "write_config", killed)
    with pytest.raises(KeyboardInterrupt):
        files.create({"recipe": {"epochs": 2}})
    assert not files.metrics.exists()
    files.check_free(overwrite=True)


def test_the_config_json_of_another_tool_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RunError, match="not empty and holds no run"):
        RunFiles(tmp_path).check_free(overwrite=True)
    with pytest.raises(RunError, match="has no recipe"):
        RunFiles(tmp_path).read_config()


def test_an_empty_directory_is_free_to_use_but_holds_no_run(tmp_path):
    RunFiles(tmp_path).check_free(overwrite=False)
    with pytest.raises(RunError, match="is empty"):
        RunFiles(tmp_path).read_config()


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        RunFiles(tmp_path / "run").check_free(overwrite=True)


def test_missing_foreign_and_damaged_runs_are_told_apart(tmp_path):
    with pytest.raises(RunError, match="there is no run directory"):
        RunFiles(tmp_path / "none").read_config()
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(RunError, match="holds no run"):
        RunFiles(tmp_path).read_config()
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match=r"config\.json"):
            RunFiles(tmp_path).read_config()


def test_history_survives_a_line_cut_off_by_a_crash(files):
    rows = [{"epoch": e, "step": 3 * e, "train_loss": 1 / e} for e in (1, 2)]
    for row in rows:
        files.append_row(row)
    with files.metrics.open("a") as file:
        file.write('{"epoch": 3, "st')
    assert files.read_history() == History(rows)
    assert files.read_history().column("step") == [3, 6]


def test_a_damaged_line_in_the_middle_is_named(files):
    files.metrics.write_text('{"epoch": 1, "step": 3}\nrubbish\n{"epoch": 3, "step": 9}\n')
    with pytest.raises(RunError, match="line 2"):
        files.read_history()


def test_epochs_after_the_checkpoint_are_dropped(files):
    for epoch in (1, 2, 3):
        files.append_row(dict.fromkeys(COLUMNS, 0.5) | {"epoch": epoch, "step": 10 * epoch})
    assert files.keep_history(20).column("epoch") == [1, 2]
    assert [json.loads(line)["epoch"] for line in files.metrics.read_text().splitlines()] == [1, 2]
