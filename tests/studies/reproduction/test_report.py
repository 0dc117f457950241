import json
import re

import pytest

from jaxcifar.common.errors import RunError
from jaxcifar.recipes.presets import EXPERIMENTS
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.studies.reproduction.drawings import comparison_points
from jaxcifar.studies.reproduction.entries import Entry, Gallery, Report, Reported, SweepEntry
from jaxcifar.studies.reproduction.page import to_html, to_markdown
from jaxcifar.studies.reproduction.report import build_page
from jaxcifar.studies.reproduction.stored_run import read_run
from jaxcifar.studies.reproduction.words import preset_differences, time_text
from tests.studies.reproduction.test_page import read

REPORTED = Reported(0.978, 0.737, 0.730, 364)
MACHINE = {
    "backend": "cpu",
    "device": "cpu",
    "devices": 1,
    "processor": "a <processor>",
    "cores": 2,
    "python": "3.11.9",
    "versions": {"jax": "0.10.2"},
}


def write_run(path, *, test=0.5, epochs=2, done=None, settings=None, weights=None):
    """A run directory as `fit` leaves it, after `done` epochs."""
    done = epochs if done is None else done
    path.mkdir(parents=True)
    recipe = EXPERIMENTS["scratch"].settings | {"epochs": epochs, "seed": 0} | (settings or {})
    config = {"recipe": recipe, "machine": MACHINE, "weights": weights, "data_fingerprint": "ab"}
    (path / "config.json").write_text(json.dumps(config))
    rows = [{"epoch": e, "step": 10 * e, "validation_accuracy": 0.4} for e in range(1, done + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done == epochs:
        scores = {
            which: {
                "step": 10 * epoch,
                "validation_accuracy": 0.4,
                "test": {"accuracy": accuracy, "loss": 1.0, "examples": 10_000},
            }
            for which, epoch, accuracy in (("best", 1, test + 0.01), ("last", epochs, test))
        }
        summary = {
            "epochs": epochs,
            "parameters": 1_000,
            "trainable_parameters": 10,
            "train_accuracy": 0.6,
            "train_seconds": 3_731.0,
            "validation_seconds": 12.0,
            "images_per_second": 350.4,
        }
        (path / "summary.json").write_text(json.dumps(summary | scores))
    return path


def entry(*paths, **more):
    return Entry("scratch", "From scratch.", "scratch", "scratch", REPORTED, paths, **more)


def table_row(report, name):
    """Cells of the results table."""
    page = to_markdown(build_page(report), None).split("## Results")[1]
    line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_figures_are_shown_next_to_the_reports(tmp_path):
    run = write_run(tmp_path / "scratch", epochs=20)
    row = table_row(Report("full", (entry(run),)), "scratch")
    assert row == [
        "scratch",
        "0.600 / 0.400 / 0.500",
        "0.978 / 0.737 / 0.730",
        "-0.378 / -0.337 / -0.230",
        "0.510",
        "1h 2m 11s",
        "6m 4s",
        "",
    ]


def test_a_smoke_run_is_marked_at_the_top_and_its_differences_in_the_table(tmp_path):
    report = Report("smoke", (entry(write_run(tmp_path / "scratch")),))
    row = table_row(report, "scratch")
    assert row[3] == "not comparable"
    assert row[7] == "epochs 2, not 20"
    html = to_html(build_page(report))
    assert html.index("Smoke run: real data") < html.index("<table>")
    assert "(smoke run)</h1>" in html
    assert "Smoke run" not in to_html(build_page(Report("full", report.entries)))


@pytest.mark.parametrize(
    ("done", "reason", "state"),
    [
        (None, None, "not run"),
        (None, "no weights", "not run: no weights"),
        (0, None, "stopped after epoch 0 of 2"),
        (1, None, "stopped after epoch 1 of 2"),
    ],
)
def test_a_run_that_did_not_run_has_a_state_and_no_numbers(tmp_path, done, reason, state):
    path = tmp_path / "scratch"
    if done is not None:
        write_run(path, done=done)
    report = Report("full", (entry(path, reason=reason),))
    row = table_row(report, "scratch")
    assert row == ["scratch", "not run", "0.978 / 0.737 / 0.730", "-", "-", "-", "6m 4s", state]
    ours, theirs = comparison_points(report.entries)
    assert not ours
    assert [point.accuracy for point in theirs] == [0.730]
    text = "".join(read(to_html(build_page(report))).text)
    assert "0 of 1 runs are complete" in text
    # The only accuracies on the page are the report's.
    assert set(re.findall(r"0\.\d{3}", text)) == {"0.978", "0.737", "0.730"}


def test_a_run_with_some_of_its_seeds_is_counted_apart(tmp_path):
    first = write_run(tmp_path / "scratch")
    some = entry(first, tmp_path / "scratch-seed1")
    text = to_markdown(build_page(Report("full", (some, entry(tmp_path / "none")))), None)
    assert "0 of 2 runs are complete, and 1 more for some of the seeds. The others have no" in text
    text = to_markdown(build_page(Report("full", (entry(first), entry(tmp_path / "none")))), None)
    assert "1 of 2 runs are complete. The others have no numbers. The remarks" in text
    text = to_markdown(build_page(Report("full", (entry(first), some))), None)
    assert "1 of 2 runs are complete, and 1 more for some of the seeds. The remarks" in text


def test_a_run_with_more_epochs_to_go_is_not_complete(tmp_path):
    path = write_run(tmp_path / "scratch")
    config = json.loads((path / "config.json").read_text())
    config["recipe"]["epochs"] = 5
    (path / "config.json").write_text(json.dumps(config))
    assert entry(path).state() == "stopped after epoch 2 of 5"


def test_a_damaged_run_is_named_and_the_page_still_made(tmp_path):
    path = write_run(tmp_path / "scratch")
    (path / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_run(path)
    assert "cannot be read" in table_row(Report("full", (entry(path),)), "scratch")[7]


def test_seeds_have_a_mean_and_a_spread_with_their_number(tmp_path):
    paths = [
        write_run(tmp_path / f"s{seed}", test=test, settings={"seed": seed}, epochs=20)
        for seed, test in enumerate((0.70, 0.72, 0.77))
    ]
    row = table_row(Report("full", (entry(*paths),)), "scratch")
    # statistics by hand: mean 0.73, squares 0.0009 + 0.0001 + 0.0016 over n - 1 = 2
    assert row[1] == "0.600 ± 0.000 / 0.400 ± 0.000 / 0.730 ± 0.036"
    assert row[3].endswith("/ +0.000")
    assert row[7] == "n = 3"
    row = table_row(Report("full", (entry(*paths[:2], tmp_path / "s9"),)), "scratch")
    assert row[7] == "n = 2; complete for 2 of 3 seeds"


def test_weights_are_named_without_their_folder(tmp_path):
    for number, (source, shown) in enumerate(
        (("/home/someone/w.pth", "w.pth"), ("timm/resnet18.tv_in1k", "timm/resnet18.tv_in1k"))
    ):
        weights = {"source": source, "sha256": "1a96e2ad57d16162"}
        run = write_run(tmp_path / f"scratch-seed{number}", weights=weights)
        text = to_markdown(build_page(Report("full", (entry(run),))), tmp_path)
        assert f"| {shown} | 1a96e2ad57d1... | scratch-seed{number} |" in text
        assert "someone" not in text


def test_the_machine_and_the_checkpoints_are_shown(tmp_path):
    page = build_page(Report("full", (entry(write_run(tmp_path / "scratch")),)))
    text = "".join(read(to_html(page)).text)
    assert "a <processor>" in text
    assert "epoch 1: validation 0.400, test 0.510 (10,000 images)" in text
    assert "epoch 2: validation 0.400, test 0.500" in text
    assert "10 of 1,000" in text
    assert "350 (median epoch)" in text
    # Training time includes `StageData.seconds`, and so the compiling of the caching pass.
    assert "excludes compiling (except for the pass that caches features) and validation" in text


def test_every_machine_of_a_run_is_shown(tmp_path):
    run = write_run(tmp_path / "scratch")
    other = MACHINE | {"processor": "another"}
    config = json.loads((run / "config.json").read_text())
    resumed = [{"step": 10}, {"step": 15, "machine": other}, {"step": 15}]
    (run / "config.json").write_text(json.dumps(config | {"resumed": resumed}))
    text = to_markdown(build_page(Report("full", (entry(run),))), None)
    for processor in (r"a \<processor\>", "another"):
        assert re.search(rf"\| {re.escape(processor)} \| 2 \| [^|]* \| scratch \|", text)
    assert '| resumed | after step 10, 15, on 2 setups, see "What ran where" |' in text
    here = to_markdown(build_page(Report("full", (entry(write_run(tmp_path / "a")),))), None)
    assert "| resumed | never |" in here


def test_a_departure_of_several_rows_is_said_once(tmp_path):
    short = {"train_size": 1_280, "batch_size": 64}
    runs = [write_run(tmp_path / name, settings=short) for name in ("a", "b", "c")]
    runs.append(write_run(tmp_path / "d", settings={"batch_size": 64, "width": 8}))
    entries = [
        Entry(run.name, "", "scratch", "scratch", REPORTED, (run,), **more)
        for run, more in zip(runs, ({}, {}, {}, {"compared": False}), strict=True)
    ]
    not_run = Entry("e", "", "scratch", "scratch", REPORTED, (tmp_path / "e",))
    member = write_run(tmp_path / "dropout_rate=0.3", settings=short | {"dropout_rate": 0.3})
    sweep = SweepEntry("rates", "Rates.", "scratch", "dropout_rate", ((0.3, member),))
    report = Report("smoke", (*entries, not_run), (sweep,))
    states = ["", "", "", "width 8, not 64"]
    assert [table_row(report, name)[7] for name in "abcde"] == [*states, "not run"]
    text = to_markdown(build_page(report), tmp_path)
    size = "train_size 1280, not the default (40000)"
    assert (
        "the rows do not repeat. All runs: epochs 2, not 20; batch_size 64, not 128. "
        f"All runs but d: {size}.\n"
    ) in text
    assert "Differences from scratch" not in text, "the sweep has none of its own"
    for once in (size, "epochs 2, not 20", "batch_size 64, not 128"):
        assert text.count(once) == 1
    assert text.count("| differences from scratch | those above the table of results |") == 3
    assert "| width 8, not 64; those above the table of results |" in text


def test_a_departure_of_some_seeds_stays_in_the_row(tmp_path):
    paths = [
        write_run(tmp_path / "s0", settings={"width": 8}, epochs=20),
        write_run(tmp_path / "s1", settings={"seed": 1}, epochs=20),
    ]
    other = Entry("other", "", "scratch", "scratch", None, (paths[0],))
    report = Report("full", (entry(*paths), other))
    assert table_row(report, "scratch")[7] == "n = 2; width 8, not 64"
    assert "the rows do not repeat" not in to_markdown(build_page(report), None)
    # Two other rows share it: then it is said above, but not of this row.
    third = Entry("third", "", "scratch", "scratch", None, (paths[0],))
    report = Report("full", (entry(*paths), other, third))
    assert table_row(report, "scratch")[7] == "n = 2; width 8, not 64"
    text = to_markdown(build_page(report), None)
    assert "the rows do not repeat. All runs but scratch: width 8, not 64." in text
    assert "| differences from scratch | width 8, not 64 | none |" in text
    assert "| differences from scratch | those above the table of results |" in text


def test_differences_are_those_from_a_preset():
    recipe = EXPERIMENTS["finetune"].recipe.to_dict()
    assert preset_differences(recipe, "finetune") == []
    assert preset_differences(recipe | {"seed": 3, "weights": "w.pth"}, "finetune") == []
    assert preset_differences(recipe | {"epochs": 3}, "finetune") == ["epochs 3, not 20"]
    differences = preset_differences(
        recipe | {"train_size": 9, "resize": 64, "patience": 3, "t_max": None}, "finetune"
    )
    assert differences == [
        "train_size 9, not the default (40000)",
        "resize 64, not the default (the dataset's)",
        "t_max the default (epochs), not 200.0",
        "patience 3, not the default (train all epochs)",
    ]
    # None means something else in each setting.
    assert preset_differences({"validation_size": None}, "speedrun") == [
        "validation_size the default (the dataset's split), not 500"
    ]
    assert "new_head True, not False" in preset_differences(recipe, "scratch")
    assert set(recipe) == set(Recipe().to_dict())


def test_missing_members_of_a_sweep_have_no_numbers(tmp_path):
    run = write_run(tmp_path / "x=0.1")
    members = ((0.1, run), (0.2, tmp_path / "x=0.2"))
    sweep = SweepEntry("sweep_x", "x", "scratch", "x", members, reason="out of luck")
    text = to_markdown(build_page(Report("full", (), (sweep,))), tmp_path)
    assert "| 0.1 | 0.600 | 0.400 | 0.500 |" in text
    assert "| 0.2 | not run | not run | not run |" in text
    assert "1 of 2 not run: out of luck" in text


def test_a_sweep_shows_its_differences_and_where_it_ran(tmp_path):
    run = write_run(tmp_path / "dropout_rate=0.3", settings={"dropout_rate": 0.3, "resize": 64})
    members = ((0.3, run), (0.4, tmp_path / "dropout_rate=0.4"))
    sweep = SweepEntry("rates", "Rates.", "scratch", "dropout_rate", members)
    text = to_markdown(build_page(Report("smoke", (), (sweep,))), tmp_path)
    differences = "epochs 2, not 20; resize 64, not the default (the dataset's)."
    assert f"Differences from scratch: {differences}" in text
    ran = text.split("What ran where")[1]
    assert ran.count("rates/dropout_rate=0.3") == 3  # machine, weights, data


def test_a_damaged_run_is_named_without_its_folder(tmp_path):
    path = write_run(tmp_path / "scratch")
    (path / "config.json").write_text("{")
    state = entry(path).state()
    assert state.startswith("not run: scratch/config.json")
    assert str(tmp_path) not in state


def test_a_gallery_says_what_is_missing():
    gallery = Gallery("Pictures", "What they show.", (), "pictures: not run: no run")
    page = build_page(Report("full", (), galleries=(gallery,)))
    assert "pictures: not run: no run" in to_html(page)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m 0s"), (364, "6m 4s"), (1431, "23m 51s"), (3600, "1h 0m 0s")],
)
def test_times_are_written_as_in_the_report(seconds, text):
    assert time_text(seconds) == text
