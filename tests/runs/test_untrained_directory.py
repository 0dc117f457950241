"""A run in which nothing was trained stands in nobody's way; everything else does."""

import dataclasses

import pytest

from jaxcifar.common import lock
from jaxcifar.common.errors import RunError
from jaxcifar.runs.directory import RunDirectory, check_path
from jaxcifar.studies.sweeps import sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.training import run as run_module
from jaxcifar.training.fit import fit
from jaxcifar.training.run import Run


@pytest.fixture
def run_dir(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create({"recipe": {}})
    return directory


def leave_nothing(run_dir):
    pass


def leave_folders(run_dir):
    for folder in (run_dir.checkpoints, run_dir.figures, run_dir.damaged):
        folder.mkdir()


def leave_unfinished(run_dir):
    run_dir.metrics.touch()
    (run_dir.path / ".lock").touch()
    (run_dir.path / f".jaxcifar-{'0' * 32}.tmp").touch()


@pytest.mark.parametrize("leave", [leave_nothing, leave_folders, leave_unfinished])
def test_an_untrained_run_is_replaced(run_dir, leave):
    leave(run_dir)
    assert not run_dir.holds_training()
    run_dir.check_free(overwrite=False)
    run_dir.create({"recipe": {"epochs": 2}})
    assert run_dir.read_config() == {"recipe": {"epochs": 2}}


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "summary.json", "checkpoints/3/x", "damaged/3/x", "figures/a.png", "notes"],
)
def test_whatever_else_is_there_is_kept(run_dir, name):
    path = run_dir.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"epoch": 1')
    assert run_dir.holds_training()
    with pytest.raises(RunError, match="holds a run: continue it with resume=True"):
        run_dir.check_free(overwrite=False)
    assert path.read_text() == '{"epoch": 1'


def test_without_locks_it_could_be_the_first_epoch_of_another_process(run_dir, monkeypatch):
    (run_dir.path / ".lock").touch()
    monkeypatch.setattr(lock, "try_lock", lambda descriptor: None)
    with pytest.raises(RunError, match="holds a run"):
        run_dir.check_free(overwrite=False)


def test_a_start_that_failed_is_repeated_with_another_recipe(recipe, digits, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the program could not be compiled")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "begin_stage", fail)
        with pytest.raises(RuntimeError, match="compiled"):
            fit(recipe, digits, workdir=tmp_path / "run")
        with pytest.raises(RuntimeError, match="compiled"):
            fit(recipe, digits, workdir=tmp_path / "run", resume=True)
    short = dataclasses.replace(recipe, epochs=1)
    fit(short, digits, workdir=tmp_path / "run")
    with pytest.raises(RunError, match="holds a run"):
        fit(short, digits, workdir=tmp_path / "run")


def test_a_sweep_that_failed_at_its_start_is_repeated(recipe, digits, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    short = dataclasses.replace(recipe, epochs=1)
    settings = {"workdir": tmp_path / "sweep", "mode": "sequential"}
    with monkeypatch.context() as patch:
        patch.setattr(Run, "begin_stage", fail)
        with pytest.raises(KeyboardInterrupt):
            sweep(short, "seed", [7, 8], digits, **settings)
    assert (tmp_path / "sweep" / "seed=7" / "config.json").is_file()
    sweep(short, "seed", [0], digits, **settings)
    assert not (tmp_path / "sweep" / "seed=7").exists()
    assert SweepDirectory(tmp_path / "sweep").holds_training()
    with pytest.raises(RunError, match="holds a sweep"):
        sweep(short, "seed", [1], digits, **settings)


def test_a_path_without_text_is_refused_before_anything_is_written(
    recipe, digits, tmp_path, monkeypatch
):
    odd = tmp_path / "caf\udce9"
    with pytest.raises(RunError, match=r"caf\\udce9/run has bytes .* not UTF-8.*--workdir"):
        fit(recipe, digits, workdir=odd / "run")
    with pytest.raises(RunError, match="not UTF-8"):
        sweep(recipe, "seed", [0], digits, workdir=odd)
    odd.mkdir()
    monkeypatch.chdir(odd)
    for path in ("run", "."):
        with pytest.raises(RunError, match="not UTF-8"):
            fit(recipe, digits, workdir=path)
    assert not list(odd.iterdir())


def test_a_working_directory_that_was_deleted_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(RunError, match="run cannot be found: the working directory was deleted"):
        RunDirectory(tmp_path.relative_to(tmp_path) / "run").check_free(overwrite=False)
    check_path(tmp_path / "run")
