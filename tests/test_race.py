"""Many short runs compared: the oracle of a run is `fit` with the same recipe."""

import json
import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import race, race_file
from benchmarks.contenders import (
    Contender,
    check_contenders,
    plain_views,
    read_contender,
    recipe_of,
)
from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.stage import make_stage
from jaxcifar.runs.transfer import export_run
from jaxcifar.training import stage
from jaxcifar.training.evaluation import evaluate
from jaxcifar.training.fit import fit
from jaxcifar.training.plan import RunPlan
from tests.conftest import ROOT

# Who runs.


@pytest.mark.parametrize(
    ("text", "name", "changes"),
    [
        ("speedrun", "speedrun", {}),
        ("demo  width=8 seed=1", "demo width=8 seed=1", {"width": 8}),
        ("hot: speedrun learning_rate=0.41", "hot", {"learning_rate": 0.41}),
        ("hot:speedrun", "hot", {}),
        (
            "cold: demo freeze='conv1=frozen *=trained'",
            "cold",
            {"freeze": "conv1=frozen *=trained"},
        ),
        ("speedrun-95 flip-rate=0.4", "speedrun-95 flip-rate=0.4", {"flip_rate": 0.4}),
        ("demo freeze=up_to:conv1", "demo freeze=up_to:conv1", {"freeze": "up_to:conv1"}),
    ],
)
def test_a_contender_is_read_from_words(text, name, changes):
    contender = read_contender(text, {})
    assert contender.name == name
    assert contender.settings == changes


def test_own_settings_win_over_the_common_ones_and_the_epochs_move_the_warm_up():
    contender = read_contender("speedrun width=16 epochs=10", {"width": 8, "epochs": 4})
    assert (contender.recipe.width, contender.recipe.epochs) == (16, 10)
    assert contender.recipe.warmup_epochs == pytest.approx(2.0)
    assert contender.recipe.validate_every == 10
    assert read_contender("speedrun warmup_epochs=3", {"epochs": 4}).recipe.warmup_epochs == 3
    assert read_contender("scratch", {"epochs": 4}).recipe.validate_every == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200))
def test_the_warm_up_stays_the_same_share(epochs):
    recipe, usual = recipe_of("speedrun", {"epochs": epochs}), get_experiment("speedrun").recipe
    share = usual.warmup_epochs / usual.epochs
    assert recipe.warmup_epochs / recipe.epochs == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speedrum", "speedrun"),
        ("speedrun learning_rte=1", "learning_rate"),
        ("speedrun fast", "field=value"),
        ("speedrun width=-1", "width"),
        ("speedrun epochs=0", "epochs"),
        ("speedrun epochs=many", "epochs"),
        ("hot:", "PRESET"),
        (":speedrun", "PRESET"),
        ("demo freeze='conv1", "cannot be read"),
        ("", "PRESET"),
    ],
)
def test_a_wrong_contender_is_refused_in_one_line(text, message):
    with pytest.raises(RecipeError, match=message) as raised:
        read_contender(text, {})
    assert "\n" not in str(raised.value)


def test_two_contenders_of_one_name_are_refused():
    twice = [read_contender(text, {}) for text in ("demo", "demo: demo width=8")]
    with pytest.raises(RecipeError, match="'demo' runs twice"):
        check_contenders(twice)


def test_two_contenders_of_the_same_settings_are_refused():
    texts = ("a: demo width=8", "scratch", "b: demo width=8 validate_every=2")
    twice = [read_contender(text, {}) for text in texts]
    with pytest.raises(RecipeError, match="'a' and 'b' have the same settings"):
        check_contenders(twice)


@pytest.mark.parametrize(("setting", "way"), [("seed=1", "--seeds"), ("patience=2", "last epoch")])
def test_a_setting_that_no_race_heeds_is_refused(setting, way):
    with pytest.raises(RecipeError, match=f"'hot' sets {setting[:4]}.*{way}"):
        check_contenders([read_contender(f"hot: demo {setting}", {})])


def test_the_plain_views_are_those_without_test_settings():
    recipe = get_experiment("speedrun").recipe
    assert plain_views(recipe).test_mirror is False
    assert plain_views(get_experiment("demo").recipe) == get_experiment("demo").recipe


def race_commands():
    """The races of the documentation."""
    found = []
    for page in sorted(ROOT.glob("docs/*.md")):
        text = page.read_text().replace("\\\n", "")
        for line in re.findall(
            r"^(?:\w+=\S+ )?python -m benchmarks\.race (.*)$", text, re.MULTILINE
        ):
            found.append(shlex.split(line.split("  #")[0]))
    assert len(found) > 5
    return found


@pytest.mark.parametrize("words", race_commands(), ids=" ".join)
def test_a_race_of_the_documentation_is_between_different_recipes(words):
    assert race.read_contenders(race.make_race_parser().parse_args(words))


# One run.


def contender_of(recipe, name="one"):
    return Contender(name, "demo", recipe)


@pytest.mark.slow
def test_a_run_is_that_of_fit_stage_after_stage(recipe, digits):
    freeze = "layer1=trained@2 *=trained"
    recipe = replace(recipe, test_mirror=True, epochs=2, freeze=freeze)
    assert make_stage(recipe).last_epoch == 1
    row = race.run(race.plan_contender(contender_of(recipe), digits), seed=3)
    state, history = fit(replace(recipe, seed=3), digits)
    assert row["train_loss"] == pytest.approx(history.column("train_loss")[-1], abs=1e-5)
    for name, mirror in zip(race.SCORES, (False, True), strict=True):
        scores = evaluate(
            recipe.make_model(), state.variables, digits.test, normalize="half", mirror=mirror
        )
        assert row[name] == pytest.approx(scores["accuracy"], abs=1e-5), name
    assert row["images_per_second"] == pytest.approx(240 / row["train_seconds"], rel=0.1)
    assert row["train_seconds"] + row["compile_seconds"] <= row["seconds"] + 0.02


def test_contenders_that_differ_in_numbers_share_a_program(recipe, digits):
    stage.forget_programs()
    recipe = replace(recipe, epochs=1)
    changes = ({}, {"learning_rate": 0.001}, {"flip_rate": 0.1, "dropout_rate": 0.2})
    for change in changes:
        race.run(race.plan_contender(contender_of(replace(recipe, **change)), digits), seed=0)
    assert stage.training_programs.cache_info().misses == 1


def test_a_run_that_is_no_longer_finite_is_a_line(recipe, digits):
    recipe = replace(recipe, learning_rate=1e38, optimizer="sgd")
    row = race.run(race.plan_contender(contender_of(recipe), digits), seed=0)
    assert 0 < row["nonfinite_step"] <= 3
    assert not set(race.SCORES) & set(row)
    json.dumps(row, allow_nan=False)


# The race, without training.


class Runs:
    """Stands for `race.run`: notes who ran, and takes no time."""

    def __init__(self):
        self.ran = []

    def __call__(self, plan, seed):
        self.ran.append((plan.recipe.learning_rate, seed))
        return {
            "train_seconds": 8.0, "compile_seconds": 20.0, "images_per_second": 1.0,
            "train_loss": 1.0, "test_accuracy": 0.5 + seed / 10, "test_accuracy_views": 0.6,
            "seconds": 30.0,
        }  # fmt: skip


@pytest.fixture
def ran(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(race, "run", runs)
    return runs.ran


@pytest.fixture
def command(monkeypatch, tmp_path, capsys, ran):
    """Run the race's command on the digits: the status or message, and what it printed."""

    def run(*arguments, out=tmp_path / "race.jsonl"):
        words = ["--set", "width=2", "resize=8", "--out", str(out)]
        monkeypatch.setattr("sys.argv", ["race", *arguments, *words])
        race.main()
        return capsys.readouterr().out

    return run


SLOW, FAST = "slow: demo learning_rate=0.001", "fast: demo learning_rate=0.1"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_contenders_run_with_a_seed_before_the_next(command, ran, tmp_path):
    printed = command(SLOW, FAST, "--seeds", "0", "1", "1", "--epochs", "2")
    assert ran == [(0.001, 0), (0.1, 0), (0.001, 1), (0.1, 1)]
    header, *rows = lines(tmp_path / "race.jsonl")
    assert header["machine"]["versions"]["jax"]
    assert [row["name"] for row in rows] == ["slow", "fast"] * 2
    assert rows[0]["settings"] == {"width": 2, "resize": 8, "epochs": 2}  # the rate is the preset's
    assert rows[1]["settings"]["learning_rate"] == 0.1
    row = next(line for line in printed.splitlines() if line.startswith("fast"))
    assert row.split() == [
        "fast",
        "2",
        "2",
        "0.5500",
        "+-",
        "0.0707",
        "0.6000",
        "+-",
        "0.0000",
        "8.0",
    ]


def test_a_line_is_written_as_soon_as_its_run_ends(command, monkeypatch, tmp_path):
    out, seen = tmp_path / "race.jsonl", []
    fake = race.run

    def run(plan, seed):
        seen.append(len(lines(out)))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return fake(plan, seed)

    monkeypatch.setattr(race, "run", run)
    with pytest.raises(KeyboardInterrupt):
        command(SLOW, FAST, "--seeds", "0", "1")
    assert seen == [1, 2, 3]
    assert len(lines(out)) == 3


def test_resuming_skips_what_the_file_holds(command, ran):
    command(SLOW, "--seeds", "0")
    printed = command(SLOW, FAST, "--seeds", "0", "1", "--resume")
    assert ran == [(0.001, 0), (0.1, 0), (0.001, 1), (0.1, 1)]
    assert "4 runs" in printed
    command(SLOW, FAST, "--seeds", "0", "1", "--resume")
    assert len(ran) == 4


@pytest.mark.parametrize("change", [["--epochs", "3"], ["--seeds", "4"]])
def test_a_run_of_other_settings_or_seed_is_not_taken(command, ran, tmp_path, change):
    command(SLOW)
    command(SLOW, *change, "--resume")
    assert len(ran) == 2
    assert len(lines(tmp_path / "race.jsonl")) == 3  # under the header that is there


@pytest.mark.parametrize("name", ["code_digest", "describe"])
def test_a_run_of_other_code_or_another_machine_is_not_taken(
    command, ran, tmp_path, monkeypatch, name
):
    command(SLOW)
    with monkeypatch.context() as patch:
        patch.setattr(race_file, name, lambda: "another")
        printed = command(SLOW, "--resume")
    assert len(ran) == 2
    assert "1 runs" in printed
    assert [("machine" in row) for row in lines(tmp_path / "race.jsonl")] == [True, False] * 2
    assert "1 runs" in command(SLOW, "--resume")  # back again: a header of its own, its old run
    assert len(ran) == 2


def test_another_commit_of_the_same_sources_keeps_the_runs(command, ran, tmp_path, monkeypatch):
    command(SLOW)
    monkeypatch.setattr(race_file, "commit", lambda: "another")
    assert "2 runs" in command(SLOW, FAST, "--resume")
    assert len(ran) == 2
    assert ["machine" in row for row in lines(tmp_path / "race.jsonl")] == [True, False, False]


def test_a_header_without_runs_does_not_stand_in_the_way(command, ran, tmp_path):
    command(SLOW)
    out = tmp_path / "race.jsonl"
    out.write_text(out.read_text().splitlines(keepends=True)[0])  # killed in the first run
    command(SLOW)
    assert ["machine" in row for row in lines(out)] == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        '{"epoch": 1}\n',
        "[1]\n",
        b"\xff\xfe",
        "notes\nof mine\n",
        '{\n "machine": {"device": "cpu"},\n "seeds": {}\n}\n',
        '{"machine": {"device": "cpu"}, "seeds": {}}\n',
        '{"name": "a run without a header"}\n',
    ],
)
@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_another_file_is_not_written_into(command, ran, tmp_path, text, options):
    out = tmp_path / "race.jsonl"
    out.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = out.read_bytes()
    with pytest.raises(RunError, match="another --out"):
        command(SLOW, *options)
    assert (out.read_bytes(), ran) == (before, [])


def test_a_header_that_was_cut_short_does_not_stand_in_the_way(command, ran, tmp_path):
    command(SLOW)
    out = tmp_path / "race.jsonl"
    out.write_text(out.read_text()[:40])
    command(SLOW)
    assert "2 runs" in command(SLOW, FAST, "--resume")
    assert len(ran) == 3


def test_other_contenders_data_do_not_make_a_run_another(command, ran, tmp_path):
    command(SLOW)
    text = (tmp_path / "race.jsonl").read_text()
    header, run = map(json.loads, text.splitlines())
    assert header["data"] == [f"digits {run['data']}"]
    header["data"].append("cifar10 0")
    (tmp_path / "race.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(run)}\n")
    assert "1 runs" in command(SLOW, "--resume")
    assert len(ran) == 1


def test_a_run_that_broke_early_says_nothing_of_the_next_ones_time():
    clock = race.Clock(None, 0.0)
    broken = {"seconds": 2.0, "compile_seconds": 1.0, "nonfinite_step": 1}
    clock.learn("key", {"seconds": 90.0, "compile_seconds": 20.0}, here=True)
    clock.learn("key", broken, here=True)
    assert clock.estimate("key") == 70.0
    clock.learn("other", broken, here=True)
    assert clock.estimate("other") == 90.0


@pytest.mark.slow
def test_a_new_head_is_drawn_from_the_seed_of_the_run(recipe, digits, tmp_path):
    fit(replace(recipe, epochs=1, limit_batches=1), digits, workdir=tmp_path / "run")
    recipe = replace(recipe, epochs=1, weights=str(tmp_path / "run"), new_head=True)
    row = race.run(race.plan_contender(contender_of(recipe), digits), seed=3)
    _, history = fit(replace(recipe, seed=3), digits)
    assert row["train_loss"] == pytest.approx(history.column("train_loss")[-1], abs=1e-5)


def test_other_weights_under_the_same_name_are_another_run(recipe, digits, tmp_path):
    rows = []
    for seed in range(2):
        path = tmp_path / str(seed) / "weights.safetensors"
        path.parent.mkdir()
        fit(
            replace(recipe, seed=seed, epochs=1, limit_batches=1),
            digits,
            workdir=tmp_path / f"r{seed}",
        )
        export_run(tmp_path / f"r{seed}", path)
        contender = contender_of(replace(recipe, weights=str(path)))
        rows.append(race.start_of(contender, race.plan_contender(contender, digits), 0))
    assert rows[0]["settings"] == rows[1]["settings"]
    assert race.identity(rows[0]) != race.identity(rows[1])


def test_a_file_with_runs_is_not_continued_unasked(command, ran, tmp_path):
    command(SLOW)
    before = (tmp_path / "race.jsonl").read_bytes()
    with pytest.raises(RunError, match="--resume"):
        command(FAST)
    assert (tmp_path / "race.jsonl").read_bytes() == before
    assert len(ran) == 1


@pytest.mark.parametrize("keep", [-1, -20, 5])
def test_a_line_that_was_cut_short_is_run_again(command, ran, tmp_path, keep):
    out = tmp_path / "race.jsonl"
    command(SLOW, FAST)
    text = out.read_text()
    if keep == 5:
        text = "".join(text.splitlines(keepends=True)[:2]) + text.splitlines()[2][:5]
    out.write_text(text[:keep] if keep < 0 else text)
    printed = command(SLOW, FAST, "--resume")
    assert len(ran) == (2 if keep == -1 else 3)  # without its end of line it is still complete
    assert "2 runs" in printed


def test_the_race_stops_before_a_run_that_would_pass_the_limit(command, ran, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(race.time, "monotonic", lambda: now[0])
    fake = race.run

    def run(plan, seed):
        now[0] += 30 if len(ran) == 0 else 10  # the second finds the program compiled
        return fake(plan, seed)

    monkeypatch.setattr(race, "run", run)
    printed = command(SLOW, FAST, "--seeds", "0", "1", "--time-limit", "55")
    assert len(ran) == 3  # 30, 40 and 50 s
    assert "stopped before fast, seed 1: its 10 s would pass the limit of 55 s" in printed
    assert "3 runs" in printed


def test_another_program_is_expected_to_take_as_long_as_the_longest_run(command, ran):
    printed = command(SLOW, "other: demo batch_size=32", "--time-limit", "29")
    assert len(ran) == 1
    assert "stopped before other, seed 0: its 30 s" in printed


def test_a_run_of_an_earlier_process_is_expected_to_compile_again(command, ran):
    command(SLOW)
    printed = command(SLOW, "--seeds", "1", "--resume", "--time-limit", "29")
    assert len(ran) == 2  # the seed that the file holds was not asked for: nothing is known
    printed = command(SLOW, "--seeds", "0", "2", "--resume", "--time-limit", "29")
    assert len(ran) == 2
    assert "stopped before slow, seed 2: its 30 s" in printed


def test_a_run_that_is_not_finite_is_counted_but_not_averaged(monkeypatch, command):
    monkeypatch.setattr(
        race, "run", lambda plan, seed: {
            "train_seconds": 1.0, "compile_seconds": 0.0, "seconds": 1.0,
            **({"nonfinite_step": 3} if seed else dict.fromkeys(race.SCORES, 0.25)),
        },
    )  # fmt: skip
    row = command(SLOW, "--seeds", "0", "1").splitlines()[-2]
    assert row.split()[:5] == ["slow", "12", "1", "0.2500", "0.2500"]
    assert row.endswith("(1 not finite)")


def test_everything_is_checked_before_anything_runs(command, ran, tmp_path):
    with pytest.raises(ValueError, match="t_max|epochs|batch"):
        command(SLOW, "big: demo batch_size=100000")
    assert not ran
    assert not (tmp_path / "race.jsonl").exists()


def test_the_table_counts_the_runs_of_a_name_even_where_settings_are_alike(digits):
    plans = {
        contender: RunPlan(contender.recipe, digits)
        for contender in (read_contender(f"{name}: speedrun", {}) for name in "ab")
    }
    rows = [
        race.start_of(contender, plan, 0)
        | {"test_accuracy": score, "test_accuracy_views": score, "train_seconds": 1.0}
        for (contender, plan), score in zip(plans.items(), (0.25, 0.75), strict=True)
    ]
    _, *lines = race.table(plans, rows)
    assert [line.split()[2:4] for line in lines] == [["1", "0.2500"], ["1", "0.7500"]]
