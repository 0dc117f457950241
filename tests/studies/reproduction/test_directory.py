import json

import pytest

from jaxcifar.common.errors import RunError
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
def folder(tmp_path):
    return ReportDirectory(tmp_path / "report", PLAN)


def ask(folder, *names, **settings):
    """What a call that asks for these items leaves in plan.json; the page's commands."""
    chosen = [item for item in PLAN if not names or item.name in names]
    folder.write_mark(folder.open(Settings(**settings), chosen))
    return folder.read_report().command.splitlines()


def test_the_command_has_all_options_that_a_recipe_depends_on(folder, tmp_path):
    weights = tmp_path / "w.pth"
    weights.touch()
    (command,) = ask(folder, weights=str(weights), epochs=15, resize=64, seed=3, seeds=2)
    assert command == (
        "python scripts/reproduce.py --scale full --seed 3 --weights w.pth --epochs 15 "
        "--resize 64 --seeds 2"
    )
    assert str(tmp_path) not in (folder.path / "plan.json").read_text()


def test_items_asked_for_by_other_options_have_a_command_of_their_own(folder):
    ask(folder, "one", "two", "mistakes", weights="a/hub")
    assert ask(folder, "three", resize=64, epochs=15) == [
        "python scripts/reproduce.py --scale full --epochs 15 --resize 64 --only three",
        "python scripts/reproduce.py --scale full --weights a/hub --skip three",
    ]


def test_seeds_are_of_the_items_they_were_asked_for(folder):
    ask(folder, seeds=1)
    for name in ("one", "one-seed1", "two"):
        write_run(folder.path / "runs" / name)
    assert ask(folder, "one", seeds=3) == [
        "python scripts/reproduce.py --scale full --seeds 3 --only one",
        "python scripts/reproduce.py --scale full --skip one",
    ]
    ask(folder, "one")  # a later call with fewer does not hide the others
    states = {entry.name: entry.state() for entry in folder.entries()}
    assert states == {
        "one": "complete for 2 of 3 seeds",
        "two": "complete",
        "three": "not run",
    }


def test_a_mark_of_the_first_form_is_read(folder):
    for name in ("one", "one-seed1", "two"):
        write_run(folder.path / "runs" / name)
    old = {"made_by": "jaxcifar reproduce", "scale": "full", "seed": 0, "seeds": 3, "failed": {}}
    (folder.path / "plan.json").write_text(json.dumps(old))
    assert {e.name: len(e.paths) for e in folder.entries()} == {"one": 2, "two": 1, "three": 1}
    assert folder.read_report().command.splitlines() == [
        "python scripts/reproduce.py --scale full --seeds 2 --only one",
        "python scripts/reproduce.py --scale full --skip one",
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
def test_a_mark_that_cannot_be_is_refused(folder, change, message):
    folder.path.mkdir()
    mark = {"made_by": "jaxcifar reproduce"} | change
    (folder.path / "plan.json").write_text(json.dumps(mark))
    with pytest.raises(RunError, match=f"plan.json is damaged.*{message}"):
        folder.describe()


@pytest.mark.parametrize(
    "change",
    [{"machine": {}}, {"machine": None}, {"weights": {"source": 1}}, {"recipe": {"epochs": "x"}}],
)
def test_a_run_that_cannot_be_shown_is_said_to_be_damaged(folder, change):
    run = write_run(folder.path / "runs" / "one")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | change))
    assert "not run: one/config.json is damaged" in folder.describe()
    assert "config.json is damaged" in folder.write_page().read_text()
