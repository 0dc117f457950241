import importlib.util
import json
import runpy
import sys
from dataclasses import replace
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ablation, harness, time_to_accuracy
from benchmarks.settings import parse_settings
from jaxcifar.models.conv import conv2d
from jaxcifar.models.names import count_params
from jaxcifar.models.resnet import resnet18
from jaxcifar.recipes.stage import make_stage
from jaxcifar.training.evaluation import evaluate, to_device
from jaxcifar.training.fit import fit
from jaxcifar.training.stage import resident_epoch
from tests.conftest import random_variables

# What the scripts share.
SHARED = (
    *("__init__", "contenders", "failures", "figures", "harness", "hlo", "peak", "programs"),
    *("race_file", "settings"),
)
SCRIPTS = (
    "ablation",
    "augment_time",
    "checkpoint_time",
    "collect_run",
    "conv_error",
    "conv_time",
    "damaged_checkpoints",
    "deaths",
    "freeze_time",
    "gpu_program",
    "gradient_check",
    "import_time",
    "input_time",
    "kill_and_resume",
    "picture_memory",
    "predict_time",
    "race",
    "scaling",
    "second_fit",
    "stability",
    "step_time",
    "sweep_time",
    "time_to_accuracy",
    "transfer",
    "transfer_jaxcifar",
    "transfer_keras",
    "warm_start",
    "without_tfds",
)


def seconds(n, seed):
    return list(np.random.default_rng(seed).uniform(0.01, 0.2, n))


def test_every_script_is_in_the_list(root):
    names = {path.stem for path in (root / "benchmarks").glob("*.py")}
    assert names == {*SCRIPTS, *SHARED}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_help_of_each_script_names_its_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    if name == "transfer_keras" and importlib.util.find_spec("keras") is None:
        monkeypatch.setitem(sys.modules, "keras", MagicMock())  # reading options does not use it
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert stopped.value.code == 0
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out


def test_variants_take_turns_and_the_warmup_is_not_counted():
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in "ab"}
    timed = harness.interleave(variants, repeats=3, warmup=1)
    assert calls == list("ab" * 4)
    assert [len(values) for values in timed.values()] == [3, 3]
    with pytest.raises(ValueError, match="at least 2"):
        harness.interleave(variants, repeats=1)


def test_the_time_of_a_call_is_divided_by_its_steps(monkeypatch):
    monkeypatch.setattr(
        harness, "interleave", lambda runs, **_: {name: [1.0, 2.0] for name in runs}
    )
    variants = {
        "one": harness.Variant(lambda: None),
        "four": harness.Variant(lambda: None, steps=4),
    }
    seconds = harness.seconds_per_step(variants, repeats=2)
    assert seconds == {"one": [1.0, 2.0], "four": [0.25, 0.5]}


@pytest.mark.parametrize("n", [2, 5, 8])
def test_median_and_quartiles(n):
    values = seconds(n, seed=n)
    row = harness.statistics_of(values)
    assert row["n"] == n
    assert row["median_ms"] == pytest.approx(1e3 * np.median(values), abs=1e-3)
    first, third = np.percentile(values, [25, 75])
    assert row["quartile_1_ms"] == pytest.approx(1e3 * first, abs=1e-3)
    assert row["quartile_3_ms"] == pytest.approx(1e3 * third, abs=1e-3)
    assert (row["min_ms"], row["max_ms"]) == pytest.approx(
        (1e3 * min(values), 1e3 * max(values)), abs=1e-3
    )


def test_ratios_are_of_medians():
    compared = harness.compare({"a": [1.0, 2.0, 9.0], "b": [4.0, 4.0, 4.0]}, {"a / b": ("a", "b")})
    assert compared["ratios"] == {"a / b": 0.5}


def test_a_result_is_saved_with_its_machine_and_a_figure(tmp_path):
    compared = harness.compare({"a": seconds(5, 0), "b": seconds(5, 1)}, {"a / b": ("a", "b")})
    out = tmp_path / "new" / "result.json"
    assert harness.save("unused", {"cases": {"one": compared}}, out=out) == out
    result = json.loads(out.read_text())
    assert result["cases"]["one"] == compared
    assert result["machine"]["backend"] == jax.default_backend()
    assert result["machine"]["versions"]["jax"] == jax.__version__
    figure = out.with_suffix(".png").read_bytes()
    assert figure.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(figure) < 100_000
    assert str(tmp_path) not in out.read_text()


def test_settings_of_the_allocator_are_recorded(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert "glibc_tunables" not in harness.describe()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert harness.describe()["glibc_tunables"] == "glibc.malloc.hugetlb=1"


def test_a_bar_is_as_long_as_its_median_and_whiskers_reach_the_quartiles():
    compared = harness.compare({"a": seconds(5, 0), "b": seconds(5, 1)}, {})
    (axes,) = harness.draw_tables({"one": compared["results"]}).axes
    bars = [patch.get_width() for patch in axes.patches]
    assert bars == [row["median_ms"] for row in compared["results"].values()]
    (whiskers,) = [c for c in axes.collections if len(c.get_segments()) == 2]
    ends = [[x for x, _ in segment] for segment in whiskers.get_segments()]
    rows = compared["results"].values()
    np.testing.assert_allclose(ends, [[r["quartile_1_ms"], r["quartile_3_ms"]] for r in rows])
    assert "(x1)" in axes.texts[0].get_text()


def test_a_result_without_a_table_has_no_figure(tmp_path):
    harness.save("unused", {"refused": 3}, out=tmp_path / "result.json")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_settings_are_read_as_python_values():
    settings = parse_settings(["width=16", "learning-rate=0.1", "dtype=bfloat16", "views=None"])
    assert settings == {"width": 16, "learning_rate": 0.1, "dtype": "bfloat16", "views": None}
    text = parse_settings(["train_resize=16", "clip_norm=1", "weights=None", "freeze=7"])
    assert text == {"train_resize": "16", "clip_norm": 1, "weights": None, "freeze": "7"}
    with pytest.raises(ValueError, match="field=value"):
        parse_settings(["width"])


def test_counted_flops_of_a_convolution_match_the_formula():
    n, side, k, c_in, c_out = 3, 9, 3, 5, 7
    images, kernel = jnp.ones((n, side, side, c_in)), jnp.ones((k, k, c_in, c_out))
    out = side - k + 1  # without padding: XLA does not count products with padding
    counted = harness.count_flops(lambda x, w: conv2d(x, w, lowering="xla"), images, kernel)
    assert counted == 2 * n * out * out * k * k * c_in * c_out


def test_flops_depend_neither_on_the_dtype_nor_on_the_form(recipe):
    side = recipe.image_size
    batch = {"image": np.zeros((40, side, side, 3), np.uint8), "label": np.zeros(40, np.int32)}
    flops = harness.algorithm_flops(recipe, batch)
    assert harness.algorithm_flops(replace(recipe, dtype="bfloat16"), batch) == flops
    # They are not those of the CPU's forms, which do more or less arithmetic.
    plain = harness.recipe_step(recipe, "xla")
    assert harness.count_flops(plain, harness.new_state(recipe), batch) == flops
    step = make_stage(recipe).make_train_step()
    assert harness.count_flops(step, harness.new_state(recipe), batch) != flops
    # Half of the images, half of the FLOPs, except for the optimizer and the means over the batch.
    half = harness.algorithm_flops(recipe, {name: values[:20] for name, values in batch.items()})
    assert 0.5 <= half / flops < 0.52


def test_memory_includes_arguments_and_results():
    lowered = jax.jit(lambda x: x + 1).lower(jnp.ones(1000, jnp.float32))
    assert 8_000 <= harness.memory_of(lowered) < 16_000


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("train", [False, True])
def test_the_flax_peer_is_the_same_network(stem, train):
    from benchmarks.peers import flax_resnet

    ours, peer = resnet18(width=4, stem=stem), flax_resnet.ResNet(width=4, stem=stem)
    variables = random_variables(ours)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    # They have the same parameters too.
    shapes = jax.eval_shape(lambda: peer.init(jax.random.key(0), images, train=False))
    assert jax.tree.map(jnp.shape, dict(shapes)) == jax.tree.map(jnp.shape, dict(variables))
    logits = [
        jax.jit(lambda model=model: model.apply(variables, images, train=train, mutable=True)[0])()
        for model in (ours, peer)
    ]
    np.testing.assert_allclose(*logits, atol=1e-4, rtol=1e-4)


def test_the_torch_peer_has_the_same_number_of_parameters():
    torch_resnet = pytest.importorskip("benchmarks.peers.torch_resnet")
    params = random_variables(resnet18(width=4))["params"]
    peer = torch_resnet.ResNet((2, 2, 2, 2), width=4)
    assert sum(p.numel() for p in peer.parameters()) == count_params(params)


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")
def test_the_keras_peer_has_the_same_number_of_parameters():
    from benchmarks.peers.keras_resnet import make_model

    for stem in ("imagenet", "cifar"):
        params = random_variables(resnet18(width=4, stem=stem))["params"]
        weights = make_model(stem=stem, width=4).trainable_weights
        assert sum(int(np.prod(w.shape)) for w in weights) == count_params(params)


def rows(*accuracies):
    return [
        {"epoch": i, "seconds": 10.0 * i, "accuracy": a, "accuracy_mirrored": a + 0.1}
        for i, a in enumerate(accuracies, 1)
    ]


def test_a_target_is_reached_when_the_mean_over_seeds_reaches_it():
    seeds = {"0": rows(0.2, 0.9, 0.9), "1": rows(0.2, 0.5, 0.8)}
    summary = time_to_accuracy.summarize(seeds, [0.7, 0.8, 0.96], flops=5.0)
    plain, mirrored = summary["accuracy"], summary["accuracy_mirrored"]
    assert plain["reached"]["0.7"] == {"epoch": 2, "seconds": 20.0, "flops": 10.0}
    assert plain["reached"]["0.8"] == {"epoch": 3, "seconds": 30.0, "flops": 15.0}
    assert plain["reached"]["0.96"] is None
    assert mirrored["reached"]["0.8"]["epoch"] == 2
    assert (plain["final_mean"], plain["final_std"]) == (0.85, pytest.approx(0.07071))


def test_scoring_averages_the_logits_of_image_and_mirror_image(recipe):
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    images[:, :, 16:] //= 4  # not their own mirror images, not even on average
    variables = random_variables(recipe.make_model())

    def logits(images):
        images = recipe.make_preprocess()(jnp.asarray(images))
        return recipe.make_model().apply(variables, images, train=False)

    plain, mirrored = logits(images), logits(images[:, :, ::-1])
    middle = jnp.mean(plain + mirrored, axis=0)  # otherwise all images would get one class
    fc = variables["params"]["fc"]
    fc["bias"] = fc["bias"] - middle / 2
    state = harness.new_state(recipe).replace(**variables)
    plain, averaged = plain - middle / 2, plain + mirrored - middle
    test = {"image": jnp.asarray(images), "label": averaged.argmax(-1)}
    scores = time_to_accuracy.make_score(recipe, test)(state)  # batches of 64 and 6
    assert scores["accuracy_mirrored"] == 1
    assert scores["accuracy"] == pytest.approx(np.mean(plain.argmax(-1) == test["label"]))
    assert scores["accuracy"] < 1


def test_the_timed_training_has_the_losses_of_fit(recipe, digits):
    recipe = replace(recipe, epochs=2)
    data = to_device(digits.train)
    epoch = resident_epoch(make_stage(recipe), len(digits.train))
    state = time_to_accuracy.initial_state(recipe, 3, digits)
    rows = time_to_accuracy.train(recipe, 3, state, epoch, data, lambda _: {"accuracy": 0.5})
    _, history = fit(replace(recipe, seed=3), digits)
    losses = [row["train_loss"] for row in rows]
    assert losses == pytest.approx(history.column("train_loss"), abs=1e-4)
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"]


def test_an_interrupted_measurement_keeps_its_seeds(tmp_path, recipe):
    out, settings = tmp_path / "result.json", time_to_accuracy.settings_of("demo", recipe)
    assert time_to_accuracy.earlier_result(out, settings) == {}
    harness.save("unused", {"settings": settings, "seeds": {"0": rows(0.5)}}, out=out)
    assert time_to_accuracy.earlier_result(out, settings)["seeds"] == {"0": rows(0.5)}
    other = time_to_accuracy.settings_of("demo", replace(recipe, epochs=4))
    with pytest.raises(SystemExit, match="other settings"):
        time_to_accuracy.earlier_result(out, other)


def scored(variant, seed, accuracy):
    return {"variant": variant, "seed": seed, "accuracy": accuracy, "accuracy_mirrored": accuracy}


def test_the_summary_has_the_difference_of_means_to_the_reference():
    rows = [scored("reference", 0, 0.7), scored("reference", 1, 0.72), scored("plain", 0, 0.65)]
    summary = ablation.summarize(rows)
    assert summary["reference"]["seeds"] == 2
    assert summary["reference"]["accuracy"] == pytest.approx(0.71)
    assert summary["plain"]["difference"] == pytest.approx(-0.06)
    assert "difference" not in ablation.summarize(rows[2:])["plain"]


def test_a_variant_differs_from_the_reference_only_in_its_ingredient():
    base = ablation.variant_recipe("reference", 8, {}).to_dict()
    for name, changes in ablation.VARIANTS.items():
        recipe = ablation.variant_recipe(name, 8, {}).to_dict()
        assert {k: v for k, v in recipe.items() if v != base[k]} == changes, name
    assert base["warmup_epochs"] == pytest.approx(1.6)


def test_a_variant_has_the_losses_of_fit_and_is_saved(recipe, digits, tmp_path):
    recipe = replace(recipe, epochs=2)
    (row,) = ablation.train_variant("plain", recipe, [recipe.seed], digits)
    state, history = fit(recipe, digits)
    scored = evaluate(recipe.make_model(), state.variables, digits.test, normalize="half")
    assert row["accuracy"] == pytest.approx(scored["accuracy"], abs=0.01)
    assert row["train_losses"] == pytest.approx(history.column("train_loss"), abs=1e-3)
    out, settings = tmp_path / "ablation.json", ablation.settings_of(2, {})
    ablation.record([row], settings, out)
    assert out.with_suffix(".png").is_file()
    assert time_to_accuracy.earlier_result(out, settings)["rows"] == [row]
