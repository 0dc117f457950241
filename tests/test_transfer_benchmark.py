"""The same task with jaxcifar and Keras: what is counted and timed, and that it is the same."""

import io
import json
import re
import textwrap
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import harness, transfer
from jaxcifar.models.names import count_params
from jaxcifar.models.pretrained import export_weights
from jaxcifar.models.resnet import resnet18
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.history import History
from jaxcifar.training.console import epoch_line
from tests.conftest import ROOT, random_variables

# Not `importorskip`: the import chooses TensorFlow, unless the script has chosen JAX before.
needs_keras = pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")
CODE = ['"""A module."""', "import os", "def f():", '    """One."""', "    return '''a", "b'''"]
NOTHING = ["", "    ", "# a comment", "        # indented"]


def test_lines_of_code_are_counted_without_docstrings():
    source = "\n".join([*CODE, "X = [", "    1,", "]  # the end"])
    assert transfer.count_lines(source) == {"all": 7, "f": 3}


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(NOTHING)), max_size=8))
def test_blank_lines_and_comments_do_not_count(added):
    lines = list(CODE)
    for place, line in added:
        lines.insert(place, line)  # the last two are one string
    assert transfer.count_lines("\n".join(lines)) == {"all": 4, "f": 3}


def test_the_scripts_are_counted_as_they_are():
    for script in transfer.SCRIPTS.values():
        source = (ROOT / "benchmarks" / f"{script}.py").read_text()
        lines = transfer.count_lines(source)
        nonblank = [line for line in source.splitlines() if line.strip()]
        assert sum(lines[name] for name in lines if name != "all") < lines["all"] < len(nonblank)


def test_the_line_of_an_epoch_is_recognized():
    row = {
        "epoch": 2, "step": 64, "learning_rate": 1e-3, "train_loss": 1.0, "train_accuracy": 0.5,
        "validation_loss": 1.0, "validation_accuracy": 0.5, "seconds": 2.0,
        "validation_seconds": 0.1, "images_per_second": 1_000.0,
    }  # fmt: skip
    ours = epoch_line(History([{**row, "epoch": 1}, row]), Recipe(epochs=transfer.EPOCHS))
    keras = "32/32 - 24s - 756ms/step - accuracy: 0.7105 - loss: 0.8423 - val_accuracy: 0.6720"
    for line in (ours, keras):
        assert transfer.EPOCH_LINE.match(line), line
    others = (
        "Epoch 1/5",
        "test accuracy 0.6805",
        "compiled in 11.4 s",
        "resnet18 on arrays: 2,000",
    )
    assert not any(transfer.EPOCH_LINE.match(line) for line in others)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Put a script in the place of those that train: `script(code)` is its name."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(transfer, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def write(code):
        (tmp_path / "benchmarks" / "stand_in.py").write_text(textwrap.dedent(code))
        return "stand_in"

    return write


def test_times_are_taken_when_lines_appear(script, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    name = script("""
        import os, sys, time
        assert sys.argv[1:] == ["data.npz", "weights", "--seed", "3"], sys.argv
        assert os.environ["JAXCIFAR_CACHE_DIR"] == "cache"
        assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
        for epoch in range(5):
            time.sleep(0.3 if epoch == 0 else 0.05)
            print(f"epoch   {epoch + 1}/5  train")
        time.sleep(0.2)
        print("test accuracy 0.6913")
        time.sleep(0.1)
    """)
    row = transfer.run(name, "data.npz", "weights", 3, "cache")
    assert row["test_accuracy"] == 0.6913
    # A line may be seen late, the first one by more than the last: the epochs seem shorter then.
    assert 0.02 <= row["epoch"] < 0.3 <= row["first"]
    assert row["whole"] >= row["first"] + 4 * row["epoch"] + 0.2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(3)", "status 3; it printed 0 of 5 epochs and 0 of 1 test"),
        ("print('epoch   1/5  train')", "status 0; it printed 1 of 5 epochs and 0 of 1 test"),
        (
            "for i in range(5): print(f'32/32 - {i}s')",
            "status 0; it printed 5 of 5 epochs and 0 of 1 test",
        ),
    ],
)
def test_a_script_that_fails_is_not_measured(script, code, message):
    with pytest.raises(RuntimeError, match=f"stand_in ended with {message}"):
        transfer.run(script(code), "data.npz", "weights", 0, "cache")


def rows_of(values):
    return [
        {"variant": variant, "seed": seed, "test_accuracy": value, "whole": value, "first": 0.5,
         "epoch": 2 * value}
        for variant, seeds in zip(transfer.VARIANTS, values, strict=True)
        for seed, value in enumerate(seeds)
    ]  # fmt: skip


def test_times_are_medians_and_accuracies_are_means():
    values = [[0.1, 0.2, 0.6], [0.3, 0.3, 0.3], [0.4, 0.8, 0.9]]
    rows = rows_of(values)
    result = transfer.summarize(rows)
    whole = result["seconds"]["the whole process"]
    assert whole["ratios"]["jaxcifar / Keras"] == pytest.approx(0.25)
    assert whole["results"]["Keras"]["median_ms"] == 800
    for variant, seeds in zip(transfer.VARIANTS, values, strict=True):
        accuracy = result["test_accuracy"][variant]
        assert accuracy["mean"] == pytest.approx(np.mean(seeds), abs=1e-4)
        assert accuracy["std"] == pytest.approx(np.std(seeds, ddof=1), abs=1e-4)
    lines = {name: {"all": 10 * (i + 1)} for i, name in enumerate(transfer.SCRIPTS)}
    transfer.draw(lines, rows).savefig(io.BytesIO())


def test_the_table_in_the_docs_has_the_measured_numbers():
    result = json.loads((harness.RESULTS / "transfer_cpu.json").read_text())
    page = (ROOT / "docs" / "keras.md").read_text()
    cells = {
        name: re.findall(r"[\d.,]+", " ".join(text.split("|")[2:]))
        for text in page.splitlines()
        if text.startswith("| ") and (name := text.split("|")[1].strip()) in transfer.VARIANTS
    }
    assert list(cells) == list(transfer.VARIANTS)
    for variant in transfer.VARIANTS:
        medians = [
            result["seconds"][title]["results"][variant]["median_ms"] / 1_000
            for title in transfer.MOMENTS.values()
        ]
        accuracy = result["test_accuracy"][variant]
        lines = result["lines"][variant.split(",")[0]]["all"]
        numbers = [f"{lines}", *(f"{s:.1f}" for s in medians)]
        assert cells[variant] == [*numbers, f"{accuracy['mean']:.3f}", f"{accuracy['std']:.3f}"]
        values = [row["test_accuracy"] for row in result["runs"] if row["variant"] == variant]
        assert accuracy["values"] == values


def test_the_numbers_in_the_text_are_the_measured_ones():
    result = json.loads((harness.RESULTS / "transfer_cpu.json").read_text())
    page = " ".join((ROOT / "docs" / "keras.md").read_text().split())
    whole, later = (
        result["seconds"][transfer.MOMENTS[name]]["ratios"] for name in ("whole", "epoch")
    )
    ours, keras = (result["lines"][name] for name in transfer.SCRIPTS)
    network = sum(keras[name] for name in ("conv_norm", "block", "make_model"))
    means = [result["test_accuracy"][name]["mean"] for name in transfer.SCRIPTS]
    for text in (
        f"takes {whole['jaxcifar / Keras']:.2f} of Keras's time",
        f"a later epoch {later['jaxcifar / Keras']:.2f};",
        f"the next run takes {whole[f'{transfer.CACHED} / Keras']:.2f}",
        f"differ by at most {result['logits']['largest_difference']:.0e}.",
        f"higher by {means[0] - means[1]:.3f};",
        f"Of Keras's {keras['all']} lines, {network} are the network",
        f"{keras['load_pretrained']} load the weights",
        f"{keras['main']} lines, and {ours['main']} in jaxcifar",
    ):
        assert text in page, text


def test_the_lines_in_the_docs_are_those_of_the_scripts():
    result = json.loads((harness.RESULTS / "transfer_cpu.json").read_text())
    for name, script in transfer.SCRIPTS.items():
        source = (ROOT / "benchmarks" / f"{script}.py").read_text()
        assert transfer.count_lines(source) == result["lines"][name]


@pytest.fixture
def weights(tmp_path):
    """A file with random weights, and with the mean and std that both libraries use."""
    metadata = {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"}
    path = tmp_path / "weights.safetensors"
    export_weights(random_variables(resnet18(200)), path, metadata=metadata)
    return str(path)


@needs_keras
def test_both_networks_are_the_same_and_train_the_same(weights):
    from benchmarks.transfer_keras import load_pretrained

    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    compared = transfer.compare_logits(weights, images)
    assert compared["largest_difference"] < 1e-4 * max(1, compared["largest"])
    params = random_variables(resnet18())["params"]
    frozen = ("conv1", "bn1", "layer1", "layer2")
    expected = {name: value for name, value in params.items() if not name.startswith(frozen)}
    model = load_pretrained(weights, classes=10)
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trained == count_params(expected) < count_params(params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jaxcifar", pytest.param("Keras", marks=needs_keras)])
def test_a_script_trains_to_its_end(name, weights, tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for part in ("train", "validation", "test"):
        arrays[f"x_{part}"] = rng.integers(0, 256, (70, 32, 32, 3), np.uint8)
        arrays[f"y_{part}"] = (np.arange(70) % 10).astype(np.int32)
    np.savez(tmp_path / "data.npz", **arrays)
    row = transfer.run(
        transfer.SCRIPTS[name], tmp_path / "data.npz", weights, 0, str(tmp_path / "cache")
    )
    assert 0 <= row["test_accuracy"] <= 1
    assert 0 < row["epoch"] < row["first"] < row["whole"]
