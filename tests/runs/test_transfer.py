import dataclasses
import json

import numpy as np
import pytest

from jaxcifar.common.errors import RecipeError, RunError, WeightsError
from jaxcifar.data import Splits
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.models.names import named_leaves
from jaxcifar.models.pretrained import load_pretrained
from jaxcifar.models.weights import read_weights
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from jaxcifar.runs.transfer import export_run, starting_weights, weights_sha256
from jaxcifar.training.fit import fit
from tests.conftest import CLASSES, assert_trees_identical
from tests.training.test_fit import Stop, stop_after


def changed(recipe, **settings):
    return dataclasses.replace(recipe, **settings)


@pytest.fixture
def run(recipe, digits, tmp_path):
    """A finished run of one epoch."""
    fit(changed(recipe, epochs=1), digits, workdir=tmp_path / "first", experiment="first")
    return tmp_path / "first"


def test_a_run_exported_and_read_again_is_the_same_to_the_bit(run, tmp_path):
    _, model, variables = restore_run(run)
    export_run(run, tmp_path / "out.safetensors")
    again, report = load_pretrained(tmp_path / "out.safetensors", model)
    assert_trees_identical(again, variables)
    assert report.new == ()
    assert report.preprocessing.mean == (0.5, 0.5, 0.5)
    assert report.preprocessing.size == 32
    metadata = read_weights(tmp_path / "out.safetensors").metadata
    assert (metadata["arch"], metadata["classes"]) == ("tiny", "10")


def test_torch_loads_the_export_strictly(run, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from benchmarks.peers.torch_resnet import ResNet

    export_run(run, tmp_path / "out.safetensors", which="last")
    twin = ResNet((1,), width=4, num_classes=10)
    twin.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)
    twin.double().eval()
    _, model, variables = restore_run(run, "last")
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    theirs = twin(torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.double))
    ours = model.apply(variables, images, train=False)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)


def test_an_export_has_the_suffix_of_its_format(run, tmp_path):
    with pytest.raises(WeightsError, match=r"end it in \.safetensors"):
        export_run(run, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_an_export_is_replaced_only_when_asked(run, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(WeightsError, match="out.safetensors"):
        export_run(run, out)
    assert out.read_text() == "mine"
    export_run(run, out, overwrite=True)
    assert read_weights(out).tensors


@pytest.mark.slow
def test_a_run_goes_on_under_another_freeze_spec_and_is_evaluated(run, recipe, digits, tmp_path):
    further = changed(
        recipe,
        weights=str(run),
        freeze="freeze_b",
        bn="frozen",
        flip_rate=0.0,
        translate_pixels=0,
        cache_features=True,
        optimizer="sgd",
        epochs=1,
    )
    state, _ = fit(further, digits, workdir=tmp_path / "second")
    _, _, before = restore_run(run)
    after = named_leaves(state.params)
    for name, leaf in named_leaves(before["params"]).items():
        assert np.array_equal(after[name], leaf) == (not name.startswith("fc.")), name
    assert evaluate_run(tmp_path / "second")["examples"] == 360
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["weights"]["source"] == str(run)

    third = changed(recipe, weights=str(tmp_path / "second"), freeze="layer1", epochs=1)
    fit(third, digits, workdir=tmp_path / "third")
    assert evaluate_run(tmp_path / "third")["examples"] == 360


def test_a_new_head_is_drawn_from_the_seed_and_the_rest_is_kept(run, recipe):
    _, _, before = restore_run(run)
    heads = []
    for seed in (1, 1, 2):
        with_head = changed(recipe, weights=str(run), new_head=True, seed=seed, head="sequential")
        variables, report = starting_weights(with_head)
        assert set(report.new) == {"fc.0.bias", "fc.0.kernel", "fc.3.bias", "fc.3.kernel"}
        heads.append(np.asarray(variables["params"]["fc"]["3"]["kernel"]))
        for child in ("conv1", "bn1", "layer1"):
            assert_trees_identical(variables["params"][child], before["params"][child])
    assert np.array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[0], heads[2])


def test_a_run_of_an_own_network_gives_no_weights(recipe, tmp_path):
    built_in = {"architecture": "resnet18", "width": 64, "dropout_rate": 0.0}
    own = changed(changed(recipe, **built_in), architecture="own")
    RunDirectory(tmp_path / "own").create({"recipe": own.to_dict()})
    named = str(tmp_path / "own")
    for use in (
        lambda: starting_weights(changed(recipe, weights=named)),
        lambda: weights_sha256(named),
    ):
        with pytest.raises(
            RunError, match=r"of the built-in ones only: jaxcifar\.load\(run, model"
        ):
            use()
    with pytest.raises(RunError, match=r"export writes the built-in ones: save jaxcifar\.load\("):
        export_run(named, tmp_path / "out.safetensors")


def test_weights_trained_on_another_normalization_are_refused(run, recipe, tmp_path):
    export_run(run, tmp_path / "out.safetensors")
    for weights in (run, tmp_path / "out.safetensors"):
        other = changed(recipe, weights=str(weights), normalization="imagenet")
        with pytest.raises(RecipeError, match=r"\(0\.5, 0\.5, 0\.5\).*use --normalization half"):
            starting_weights(other)


@pytest.mark.parametrize("settings", [{"train_size": 80}, {"split_seed": 1}, {"stratified": True}])
def test_a_run_on_another_split_would_validate_on_what_it_was_trained_on(run, recipe, settings):
    with pytest.raises(
        RecipeError, match=r"another split of digits \((train_size: 120, not|s).*export"
    ):
        starting_weights(changed(recipe, weights=str(run), **settings))
    export_run(run, run / "out.safetensors")
    starting_weights(changed(recipe, weights=str(run / "out.safetensors"), **settings))


def arrays(seed, train, name):
    rng = np.random.default_rng(seed)
    images, labels = (
        rng.integers(0, 256, (train + 50, 8, 8, 3), np.uint8),
        np.arange(train + 50) % 3,
    )
    return Splits.from_arrays((images[50:], labels[50:]), (images[:50], labels[:50]), name=name)


@pytest.mark.parametrize("name", [None, "mine"])
def test_arrays_without_a_name_are_not_taken_for_those_of_another_run(recipe, tmp_path, name):
    unset = dict.fromkeys(("train_size", "validation_size"))
    recipe = changed(recipe, dataset="cifar10", epochs=1, resize=8, **unset)
    first, second = arrays(0, 60, name), arrays(1, 80, name)
    fit(recipe, first, workdir=tmp_path / "run")
    further = changed(recipe, weights=str(tmp_path / "run"), new_head=True).on(second)
    if name is None:
        starting_weights(further, second)
    else:
        with pytest.raises(RecipeError, match=r"another split of arrays:mine \(train_size: 60"):
            starting_weights(further, second)


def test_a_run_is_not_replaced_by_one_that_begins_from_it(run, recipe, digits):
    files = sorted(run.rglob("*"))
    with pytest.raises(RunError, match="is the run that the weights come from"):
        fit(changed(recipe, weights=str(run)), digits, workdir=run, overwrite=True)
    assert sorted(run.rglob("*")) == files


def test_weights_that_do_not_fit_leave_the_run_directory_as_it_was(run, recipe, digits, tmp_path):
    export_run(run, tmp_path / "out.safetensors")
    wider = changed(recipe, weights=str(tmp_path / "out.safetensors"), width=8, epochs=1)
    with pytest.raises(WeightsError, match="does not fit the model"):
        fit(wider, digits, workdir=tmp_path / "second")
    assert not (tmp_path / "second").exists()
    files = sorted(run.rglob("*"))
    with pytest.raises(WeightsError):
        fit(wider, digits, workdir=run, overwrite=True)
    assert sorted(run.rglob("*")) == files


def test_a_run_from_weights_resumes_without_them(run, recipe, digits, tmp_path):
    export_run(run, tmp_path / "out.safetensors")
    further = changed(recipe, weights=str(tmp_path / "out.safetensors"), epochs=2)
    whole, _ = fit(further, digits)
    with pytest.raises(Stop):
        fit(further, digits, workdir=tmp_path / "second", on_epoch=stop_after(1))
    (tmp_path / "out.safetensors").unlink()
    state, _ = fit(further, digits, workdir=tmp_path / "second", resume=True)
    assert_trees_identical(state, whole)
    summary = json.loads((tmp_path / "second" / "summary.json").read_text())
    assert len(summary["weights"]["sha256"]) == 64


def test_a_run_killed_before_its_first_checkpoint_begins_again_from_the_same_weights_only(
    run, recipe, digits, tmp_path
):
    out = tmp_path / "out.safetensors"
    export_run(run, out)
    further = changed(recipe, weights=str(out), epochs=1)
    second = tmp_path / "second"
    with pytest.raises(Stop):
        fit(further, digits, workdir=second, on_epoch=stop_after(1))
    for folder in (second / "checkpoints").iterdir():
        folder.rename(tmp_path / folder.name)
    intact = out.read_bytes()
    fit(changed(recipe, seed=1, epochs=1), digits, workdir=tmp_path / "other")
    export_run(tmp_path / "other", out, overwrite=True)
    with pytest.raises(RunError, match="holds other weights now than .* was started from"):
        fit(further, digits, workdir=second, resume=True)
    out.write_bytes(intact)
    again, _ = fit(further, digits, workdir=second, resume=True)
    assert_trees_identical(again, fit(further, digits)[0])


def test_a_head_of_another_number_of_classes_is_refused_with_both_lists(
    recipe, photo_run, tmp_path
):
    export_run(photo_run, tmp_path / "w.safetensors")
    for weights in (photo_run, tmp_path / "w.safetensors"):
        with pytest.raises(RecipeError, match="has other classes than digits") as caught:
            starting_weights(changed(recipe, weights=str(weights)))
        text = str(caught.value)
        assert CLASSES[0] in text, "those of the weights"
        assert "9" in text, "those of the data"
        starting_weights(changed(recipe, weights=str(weights), new_head=True, width=4))
