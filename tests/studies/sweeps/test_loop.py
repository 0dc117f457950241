import dataclasses
import json
import shutil

import jax.numpy as jnp
import pytest

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.data import Splits
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.checkpoints import Checkpoints, CheckpointWarning
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.step.state import start_state
from jaxcifar.studies.sweeps import plot_sweep, read_sweep, sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.studies.sweeps.measured_mode import Choice
from jaxcifar.studies.sweeps.members import make_members
from jaxcifar.studies.sweeps.vmapped import make_groups
from jaxcifar.training.fit import fit
from tests.conftest import random_variables
from tests.training.test_fit import Stop, numbers

CLOCK = {"seconds", "validation_seconds", "images_per_second"}


def changed(recipe, **settings):
    return dataclasses.replace(recipe, **settings)


def assert_same_numbers(ours, theirs, tolerance):
    """Two histories have the same epochs and columns, and close values."""
    assert ours.column("step") == theirs.column("step")
    for one, other in zip(ours.rows, theirs.rows, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - CLOCK:
            expected = other[name]
            if expected is not None:
                expected = pytest.approx(expected, rel=tolerance)
            assert one[name] == expected, name


@pytest.fixture
def short(recipe):
    return changed(recipe, epochs=2)


@pytest.fixture
def head(recipe):
    """Trains only the head, on cached features: little to compile."""
    frozen = {"freeze": "freeze_b", "bn": "frozen", "cache_features": True}
    return changed(recipe, flip_rate=0.0, translate_pixels=0, **frozen)


@pytest.mark.slow
def test_both_modes_have_the_same_numbers(short, digits, tmp_path, monkeypatch, capsys):
    short = changed(short, validate_every=2, log_gradient_norm=True)
    monkeypatch.chdir(tmp_path)
    together = sweep(
        short, "seed", [3, 0], digits, workdir="vmap", mode="vmap", experiment="s", verbose=True
    )
    alone = sweep(short, "seed", [3, 0], digits, workdir="turns", mode="sequential")
    assert (together.mode, alone.mode) == ("vmap", "sequential")
    for one, other in zip(together.members, alone.members, strict=True):
        assert_same_numbers(one.history, other.history, 1e-4)
        for which in ("best", "last"):
            ours, theirs = one.summary[which]["test"], other.summary[which]["test"]
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert one.history.rows[0]["validation_loss"] is None
    first, second = (m.history.rows[-1]["train_loss"] for m in together.members)
    assert abs(first - second) > 1e-3

    # The files and the printed lines.
    files = SweepDirectory(tmp_path / "vmap")
    names = sorted(path.name for path in files.path.iterdir())
    assert names == ["figures", "seed=0", "seed=3", "sweep.json", "table.md"]
    assert files.figure.read_bytes().startswith(b"\x89PNG")
    assert "| mean of 2 |" in files.table.read_text()
    written = json.loads(files.description.read_text())
    assert (written["field"], written["values"], written["mode"]) == ("seed", [3, 0], "vmap")
    assert read_sweep(files.path) == short
    stdout = capsys.readouterr().out
    assert "2 members, as one program: as asked" in stdout
    assert "mean of 2" in stdout

    # A member is an ordinary run.
    run = together.members[0].path
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "figures",
        "metrics.jsonl",
        "summary.json",
    ]
    assert "resumed" not in RunDirectory(run).read_config()
    scored = evaluate_run(run, which="last")
    assert scored["loss"] == together.members[0].summary["last"]["test"]["loss"]


@pytest.mark.slow
def test_a_sweep_killed_between_the_checkpoints_of_two_members_continues(head, digits, tmp_path):
    head = changed(head, cache_features=False)  # members with different seeds cannot share them
    seeds = [0, 2, 3]
    settings = {"workdir": tmp_path / "s", "mode": "vmap"}
    saves, save = [], Checkpoints.save

    def killed(checkpoints, state, **metrics):
        saves.append(int(state.step))
        if len(saves) == 6:
            raise Stop
        save(checkpoints, state, **metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(Stop):
            sweep(head, "seed", seeds, digits, **settings)
    assert saves == [3, 3, 3, 6, 6, 6]
    resumed = sweep(head, "seed", seeds, digits, resume=True, **settings)
    for seed, member in zip(seeds, resumed.members, strict=True):
        _, history = fit(changed(head, seed=seed), digits)
        assert_same_numbers(member.history, history, 1e-4)
        assert member.summary["epochs"] == 3
    configs = [RunDirectory(member.path).read_config() for member in resumed.members]
    assert [config["resumed"] for config in configs] == [
        [{"step": 6}],
        [{"step": 6}],
        [{"step": 3}],
    ]

    # Finished members are not touched; a new one is trained.
    before = [m.path.joinpath("summary.json").read_bytes() for m in resumed.members]
    more = sweep(head, "seed", [1, *seeds], digits, resume=True, **settings)
    assert [m.path.joinpath("summary.json").read_bytes() for m in more.members[1:]] == before
    assert more.members[0].summary is not None
    assert "| 1 |" in (tmp_path / "s" / "table.md").read_text()

    # A member can be continued like any run.
    longer, member = changed(head, seed=seeds[0], epochs=4), resumed.members[0]
    _, continued = fit(longer, digits, workdir=member.path, resume=True)
    _, whole = fit(longer, digits)
    assert_same_numbers(continued, whole, 1e-4)
    assert numbers(continued)[:3] == numbers(member.history)


@pytest.mark.slow
def test_auto_measures_both_modes_and_reports_its_choice(head, digits, tmp_path):
    one = changed(head, epochs=1)
    result = sweep(one, "learning_rate", [0.001, 0.1], digits, workdir=tmp_path / "s")
    written = SweepDirectory(tmp_path / "s").read()
    measured = written["measured"]
    assert measured["vmap_bytes"] > measured["sequential_bytes"] > 0
    faster = min(("vmap", "sequential"), key=lambda form: measured[f"{form}_seconds"])
    assert result.mode == written["mode"] == faster
    assert f"ratio {measured['ratio']:.2f}" in result.why
    assert all(member.summary for member in result.members)


def test_a_member_that_is_not_finite_stops_and_the_others_continue(
    head, digits, tmp_path, monkeypatch
):
    sgd = changed(head, optimizer="sgd", epochs=2)
    rates = [3e38, 0.003]
    settings = {"workdir": tmp_path / "s", "mode": "vmap"}
    wild, tame = sweep(sgd, "learning_rate", rates, digits, **settings).members
    assert "not finite after step 3 (epoch 1" in wild.failure
    assert (wild.summary, wild.history.rows) == (None, [])
    assert tame.history.column("epoch") == [1, 2]
    assert tame.summary is not None
    assert "| 3e+38 | - |" in (tmp_path / "s" / "table.md").read_text()

    def never(*_, **__):
        raise AssertionError("it trained again")

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", never)
    again = sweep(sgd, "learning_rate", rates, digits, resume=True, **settings)
    assert again.members[0].failure == wild.failure

    trained = []

    def fit_stops(recipe, *_, **__):
        trained.append(recipe.learning_rate)
        if recipe.learning_rate == 3e38:
            raise FloatingPointError("not finite")

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", fit_stops)
    settings = {"workdir": tmp_path / "turns", "mode": "sequential"}
    result = sweep(sgd, "learning_rate", rates, digits, **settings)
    assert trained == rates
    assert [member.failure for member in result.members] == ["not finite", None]
    assert SweepDirectory(tmp_path / "turns").read()["failures"] == {
        "learning_rate=3e+38": "not finite"
    }


def test_a_field_that_chooses_the_images_needs_a_function(short, digits, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="split_seed chooses the images: pass a function"):
        sweep(short, "split_seed", [0, 1], digits, workdir=tmp_path / "s")
    assert not (tmp_path / "s").exists()
    splits_of = {}

    def quick_fit(recipe, splits, **settings):
        splits_of[recipe.split_seed] = splits

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    result = sweep(short, "split_seed", [0, 1], load_splits, workdir=tmp_path / "s")
    assert result.mode == "sequential"
    assert {seed: splits.seed for seed, splits in splits_of.items()} == {0: 0, 1: 1}
    assert all(isinstance(splits, Splits) for splits in splits_of.values())


@pytest.mark.parametrize("mode", ["sequential", "vmap"])
def test_weights_that_saw_the_validation_images_are_known_by_the_contents(
    photo_run, photos, tmp_path, mode
):
    copy = shutil.copytree(photos, tmp_path / "copy")
    recipe = dataclasses.replace(
        read_recipe(RunDirectory(photo_run)),
        dataset=f"folder:{copy}",
        weights=str(photo_run),
        split_seed=1,
    )
    with pytest.raises(RecipeError, match="another split of"):
        sweep(recipe, "seed", [0, 1], load_splits(recipe), workdir=tmp_path / "s", mode=mode)
    assert not (tmp_path / "s").exists()


def test_each_member_sees_pictures_at_its_own_side(photo_run, tmp_path, monkeypatch):
    recipe = read_recipe(RunDirectory(photo_run))
    sides = {}

    def quick_fit(recipe, splits, **settings):
        sides[recipe.resize] = splits.train.side, splits.test.side

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    with pytest.raises(RecipeError, match="resize chooses the images: pass a function"):
        sweep(recipe, "resize", [8, 12], load_splits(recipe), workdir=tmp_path / "s")
    sweep(recipe, "resize", [8, 12, 16], load_splits, workdir=tmp_path / "s")
    assert sides == {8: (8, 8), 12: (12, 12), 16: (16, 16)}


@pytest.mark.parametrize(
    ("field", "values", "mode", "message"),
    [
        ("drop_rate", [0.1], "auto", "unknown field 'drop_rate'; did you mean 'dropout_rate'?"),
        ("freeze", [1], "auto", "freeze is not numeric"),
        ("momentum", [0.5, 0.9], "auto", "momentum is for --optimizer sgd, muon: without that all"),
        ("dropout_rate", [1.0], "auto", "dropout_rate must be at least 0 and under 1, not 1.0"),
        ("dropout_rate", [0.1, 0.1], "auto", "0.1 is given twice"),
        ("dropout_rate", [], "auto", "needs at least one value"),
        ("batch_size", [20, 40], "vmap", "mode vmap: batch_size changes the data, a shape or"),
        ("dropout_rate", [0.1], "vmap", "mode vmap: it has one member"),
        ("dropout_rate", [0.1, 0.2], "pmap", "unknown mode 'pmap'; did you mean 'vmap'?"),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(
    short, digits, tmp_path, field, values, mode, message
):
    with pytest.raises(RecipeError) as raised:
        sweep(short, field, values, digits, workdir=tmp_path / "s", mode=mode)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "s").exists()


def quick_fit(recipe, splits, *, workdir, **settings):
    """Write the files of a complete run without training."""
    scored = {"validation_accuracy": 0.5, "test": {"accuracy": 0.5}}
    run = RunDirectory(workdir)
    run.create({"recipe": recipe.to_dict(), "data_fingerprint": splits.fingerprint})
    run.write_summary(
        {"train_accuracy": 0.5, "train_seconds": recipe.learning_rate}
        | {"best": scored, "last": scored}
    )


def test_overwriting_a_finished_sweep_trains_it_again(short, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    settings = {"workdir": tmp_path / "s", "mode": "sequential"}
    sweep(short, "dropout_rate", [0.1, 0.2], digits, **settings)
    again = changed(short, learning_rate=0.5)
    result = sweep(again, "dropout_rate", [0.1, 0.2], digits, overwrite=True, **settings)
    assert [m.summary and m.summary["train_seconds"] for m in result.members] == [0.5, 0.5]


def test_the_title_names_the_epochs_if_all_members_have_the_same(
    short, digits, tmp_path, monkeypatch
):
    titles = []

    def plotted(*arguments, title):
        titles.append(title)
        return plot_sweep(*arguments, title=title)

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.plot_sweep", plotted)
    for field in ("epochs", "width", "patience"):
        sweep(short, field, [4, 8], digits, workdir=tmp_path / field)
    patient = dataclasses.replace(short, patience=1)
    sweep(patient, "width", [4, 8], digits, workdir=tmp_path / "patient")
    assert titles == [
        "digits: accuracy against epochs",
        "digits: accuracy after 2 epochs against width",
        "digits: accuracy against patience",
        "digits: accuracy against width",
    ]


def test_members_at_the_same_step_continue_together(short, tmp_path, monkeypatch):
    members = make_members(short, "seed", range(8))
    steps = dict(zip([m.name for m in members], [3, 0, 6, 3, 0, 5, 6, 3], strict=True))
    monkeypatch.setattr(
        "jaxcifar.studies.sweeps.vmapped._last_step", lambda run: steps[run.path.name]
    )
    groups = make_groups(members, SweepDirectory(tmp_path))  # six steps are the whole run
    assert [[m.value for m in group] for group in groups] == [[0, 3, 7], [1, 4]]


def test_the_step_of_a_member_is_that_of_its_last_good_checkpoint(short, tmp_path):
    members, files = make_members(short, "seed", range(3)), SweepDirectory(tmp_path)
    state = start_state(random_variables(short.make_model()), short.make_optimizer(), seed=0)
    for member in members:
        with Checkpoints(files.run(member.name).checkpoints) as checkpoints:
            for step in (2, 3):
                checkpoints.save(
                    state.replace(step=jnp.asarray(step, jnp.int32)), validation_accuracy=0.5
                )
    damaged = files.run(members[0].name)
    (damaged.checkpoints / "3" / "model" / "manifest.ocdbt").unlink()
    with pytest.warns(CheckpointWarning, match="checkpoint 3 .*manifest.ocdbt is missing"):
        groups = make_groups(members, files)
    # The first one continues by itself from step 2.
    assert [[m.value for m in group] for group in groups] == [[1, 2]]


@pytest.fixture
def started(short, tmp_path):
    """A sweep over two dropout rates for which only the description was written."""
    files = SweepDirectory(tmp_path / "s")
    choice = Choice("sequential", "as asked", None)
    files.write(
        {"experiment": "digits", "field": "dropout_rate", "values": [0.1, 0.2], "failures": {}}
        | {"recipe": short.to_dict(), **choice._asdict()}
    )
    return files


@pytest.mark.parametrize(
    ("settings", "field", "values", "message"),
    [
        ({"learning_rate": 0.5}, "dropout_rate", [0.1, 0.2], r"learning_rate: 0\.5, not 0\.003"),
        ({}, "dropout_rate", [0.1], r"has dropout_rate 0\.2, too: name all of its values"),
        ({}, "seed", [0, 1], "is a sweep over dropout_rate, not over seed"),
    ],
)
def test_another_sweep_is_not_resumed(short, digits, started, settings, field, values, message):
    before = started.description.read_bytes()
    with pytest.raises(RunError, match=message):
        sweep(changed(short, **settings), field, values, digits, workdir=started.path, resume=True)
    assert started.description.read_bytes() == before
    assert sorted(path.name for path in started.path.iterdir()) == ["sweep.json"]


def test_the_recipes_own_value_of_the_swept_field_is_ignored(short, digits, started, monkeypatch):
    trained = []
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", lambda r, *_, **__: trained.append(r))
    settings = {"workdir": started.path, "resume": True, "mode": "sequential"}
    sweep(changed(short, dropout_rate=0.9), "dropout_rate", [0.1, 0.2], digits, **settings)
    assert [recipe.dropout_rate for recipe in trained] == [0.1, 0.2]
    with pytest.raises(RunError, match="is a sweep of 'digits', not of 'other'"):
        sweep(short, "dropout_rate", [0.1, 0.2], digits, experiment="other", **settings)


@pytest.mark.parametrize("measured", [None, {"ratio": 0.5}])
@pytest.mark.parametrize("form", ["vmap", "sequential"])
def test_a_resumed_sweep_keeps_its_mode_and_reason(
    short, digits, started, monkeypatch, form, measured
):
    def trained_together(field, members, splits, runs, **_):
        together.extend(member.value for member in members)
        return {}

    together = []
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.train_together", trained_together)
    settings = {"workdir": started.path, "resume": True}
    stored = {"mode": form, "why": "at first", "measured": measured}
    started.write(started.read() | stored)
    for values in ([0.1, 0.2], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]):  # two, one and none to train
        result = sweep(short, "dropout_rate", values, digits, **settings)
        assert (result.mode, result.why) == (form, "at first")
        assert started.read().items() >= stored.items()
    assert together == ([0.1, 0.2] if form == "vmap" else [])


def test_a_mode_that_is_no_longer_possible_or_was_not_chosen_is_chosen_again(
    short, digits, started, monkeypatch
):
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    chosen = Choice("sequential", "measured now", None)
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.choose", lambda *_: chosen)
    sgd = changed(short, optimizer="sgd")
    settings = {"workdir": started.path, "resume": True}
    values = {"field": "momentum", "values": [0.5, 0.9], "recipe": sgd.to_dict()}
    started.write(started.read() | values | {"mode": "vmap", "why": "as asked"})
    result = sweep(sgd, "momentum", [0.5, 0.9, 0.0], digits, **settings)
    assert result.mode == "sequential"
    assert "optimizers with different state" in result.why
    started.write(started.read() | {"values": [0.1], "why": "it has one member"})
    assert sweep(sgd, "momentum", [0.1, 0.2, 0.3], digits, **settings).why == "measured now"


def test_only_overwrite_replaces_a_sweep_and_it_keeps_other_files(
    short, digits, started, monkeypatch
):
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", lambda *_, **__: None)
    member = RunDirectory(started.path / "dropout_rate=0.1")
    member.create({"recipe": short.to_dict()})
    (started.path / "notes.txt").write_text("mine")
    settings = {"workdir": started.path, "mode": "sequential"}
    with pytest.raises(RunError, match="holds a sweep: continue it with resume=True"):
        sweep(short, "dropout_rate", [0.1, 0.2], digits, **settings)
    with pytest.raises(RunError, match="exclude each other"):
        sweep(short, "seed", [0, 1], digits, resume=True, overwrite=True, **settings)
    assert member.holds_run()
    sweep(short, "seed", [0, 1], digits, overwrite=True, **settings)
    assert not member.path.exists()
    assert (started.path / "notes.txt").read_text() == "mine"
    assert started.read()["values"] == [0, 1]


def test_a_directory_with_other_files_is_refused(short, digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty and holds no sweep"):
        sweep(short, "seed", [0, 1], digits, workdir=tmp_path, overwrite=True)
    with pytest.raises(RunError, match="holds no sweep"):
        sweep(short, "seed", [0, 1], digits, workdir=tmp_path, resume=True)
    with pytest.raises(RunError, match="there is no directory"):
        sweep(short, "seed", [0, 1], digits, workdir=tmp_path / "none", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_weights_inside_the_directory_are_not_overwritten(short, digits, started):
    origin = started.path / "dropout_rate=0.1"
    origin.mkdir()
    with pytest.raises(RunError, match="choose another --workdir"):
        sweep(
            changed(short, weights=str(origin)),
            "dropout_rate",
            [0.1, 0.2],
            digits,
            workdir=started.path,
            overwrite=True,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"field": "../x"}, "its field is no number of a recipe", marks=pytest.mark.slow
        ),
        pytest.param(
            {"field": "stem"}, "its field is no number of a recipe", marks=pytest.mark.slow
        ),
        pytest.param(
            {"values": ["/../../victim"]},
            r"values\[0\] is '/../../victim', not a finite number",
            marks=pytest.mark.slow,
        ),
        pytest.param({"values": [True]}, "not a finite number", marks=pytest.mark.slow),
        ({"failures": []}, r"failures is \[\], not an object"),
        ({"mode": None}, "mode is None"),
        ({"recipe": 1}, "recipe is 1, not an object"),
    ],
)
def test_a_manipulated_description_is_refused(short, digits, started, change, message):
    victim = RunDirectory(started.path.parent / "victim")
    victim.create({"recipe": {}})
    (started.path / "dropout_rate=").mkdir()
    started.write(started.read() | change)
    for flag in ("resume", "overwrite"):
        with pytest.raises(RunError, match=message):
            sweep(short, "dropout_rate", [0.1, 0.2], digits, workdir=started.path, **{flag: True})
    assert victim.holds_run()
