"""What killed processes leave and what others plant: no obstacle, and nothing is written there.

benchmarks/deaths.py kills real processes at each of their file operations.
"""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest

from jaxcifar.common.errors import DataError, RunError
from jaxcifar.data.download import Remote, fetch
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.studies.reproduction import Item, Settings, reproduce
from jaxcifar.studies.sweeps import sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.training.fit import fit
from jaxcifar.visualize.pictures import draw_confusion
from jaxcifar.visualize.saving import save_picture
from tests.common.test_writing import LEFTOVER

# Nothing is there to compare, which takes no time.
PLAN = (Item("compare", "Accuracy against time."),)


@pytest.fixture
def recipe(recipe):
    """One epoch, of the head alone on cached features: little to compile."""
    frozen = {"freeze": "freeze_b", "bn": "frozen", "cache_features": True}
    still = {"flip_rate": 0.0, "translate_pixels": 0}
    return dataclasses.replace(recipe, epochs=1, **frozen, **still)


@pytest.fixture
def starts(recipe, digits):
    """How a run, a sweep and a report are started in a directory."""

    def start(kind, path, **how):
        if kind == "run":
            fit(recipe, digits, workdir=path, **how)
        elif kind == "sweep":
            sweep(recipe, "seed", [0], digits, workdir=path, **how)
        else:
            try:
                reproduce(path, Settings(), plan=PLAN, verbose=False)
            except RunError as error:
                if "1 of 1 items did not run" not in str(error):
                    raise

    return {kind: partial(start, kind) for kind in ("run", "sweep", "report")}


KINDS = ("run", "sweep", "report")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="start"),
        pytest.param({"overwrite": True}, id="overwrite", marks=pytest.mark.slow),
    ],
)
def test_a_start_that_died_before_its_first_file_is_no_obstacle(starts, tmp_path, kind, how):
    for name in (".lock", LEFTOVER):
        (tmp_path / name).write_text("1")
    starts[kind](tmp_path, **how)
    assert not {".lock", LEFTOVER} & set(os.listdir(tmp_path))


@pytest.mark.parametrize("directory", [RunDirectory, SweepDirectory])
def test_resuming_what_never_started_says_how_to_start(tmp_path, directory):
    for name in (".lock", LEFTOVER):
        (tmp_path / name).write_text("1")
    read = directory(tmp_path).read_config if directory is RunDirectory else None
    with pytest.raises(RunError, match="is empty.*without --resume"):
        (read or directory(tmp_path).read)()


@pytest.mark.slow
def test_a_member_that_died_before_its_first_file_is_no_obstacle(starts, tmp_path):
    starts["sweep"](tmp_path)
    member = tmp_path / "seed=0"
    shutil.rmtree(member)
    member.mkdir()
    for name in (".lock", LEFTOVER):
        (member / name).write_text("1")
    starts["sweep"](tmp_path, resume=True)
    assert RunDirectory(member).read_summary() is not None


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_not_write_one_directory(starts, tmp_path, root, kind):
    script = (
        "import sys; from pathlib import Path; from jaxcifar.common.lock import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match=rf"in use by another process \(pid {holder.pid}\)"):
        starts[kind](tmp_path)
    assert os.listdir(tmp_path) == [".lock"]
    holder.communicate()
    starts[kind](tmp_path)


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "summary.json.tmp"])
def test_a_resumed_run_writes_through_no_link(starts, recipe, digits, tmp_path, victim, name):
    run_dir = RunDirectory(tmp_path / "run")
    run_dir.create({"recipe": recipe.to_dict(), "experiment": "digits"} | fingerprint(digits))
    (run_dir.path / name).symlink_to(victim)
    with contextlib.suppress(RunError):
        starts["run"](run_dir.path, resume=True)
    if name != ".lock":  # that one is refused
        assert run_dir.read_summary() is not None


def fingerprint(splits):
    return {"data_fingerprint": splits.fingerprint}


@pytest.mark.parametrize("name", [".lock", "sweep.json.tmp", "table.md"])
def test_a_resumed_sweep_writes_through_no_link(starts, tmp_path, victim, name):
    starts["sweep"](tmp_path / "sweep")
    (tmp_path / "sweep" / name).unlink(missing_ok=True)
    (tmp_path / "sweep" / name).symlink_to(victim)
    with contextlib.suppress(RunError):
        starts["sweep"](tmp_path / "sweep", resume=True)


@pytest.mark.parametrize("name", [".lock", "plan.json.tmp", "report.md"])
def test_a_report_writes_through_no_link(starts, tmp_path, victim, name):
    starts["report"](tmp_path / "report")
    (tmp_path / "report" / name).unlink(missing_ok=True)
    (tmp_path / "report" / name).symlink_to(victim)
    with contextlib.suppress(RunError):
        starts["report"](tmp_path / "report")


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("name", ["checkpoints", "damaged", "figures"])
def test_a_folder_of_a_run_that_is_a_link_is_refused(starts, recipe, tmp_path, name, how):
    run_dir, elsewhere = RunDirectory(tmp_path / "run"), tmp_path / "elsewhere"
    run_dir.create({"recipe": recipe.to_dict()})
    (elsewhere / "3").mkdir(parents=True)
    (run_dir.path / name).symlink_to(elsewhere)
    with pytest.raises(RunError, match=f"{name} is a link, and nothing is written through one"):
        starts["run"](run_dir.path, **how)
    assert os.listdir(elsewhere) == ["3"]


@pytest.mark.parametrize("name", ["figures", "seed=0"])
def test_a_folder_of_a_sweep_that_is_a_link_is_refused(starts, tmp_path, name):
    starts["sweep"](tmp_path / "sweep")
    os.rename(tmp_path / "sweep" / name, tmp_path / "elsewhere")
    (tmp_path / "sweep" / name).symlink_to(tmp_path / "elsewhere")
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(RunError, match=f"{name} is a link"):
            starts["sweep"](tmp_path / "sweep", **how)
    assert os.listdir(tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_member_that_is_a_link_is_removed_and_what_it_leads_to_is_kept(
    recipe, digits, starts, tmp_path
):
    starts["sweep"](tmp_path / "sweep")
    os.rename(tmp_path / "sweep" / "seed=0", tmp_path / "elsewhere")
    (tmp_path / "sweep" / "seed=0").symlink_to(tmp_path / "elsewhere")
    sweep(recipe, "seed", [1], digits, workdir=tmp_path / "sweep", overwrite=True)
    assert RunDirectory(tmp_path / "elsewhere").read_summary() is not None
    assert not os.path.lexists(tmp_path / "sweep" / "seed=0")


@pytest.mark.parametrize("name", ["runs", "pictures"])
def test_a_folder_of_a_report_that_is_a_link_is_refused(starts, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    starts["report"](tmp_path / "report")
    (tmp_path / "report" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{name} is a link"):
        starts["report"](tmp_path / "report")


def test_links_among_checkpoints_are_removed_and_what_they_lead_to_is_kept(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "7").mkdir(parents=True)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for name in (".deleted", "3.orbax-checkpoint-tmp"):
        (checkpoints / name).symlink_to(elsewhere)
    with Checkpoints(checkpoints) as opened:
        assert opened.steps() == []
    assert os.listdir(elsewhere) == ["7"]
    assert os.listdir(checkpoints) == []


def test_a_run_of_a_report_that_is_a_link_is_refused(starts, tmp_path):
    starts["report"](tmp_path / "report")
    (tmp_path / "report" / "runs").mkdir()
    (tmp_path / "report" / "runs" / "one").symlink_to(tmp_path)
    with pytest.raises(RunError, match="one is a link"):
        starts["report"](tmp_path / "report")


def test_a_picture_of_a_run_is_not_drawn_through_a_link(starts, tmp_path):
    starts["run"](tmp_path / "run")
    figures = tmp_path / "run" / "figures"
    os.rename(figures, tmp_path / "elsewhere")
    before = os.listdir(tmp_path / "elsewhere")
    figures.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="figures is a link"):
        save_picture(draw_confusion, tmp_path / "run")
    assert os.listdir(tmp_path / "elsewhere") == before
    draw_confusion(tmp_path / "run", out=tmp_path / "elsewhere" / "mine.png")


@pytest.mark.parametrize(
    "left", ["summary.json", pytest.param("config.json", marks=pytest.mark.slow)]
)
def test_a_member_of_another_sweep_is_not_taken_for_a_finished_one(
    recipe, digits, starts, tmp_path, left
):
    """A sweep that was killed while it removed an earlier one, by an earlier version."""
    sweep(
        dataclasses.replace(recipe, dropout_rate=0.5), "seed", [0], digits, workdir=tmp_path / "old"
    )
    starts["sweep"](tmp_path / "sweep")
    member = tmp_path / "sweep" / "seed=0"
    shutil.rmtree(member)
    shutil.copytree(tmp_path / "old" / "seed=0", member)
    if left == "summary.json":
        (member / "config.json").unlink()
    with pytest.raises(RunError, match="holds no run|another recipe"):
        starts["sweep"](tmp_path / "sweep", resume=True)


def test_a_download_is_not_written_through_a_link(tmp_path, victim):
    source = tmp_path / "a.tar.gz"
    source.write_bytes(b"x" * 100)
    remote = Remote("a.tar.gz", 100, "0" * 64, (source.as_uri(),))
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "a.tar.gz.part").symlink_to(victim)
    with pytest.raises((OSError, DataError)):
        fetch(remote, folder, progress=False)
