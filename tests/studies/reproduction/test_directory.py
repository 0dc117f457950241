import json
import os
import shutil
import time

import pytest
from matplotlib.figure import Figure

from jaxcifar.common.errors import RunError
from jaxcifar.common.figure import save_figure
from jaxcifar.studies.reproduction import Item, Settings
from jaxcifar.studies.reproduction.directory import ReportDirectory
from tests.studies.reproduction.test_report import write_run

PLAN = (
    Item("one", "A run.", "scratch"),
    Item("two", "Another.", "finetune"),
    Item("three", "A third.", "mini"),
    Item("mistakes", "Pictures."),
)


@pytest.fixture
def report_dir(tmp_path):
    return ReportDirectory(tmp_path / "report", PLAN)


def ask(report_dir, *names, **settings):
    """Request items, as a call does; returns the commands on the page."""
    chosen = [item for item in PLAN if not names or item.name in names]
    report_dir.write_mark(report_dir.open(Settings(**settings), chosen))
    return report_dir.read_report().command.splitlines()


def test_the_command_has_all_options_that_a_recipe_depends_on(report_dir, tmp_path):
    weights = tmp_path / "w.pth"
    weights.touch()
    (command,) = ask(report_dir, weights=str(weights), epochs=15, resize=64, seed=3, seeds=2)
    assert command == (
        "jaxcifar reproduce --scale full --seed 3 --weights w.pth --epochs 15 --resize 64 --seeds 2"
    )
    assert str(tmp_path) not in (report_dir.path / "plan.json").read_text()


def test_items_requested_with_other_options_have_their_own_command(report_dir):
    ask(report_dir, "one", "two", "mistakes", weights="a/hub")
    assert ask(report_dir, "three", resize=64, epochs=15) == [
        "jaxcifar reproduce --scale full --epochs 15 --resize 64 --only three",
        "jaxcifar reproduce --scale full --weights a/hub --skip three",
    ]


def test_seeds_belong_to_the_items_they_were_requested_for(report_dir):
    ask(report_dir, seeds=1)
    for name in ("one", "one-seed1", "two"):
        write_run(report_dir.path / "runs" / name)
    assert ask(report_dir, "one", seeds=3) == [
        "jaxcifar reproduce --scale full --seeds 3 --only one",
        "jaxcifar reproduce --scale full --skip one",
    ]
    ask(report_dir, "one")  # a later call with fewer does not hide the others
    states = {entry.name: entry.state() for entry in report_dir.entries()}
    assert states == {
        "one": "complete for 2 of 3 seeds",
        "two": "complete",
        "three": "not run",
    }


@pytest.fixture
def shared(tmp_path):
    """An item for which a member of a sweep serves, and the directories of both."""
    rates = Item("rates", "A sweep.", "mini", swept="dropout_rate", values=(0.3,))
    own = Item("own", "A member.", "mini", member=("rates", 0.3))
    report_dir = ReportDirectory(tmp_path / "report", (rates, own))
    runs = report_dir.path / "runs"
    return report_dir, runs / "rates" / "dropout_rate=0.3", runs / "own"


def test_a_member_of_a_sweep_serves_until_an_items_own_run_has_trained(shared):
    report_dir, member, own = shared
    write_run(member)
    (entry,) = report_dir.entries()
    assert (entry.paths, entry.state()) == ((member,), "complete")
    write_run(own, done=0)  # begun, without an epoch
    assert report_dir.entries()[0].paths == (member,)
    shutil.rmtree(own)
    write_run(own, done=1)
    (entry,) = report_dir.entries()
    assert (entry.paths, entry.state()) == ((own,), "stopped after epoch 1 of 2")
    assert report_dir.shared_run(report_dir.plan[1]) is None  # so it goes on with the next call


def test_pictures_of_another_run_are_not_shown(shared):
    report_dir, member, own = shared
    folder = report_dir.path / "pictures"

    def shown():
        return [picture.path.name for picture in report_dir.entries()[0].pictures]

    def draw(*names):
        for name in names:
            save_figure(Figure(figsize=(1, 1)), folder / name)

    write_run(member)
    draw("confusion_own.png", "curves_own.png")  # of its own run, which was removed
    assert shown() == []
    draw("confusion_rates_dropout_rate=0.3.png", "curves_rates_dropout_rate=0.3.png")
    assert shown() == ["curves_rates_dropout_rate=0.3.png", "confusion_rates_dropout_rate=0.3.png"]
    write_run(own)
    later = time.time() + 1
    for file in ("metrics.jsonl", "summary.json"):  # of a run that was trained again
        os.utime(own / file, (later, later))
    assert shown() == []
    for name in ("confusion_own.png", "curves_own.png"):
        os.utime(folder / name, (later, later))
    assert shown() == ["curves_own.png", "confusion_own.png"]


def test_a_mark_of_the_first_version_is_read(report_dir):
    for name in ("one", "one-seed1", "two"):
        write_run(report_dir.path / "runs" / name)
    old = {"made_by": "jaxcifar reproduce", "scale": "full", "seed": 0, "seeds": 3, "failed": {}}
    (report_dir.path / "plan.json").write_text(json.dumps(old))
    assert {e.name: len(e.paths) for e in report_dir.entries()} == {"one": 2, "two": 1, "three": 1}
    assert report_dir.read_report().command.splitlines() == [
        "jaxcifar reproduce --scale full --seeds 2 --only one",
        "jaxcifar reproduce --scale full --skip one",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asked": {"one": {"seeds": 10**9}}}, "its scale or seeds"),
        ({"asked": {"one": {"seeds": "2"}}}, "its scale or seeds"),
        ({"asked": {"one": {"seeds": -1}}}, "its scale or seeds"),
        ({"asked": {"one": []}}, r"asked.one is \[\], not an object"),
        ({"asked": {"one": {"weights": [1]}}}, "asked.one.weights is"),
        ({"failed": {"one": 1}}, "failed.one is 1, not a line of text"),
        ({"scale": "huge"}, "its scale or seeds"),
        ({"seed": "1"}, "seed is '1', not a whole number"),
        ({"\x1b": None}, r"argument '\\x1b'"),
    ],
)
def test_an_invalid_mark_is_refused(report_dir, change, message):
    report_dir.path.mkdir()
    mark = {"made_by": "jaxcifar reproduce"} | change
    (report_dir.path / "plan.json").write_text(json.dumps(mark))
    with pytest.raises(RunError, match=f"plan.json is damaged.*{message}"):
        report_dir.describe()


@pytest.mark.parametrize(
    "change",
    [
        {"machine": {}},
        {"resumed": [{"step": 1, "machine": {}}]},
        {"machine": None},
        {"weights": {"source": 1}},
        {"recipe": {"epochs": "x"}},
    ],
)
def test_a_run_that_cannot_be_shown_is_called_damaged(report_dir, change):
    run = write_run(report_dir.path / "runs" / "one")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | change))
    assert "not run: one/config.json is damaged" in report_dir.describe()
    assert "config.json is damaged" in report_dir.write_page().read_text()


def test_the_titles_of_the_list_stand_below_each_other(report_dir):
    ask(report_dir, "one", seeds=3)
    write_run(report_dir.path / "runs" / "one")
    lines = report_dir.describe().splitlines()
    assert lines[0].split("  ", 1)[1].strip() == "complete for 1 of 3 seeds  A run."
    titles = ("A run.", "Another.", "A third.", "Pictures.")
    columns = {line.index(title) for line, title in zip(lines, titles, strict=True)}
    assert len(columns) == 1
