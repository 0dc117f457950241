"""The scripts as a user runs them, in their own processes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest

from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from tests.conftest import QUICK_COMPILING, assert_trees_identical

# Runs a script with an additional, small architecture.
RUN_TINY = (
    "import runpy, sys; from jaxcifar.models.resnet import ARCHITECTURES; "
    "ARCHITECTURES['tiny'] = {'stage_sizes': (1,)}; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
TINY = shlex.split(
    "demo --architecture tiny --width 4 --train-size 512 --validation-size 40 "
    "--batch-size 8 --dropout-rate 0.2 --flip-rate 0.5 --t-max 20 --eval-batch-size 64"
)


@pytest.fixture
def run_script(root, tmp_path):
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(QUICK_COMPILING, "").strip(),
    }

    def run(script, *arguments, check=True, wait=True):
        command = [sys.executable, "-c", RUN_TINY, str(root / "scripts" / script), *arguments]
        settings = {"cwd": tmp_path, "env": env, "text": True}
        if not wait:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, **settings)
        return subprocess.run(command, check=check, capture_output=True, **settings)

    return run


def test_train_evaluate_visualize(run_script, run_here, tiny, tmp_path):
    trained = run_script("train.py", *TINY, "--epochs", "2", "--workdir", "out/run")
    assert "epoch   2/2" in trained.stdout
    summary = json.loads((tmp_path / "out/run/summary.json").read_text())

    stream = ("--input", "stream", "--workdir", "out/streamed")
    streamed = run_script("train.py", *TINY, "--epochs", "2", *stream)
    assert "images read from the host" in streamed.stdout
    assert_bit_identical(tmp_path / "out/run", tmp_path / "out/streamed")

    scored = run_script("evaluate.py", "out/run")
    line = json.loads(scored.stdout.splitlines()[-1])
    assert list(line) == ["split", "examples", "accuracy", "loss", "top5_accuracy"]
    test = summary["best"]["test"]
    scores = {k: test[k] for k in ("examples", "accuracy", "loss")}
    assert line == {"split": "test"} | scores | {"top5_accuracy": line["top5_accuracy"]}
    assert line["accuracy"] < line["top5_accuracy"] < 1

    mirrored = json.loads(run_here("evaluate.py", "out/run", "--mirror")[1].splitlines()[-1])
    assert mirrored.pop("views") == {"mirror": True, "shift": 0}
    assert list(mirrored) == list(line)
    assert mirrored["loss"] != line["loss"]

    drawn = run_script("visualize.py", "out/run", "--image", "3", "--layers", "conv1")
    assert drawn.stdout == "wrote out/run/figures/activations_3_layers=conv1.png\n"
    assert (tmp_path / "out/run/figures/activations_3_layers=conv1.png").exists()

    exported = run_script("export.py", "out/run", "out/run.safetensors")
    assert exported.stdout == "wrote out/run.safetensors\n"
    status, _, stderr = run_here("export.py", "out/run", "out/run.safetensors")
    assert status == 2
    assert stderr.startswith("error: ")
    assert "--overwrite" in stderr

    status, _, stderr = run_here("train.py", *TINY, "--epochs", "2", "--workdir", "out/run")
    assert status == 2
    assert stderr == (
        "error: out/run holds a run: continue it with resume=True (--resume), replace it with "
        "overwrite=True (--overwrite), or choose another --workdir\n"
    )


@pytest.mark.slow  # tests/studies/sweeps does the same in this process
def test_sweep(run_script, run_here, tiny, tmp_path):
    settings = (*TINY, "--epochs", "1", "--field", "seed", "--workdir", "out/sweep")
    done = run_script("sweep.py", *settings, "--values", "0", "1", "--mode", "sequential")
    assert "2 members, one after another: as asked" in done.stdout
    assert "standard deviation of 2" in done.stdout
    assert "| mean of 2 |" in (tmp_path / "out/sweep/table.md").read_text()
    summary = json.loads((tmp_path / "out/sweep/seed=1/summary.json").read_text())
    assert summary["epochs"] == 1

    status, _, stderr = run_here("sweep.py", *settings, "--values", "0", "0")
    assert status == 2
    assert stderr == "error: seed 0 is given twice: each member needs its own value\n"


@pytest.mark.slow  # a minute; tests/training/test_fit.py interrupts runs in its own process
def test_a_run_killed_in_mid_epoch_and_resumed_is_bit_identical_to_an_undisturbed_one(
    run_script, tiny, tmp_path
):
    epochs = ("--epochs", "8")
    run_script("train.py", *TINY, *epochs, "--workdir", "whole")
    process = run_script("train.py", *TINY, *epochs, "--workdir", "killed", wait=False)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    second_epoch = tmp_path / "killed" / "checkpoints" / str(2 * 64)
    deadline = time.monotonic() + 120
    while not second_epoch.is_dir():  # it is complete when it appears, by a rename
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert metrics.read_text().count("\n") == 2, "the kill came after the third epoch"

    run_script("train.py", "demo", "--workdir", "killed", "--resume")
    assert_bit_identical(tmp_path / "whole", tmp_path / "killed")
    assert metrics.read_text().count("\n") == 8


@pytest.mark.slow  # a minute; tests/training/test_resume.py begins and continues in one process
def test_one_command_serves_a_queue_that_kills(run_script, tiny, tmp_path):
    """Killed when there is only a config.json, and in mid-epoch; then complete."""
    command = ("train.py", *TINY, "--epochs", "8", "--workdir", "killed", "--resume", "auto")
    run_script(*[w for w in command if w not in ("--resume", "auto")][:-1], "whole")
    config = tmp_path / "killed" / "config.json"
    second_epoch = tmp_path / "killed" / "checkpoints" / str(2 * 64)
    for there in (config, second_epoch):
        process = run_script(*command, wait=False)
        deadline = time.monotonic() + 120
        while not there.exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "summary.json").exists()
    for said in ("resuming killed", "killed is complete: 8 epochs"):
        assert said in run_script(*command).stdout  # with status 0
    assert_bit_identical(tmp_path / "whole", tmp_path / "killed")
    wrong = run_script(*command, "--lr", "0.5", check=False)
    assert wrong.returncode == 2
    assert "another recipe (learning_rate: 0.5, not" in wrong.stderr.splitlines()[-1]


def assert_bit_identical(run, other):
    for which in ("best", "last"):
        assert_trees_identical(*(restore_run(path, which)[2] for path in (run, other)))
    ours, theirs = (json.loads((path / "summary.json").read_text()) for path in (run, other))
    assert ours["best"] == theirs["best"]
    assert ours["last"] == theirs["last"]
    histories = [RunDirectory(path).read_history() for path in (run, other)]
    for column in ("train_loss", "validation_loss"):
        assert histories[0].column(column) == histories[1].column(column)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scrach"], "error: unknown experiment 'scrach'; did you mean 'scratch'?"),
        (["demo", "--bach-size", "8"], "unknown option --bach-size; did you mean '--batch-size'?"),
        (["demo", "--batch-size", "0"], "error: batch_size must be at least 1, not 0"),
        (["demo", "--batch-size", "9999"], "batch_size 9999 is larger than the train split of"),
        (["scratch", "--train-size", "50000"], "does not fit into the 50,000"),
        (["scratch", "--data-dir", "none"], "none does not exist; make it first"),
        (["demo", "--resume"], "error: there is no run directory runs/demo"),
        (["demo", "--freeze", "layer7"], "error: freeze 'layer7': the rule 'layer7' matches no"),
        (["demo", "--weights", "none.pth"], "none.pth"),
        (["demo", "--weights", "foreign/thesis.tex"], "thesis.tex"),
        (["demo", "--workdir", "foreign"], "error: foreign is not empty and holds no run"),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(run_here, tmp_path, arguments, message):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years of work")
    status, _, stderr = run_here("train.py", *arguments)
    assert status == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["foreign", "thesis.tex"]


@pytest.mark.slow  # tests/test_floors.py forbids the imports
def test_after_training_neither_tensorflow_nor_torch_is_loaded(root, tmp_path):
    code = (
        "import sys; from jaxcifar import Recipe, fit, load_dataset; "
        "from jaxcifar.models.resnet import ARCHITECTURES; "
        "ARCHITECTURES['tiny'] = {'stage_sizes': (1,)}; "
        "recipe = Recipe(dataset='digits', train_size=64, validation_size=40, epochs=1, "
        "architecture='tiny', width=4, batch_size=32, normalization='half'); "
        "fit(recipe, load_dataset('digits', split=(64, 40)), workdir=sys.argv[1]); "
        "print({'tensorflow', 'torch'} & set(sys.modules) or 'neither')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "neither"
