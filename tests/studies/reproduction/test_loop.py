import json
import shutil
import subprocess

import numpy as np
import pytest

from jaxcifar.common.errors import RecipeError, RunError, WeightsError
from jaxcifar.common.messages import escaped
from jaxcifar.models.weights import write_safetensors
from jaxcifar.recipes.presets import EXPERIMENTS, Experiment
from jaxcifar.runs.transfer import export_run, weights_sha256
from jaxcifar.studies.reproduction import Item, Settings, describe_plan, loop, reproduce
from jaxcifar.training.fit import fit
from tests.studies.reproduction.test_page import read

AGAIN = Item("again", "From the same weights.", "lean")


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that `fit` was called for, and how many epochs each trained."""
    calls = []

    def counting(recipe, splits, *, workdir, **more):
        epochs = []
        calls.append((workdir.name, epochs))
        return fit(recipe, splits, workdir=workdir, on_epoch=epochs.append, **more)

    monkeypatch.setattr(loop, "fit", counting)
    return calls


def page_text(out):
    return "".join(read((out / "index.html").read_text()).text)


def state(out, plan, name):
    line = next(ln for ln in describe_plan(out, plan).splitlines() if ln.startswith(name + " "))
    return line[20:].split("  ")[0].strip()


def test_a_plan_runs_notes_failures_and_skips_what_is_complete(plan, tmp_path, trained, capsys):
    out, smoke = tmp_path / "report", Settings(scale="smoke")
    with pytest.raises(RunError, match=r"^1 of 6 items did not run: lean \(nobody/nothing"):
        reproduce(out, smoke, plan=plan)
    assert "lean did not run: nobody/nothing" in capsys.readouterr().out
    # The sweep trained the member that serves as `two`.
    assert [name for name, _ in trained] == ["one", "lean"]
    assert state(out, plan, "one") == "complete"
    assert state(out, plan, "rates") == "1 of 1 complete"
    assert state(out, plan, "two") == "complete"
    assert state(out, plan, "confusion") == "2 of 2 drawn"
    text = page_text(out)
    assert "Smoke run: real data" in text
    assert text.count("epochs 1, not 2") == 1, "it is said once for all"
    assert "All runs: epochs 1, not 2." in text
    assert "2 of 3 runs are complete" in text
    assert "lean: not run: nobody/nothing" in text
    assert "Differences from one" not in text
    assert "rates/dropout_rate=0.3" in text.split("What ran where")[1]
    assert str(tmp_path) not in (out / "index.html").read_text()
    assert len(list((out / "pictures").glob("*.png"))) == 5  # 2 curves, 2 matrices, comparison
    assert not list((out / "pictures").glob(".*"))
    for link in ("curves_one.png", "comparison.png", "confusion_rates_dropout_rate=0.3.png"):
        assert f"](<pictures/{link}>)" in (out / "report.md").read_text()

    before = (out / "pictures" / "confusion_one.png").stat().st_mtime_ns
    trained.clear()
    with pytest.raises(RunError, match="^1 of 6"):
        reproduce(out, smoke, plan=plan, verbose=False)
    assert trained == [("lean", [])]
    assert (out / "pictures" / "confusion_one.png").stat().st_mtime_ns == before
    reproduce(out, smoke, plan=plan, skip=["lean"], verbose=False)
    reproduce(out, Settings(scale="smoke", seeds=2), plan=plan, only=["one"], verbose=False)
    assert [(name, len(epochs)) for name, epochs in trained[1:]] == [("one-seed1", 1)]
    text = page_text(out)
    assert "n = 2" in text
    assert state(out, plan, "two") == "complete", "it was requested with one seed"
    assert "--scale smoke --skip one" in text
    assert "--scale smoke --seeds 2 --only one" in text


def test_the_page_says_of_each_seed_why_it_did_not_run(plan, tmp_path, monkeypatch):
    def failing(recipe, splits, **settings):
        if recipe.seed in bad:
            raise FloatingPointError("not finite")
        return fit(recipe, splits, **settings)

    monkeypatch.setattr(loop, "fit", failing)
    out, settings, bad = tmp_path / "report", Settings(scale="smoke", seeds=2), set()
    for seed, name in enumerate(("one", "one-seed1")):
        bad = {seed}
        shutil.rmtree(out / "runs" / name, ignore_errors=True)
        with pytest.raises(RunError, match="1 of 1 items did not run"):
            reproduce(out, settings, plan=plan, only=["one"], verbose=False)
        assert f"complete for 1 of 2 seeds: {name}: not finite" in page_text(out)
    bad = set()
    reproduce(out, settings, plan=plan, only=["one"], verbose=False)
    assert "not finite" not in page_text(out)


def test_an_interrupted_call_leaves_a_page_and_the_same_call_continues(
    plan, tmp_path, trained, monkeypatch
):
    out = tmp_path / "report"

    def interrupted(recipe, splits, **more):
        def stop(row):
            raise KeyboardInterrupt

        fit(recipe, splits, on_epoch=stop, **more)

    monkeypatch.setattr(loop, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(out, plan=plan, only=["one", "compare"], verbose=False)
    assert state(out, plan, "one") == "stopped after epoch 1 of 2"
    text = page_text(out)
    assert "stopped after epoch 1 of 2" in text
    assert "Loss and accuracy of one over the epochs" in (out / "report.md").read_text()

    def counting(recipe, splits, **more):
        rows = []
        fit(recipe, splits, on_epoch=rows.append, **more)
        trained.append([row["epoch"] for row in rows])

    monkeypatch.setattr(loop, "fit", counting)
    reproduce(out, plan=plan, only=["one", "compare"], verbose=False)
    assert trained == [[2]]
    assert state(out, plan, "one") == "complete"


def test_a_sweep_out_of_memory_names_a_way_out_of_reproduce(plan, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError("9 bytes")

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", exhausted)
    message = r"rates \(.*dropout_rate=0.3 \(9 bytes\); the rest is written.*--skip rates\)$"
    with pytest.raises(RunError, match=message) as raised:
        reproduce(
            tmp_path / "out", Settings(scale="smoke"), plan=plan, only=["rates"], verbose=False
        )
    for option in ("--resume", "--workdir", "--eval-batch-size"):
        assert option not in str(raised.value)


def test_a_run_out_of_memory_does_not_end_the_call(plan, tmp_path, monkeypatch):
    out, called, error = tmp_path / "report", [], MemoryError("9 bytes")

    def exhausted(recipe, splits, *, workdir, **_):
        called.append(workdir.name)
        raise error

    monkeypatch.setattr(loop, "fit", exhausted)
    settings = Settings(scale="smoke", seeds=2)
    message = r"one \(out of memory \(9 bytes\); .*--skip one\); one-seed1 \(out of memory"
    with pytest.raises(RunError, match=message):
        reproduce(out, settings, plan=plan, only=["one"], verbose=False)
    assert called == ["one", "one-seed1"]
    assert "out of memory (9 bytes)" in page_text(out)
    error = ValueError("9 bytes")
    with pytest.raises(ValueError, match="^9 bytes$"):
        reproduce(out, settings, plan=plan, only=["one"], verbose=False)


def test_a_report_without_a_run_has_the_reports_figures_only(plan, tmp_path):
    out = tmp_path / "report"
    with pytest.raises(RunError, match=r"confusion \(no run is complete"):
        reproduce(out, plan=plan, only=["confusion"], verbose=False)
    text = page_text(out)
    assert "0 of 3 runs are complete" in text
    assert "Nothing has run yet" in text
    assert "0.900 / 0.800 / 0.700" in text


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({"thesis.tex": "years of work"}, {}, "is not empty and holds no report"),
        ({"plan.json": '{"steps": []}'}, {}, "belongs to another program"),
        ({"plan.json": "{"}, {}, "cannot be read as JSON"),
        ({"plan.json": '{"made_by": "jaxcifar reproduce", "x": 1}'}, {}, "is damaged"),
        ({"plan.json": '{"made_by": "jaxcifar reproduce"}'}, {"seed": 1}, "continue with --seed 0"),
        (
            {"plan.json": '{"made_by": "jaxcifar reproduce"}'},
            {"scale": "smoke"},
            "--scale full, not smoke: continue with --scale full, or choose another --out",
        ),
    ],
)
def test_a_foreign_directory_is_refused_and_left_unchanged(
    plan, tmp_path, trained, files, settings, message
):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=message):
        reproduce(tmp_path, Settings(**settings), plan=plan, verbose=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files
    assert not trained


def test_a_run_with_another_recipe_is_refused_before_anything_runs(plan, tmp_path, trained):
    path = tmp_path / "runs" / "two"
    path.mkdir(parents=True)
    recipe = loop.recipe_of(plan[3], Settings(epochs=7), seed=0)
    (path / "config.json").write_text(json.dumps({"recipe": recipe.to_dict()}))
    (path / "metrics.jsonl").write_text('{"epoch": 1, "step": 3}')
    (tmp_path / "plan.json").write_text('{"made_by": "jaxcifar reproduce"}')
    with pytest.raises(RunError, match=r"two was started with another recipe \(epochs: 2, not 7\)"):
        reproduce(tmp_path, plan=plan, verbose=False)
    assert not trained
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (3, {"data_fingerprint": "0" * 64}, "two was trained on other data than the digits found"),
        (
            1,
            {"weights": {"sha256": "0" * 64, "source": "w"}},
            "w.safetensors holds other weights .*lean was",
        ),
    ],
)
def test_runs_on_other_data_or_weights_are_refused_before_anything_runs(
    plan, digits, tmp_path, trained, index, changes, message
):
    file, out = tmp_path / "w.safetensors", tmp_path / "report"
    write_safetensors(file, {"fc.weight": np.zeros((1, 1), np.float32)})
    settings = Settings(weights=str(file))
    path = out / "runs" / plan[index].name
    path.mkdir(parents=True)
    recipe = loop.recipe_of(plan[index], settings, seed=0)
    config = {"recipe": recipe.to_dict(), "data_fingerprint": digits.fingerprint} | changes
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text('{"epoch": 1, "step": 3}')
    (out / "plan.json").write_text('{"made_by": "jaxcifar reproduce"}')
    with pytest.raises(RunError, match=message):
        reproduce(out, settings, plan=(*plan, AGAIN), verbose=False)
    assert not trained
    assert not (out / "index.html").exists()


@pytest.mark.parametrize("of", ["a run", "the preset"])
def test_the_weights_of_a_run_and_of_a_preset_are_compared_too(
    plan, digits, tmp_path, trained, photo_run, monkeypatch, of
):
    file, out = tmp_path / "w.safetensors", tmp_path / "report"
    export_run(photo_run, file)
    settings = Settings(weights=str(photo_run)) if of == "a run" else Settings()
    changed = Experiment(EXPERIMENTS["lean"].settings | {"weights": str(file)}, "from a file")
    monkeypatch.setitem(EXPERIMENTS, "lean", changed)
    recipe = loop.recipe_of(plan[1], settings, seed=0)
    path = out / "runs" / "lean"
    path.mkdir(parents=True)
    config = {"recipe": recipe.to_dict(), "data_fingerprint": digits.fingerprint}
    config |= {"weights": {"sha256": "0" * 64, "source": "w"}, "experiment": "lean"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text('{"epoch": 1, "step": 3}')
    (out / "plan.json").write_text('{"made_by": "jaxcifar reproduce"}')
    both = {"plan": (*plan, AGAIN), "only": ["lean", "again"], "verbose": False}
    with pytest.raises(RunError, match="holds other weights now than .*lean was started from"):
        reproduce(out, settings, **both)
    assert not trained
    config["weights"]["sha256"] = weights_sha256(recipe.weights)
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="items did not run"):  # it has no checkpoint
        reproduce(out, settings, **both)
    assert trained[0][0] == "lean"
    if of == "the preset":  # whether a run that was begun needs them is for `fit` to say
        trained.clear()
        file.unlink()
        with pytest.raises(RunError, match="items did not run"):
            reproduce(out, settings, **both)
        assert [name for name, _ in trained] == ["lean"]


@pytest.mark.parametrize(
    ("settings", "only", "error", "message"),
    [
        ({}, ["tow"], RecipeError, "did you mean 'two'"),
        ({"epochs": 0}, ["one"], RecipeError, "epochs must be at least 1"),
        ({"weights": "none.pth"}, ["one"], WeightsError, "none.pth"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(
    plan, tmp_path, settings, only, error, message
):
    with pytest.raises(error, match=message):
        reproduce(tmp_path / "new", Settings(**settings), only=only, plan=plan, verbose=False)
    assert not (tmp_path / "new").exists()


def test_unavailable_weights_are_requested_once(plan, tmp_path, trained):
    doubled = (*plan[:2], AGAIN)
    with pytest.raises(RunError, match=r"^2 of 2 items did not run"):
        reproduce(tmp_path / "out", plan=doubled, only=["lean", "again"], verbose=False)
    assert [name for name, _ in trained] == ["lean"]
    assert page_text(tmp_path / "out").count("not run: nobody/nothing") == 4


@pytest.mark.slow
def test_the_pages_command_is_not_refused(plan, tmp_path, trained, monkeypatch):
    out = tmp_path / "mine"
    reproduce(out, Settings(epochs=1), plan=plan, only=["one"], verbose=False)
    command = "jaxcifar reproduce --scale full --out mine --epochs 1 --only one"
    assert command in page_text(out)
    with pytest.raises(RunError, match="started with another recipe"):  # as without --epochs
        reproduce(out, plan=plan, only=["one"], verbose=False)
    assert command in page_text(out)


def test_weights_that_do_not_fit_are_named_without_their_folder(plan, tmp_path):
    folder = tmp_path / "someone" / "weights"
    folder.mkdir(parents=True)
    kernel = np.zeros((2, 3, 3, 3), np.float32)
    write_safetensors(folder / "w.safetensors", {"conv1.weight": kernel})
    settings, out = Settings(weights=str(folder / "w.safetensors")), tmp_path / "report"
    with pytest.raises(RunError, match="1 of 1 items did not run"):
        reproduce(out, settings, plan=plan, only=["lean"], verbose=False)
    assert "not run: w.safetensors" in page_text(out)
    assert "--weights w.safetensors --only lean" in page_text(out)
    for file in ("index.html", "report.md", "plan.json"):
        assert "someone" not in (out / file).read_text()


@pytest.mark.parametrize("name", ["someone\u3000\n\u202eerror: forged", "someone\r\u2028\u2066"])
def test_names_forge_no_line_of_the_report(name, plan, tmp_path, capsys):
    folder, out = tmp_path / name / "weights", tmp_path / f"report {name[7:]}"
    folder.mkdir(parents=True)
    kernel = np.zeros((2, 3, 3, 3), np.float32)
    write_safetensors(folder / f"w{name[7:]}.pth", {"conv1.weight": kernel, f"| {name}": kernel})
    settings = Settings(weights=str(folder / f"w{name[7:]}.pth"))
    doubled = (*plan[:2], plan[1].__class__("lean2", "Again.", "lean"))
    for _ in range(2):  # what was noted can be read again
        with pytest.raises(RunError, match="2 of 2 items did not run") as caught:
            reproduce(out, settings, plan=doubled, only=["lean", "lean2"])
        assert str(caught.value).isprintable()
    printed, page, markdown = (
        capsys.readouterr().out,
        (out / "index.html").read_text(),
        (out / "report.md").read_text(),
    )
    for text in (printed, page, markdown):
        assert all(line.isprintable() for line in text.split("\n"))
        assert not any(line.startswith("error") for line in text.split("\n"))
    assert "someone" not in page.replace(f", | {escaped(name)})", "")
    assert page_text(out).count("not run: w") >= 2
    (command,) = (line for line in markdown.split("\n") if line.startswith("jaxcifar "))
    words = words_of(command)
    assert words[words.index("--weights") + 1] == f"w{name[7:]}.pth"


def words_of(command):
    """What a shell makes of a command."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True
    )
    return done.stdout.decode().split("\0")
