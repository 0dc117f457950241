import json
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcifar.common.errors import RecipeError, RunError, WeightsError
from jaxcifar.inference.load import load, network_of_run, network_of_weights
from jaxcifar.inference.network import evaluation_batch_size
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import export_weights, to_torch
from jaxcifar.models.resnet import ResNet, make_resnet
from jaxcifar.runs.transfer import export_run
from jaxcifar.step.augment import resize
from tests.conftest import assert_trees_identical, random_variables

PREPROCESSING = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 64)


def write(path, preprocessing=PREPROCESSING, classes=7, **options):
    model = make_resnet("tiny", classes, width=4, **options)
    export_weights(random_variables(model), path, preprocessing=preprocessing)
    return model


@pytest.mark.parametrize(
    ("stem", "head"), [("imagenet", "linear"), ("cifar", "linear"), ("imagenet", "sequential")]
)
def test_the_network_follows_from_the_file_of_weights(tiny, tmp_path, stem, head):
    model = write(tmp_path / "w.safetensors", stem=stem, head=head)
    network = network_of_weights(tmp_path / "w.safetensors", architecture="tiny")
    assert network.model == model
    assert_trees_identical(dict(network.variables), random_variables(model))
    assert network.class_names == ("0", "1", "2", "3", "4", "5", "6")
    assert network.name == "weights w.safetensors, on cifar10"
    images = np.array([[[[0, 51, 255]]]], np.uint8)
    expected = (images / 255 - PREPROCESSING.mean) / PREPROCESSING.std
    np.testing.assert_allclose(network.normalize(jnp.asarray(images)), expected, atol=1e-6)


def test_classes_are_named_if_the_dataset_has_the_same_number(tiny, tmp_path):
    write(tmp_path / "w.safetensors", classes=10)
    assert (
        network_of_weights(tmp_path / "w.safetensors", architecture="tiny").class_names[8] == "ship"
    )


def test_a_normalization_that_the_file_does_not_state_must_be_given(tiny, tmp_path):
    path = tmp_path / "w.safetensors"
    write(path, None)
    with pytest.raises(RecipeError, match=r"give --normalization .*torchvision's weights: image"):
        network_of_weights(path, architecture="tiny")
    network = network_of_weights(path, architecture="tiny", normalization="half")
    white = network.normalize(jnp.full((1, 1, 1, 3), 255, jnp.uint8))
    np.testing.assert_allclose(white, np.ones((1, 1, 1, 3)), rtol=1e-6)


def test_options_and_files_that_do_not_fit_are_refused(tiny, tmp_path):
    path = tmp_path / "w.safetensors"
    model = write(path)
    for options, message in (
        ({"architecture": "resnet81"}, "unknown architecture 'resnet81'; did you mean 'resnet18'"),
        ({"normalization": "imagnet"}, "unknown normalization 'imagnet'; did you mean 'imagenet'"),
        ({"architecture": "tiny", "normalization": "half"}, "normalization half: .* trained with"),
    ):
        with pytest.raises(RecipeError, match=message):
            network_of_weights(path, **options)
    with pytest.raises(WeightsError, match="does not fit the model"):
        network_of_weights(path, architecture="resnet18")
    tensors = to_torch(random_variables(model))
    save_file({k: v for k, v in tensors.items() if not k.startswith("fc")}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"missing: fc\.weight"):
        network_of_weights(tmp_path / "x.pth", architecture="tiny", normalization="half")


def test_a_prefix_of_the_keys_changes_nothing(tiny, tmp_path):
    model = write(tmp_path / "w.safetensors")
    tensors = to_torch(random_variables(model))
    save_file({f"_orig_mod.{k}": v for k, v in tensors.items()}, tmp_path / "prefixed.safetensors")
    network = network_of_weights(
        tmp_path / "prefixed.safetensors", architecture="tiny", normalization="half"
    )
    assert network.model == model
    assert_trees_identical(network.variables, random_variables(model))


def test_weights_see_test_images_at_their_training_size(tiny, tmp_path):
    write(tmp_path / "w.safetensors", classes=10)
    network = network_of_weights(tmp_path / "w.safetensors", architecture="tiny", dataset="digits")
    assert network.image_size == PREPROCESSING.size
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)), jnp.uint8)
    expected = network.normalize(resize(images, 64))
    # Compiled as one program, the sums of the resize round otherwise than one by one.
    np.testing.assert_allclose(network.preprocess(images), expected, atol=1e-6)
    assert network.batch_size == 500
    write(tmp_path / "plain.safetensors", Preprocessing((0.5,) * 3, (0.5,) * 3), classes=10)
    plain = network_of_weights(
        tmp_path / "plain.safetensors", architecture="tiny", dataset="digits"
    )
    assert plain.image_size == 32
    np.testing.assert_array_equal(plain.preprocess(images), plain.normalize(images))
    assert evaluation_batch_size(128) == 125


@pytest.mark.parametrize("shift", [0, 1])
def test_exported_weights_are_scored_by_the_views_of_the_run(photo_run, photos, tmp_path, shift):
    path = photo_run / "config.json"
    config = json.loads(path.read_text())
    config["recipe"] |= {"test_mirror": True, "test_shift_pixels": shift, "precision": "highest"}
    path.write_text(json.dumps(config))
    export_run(photo_run, tmp_path / "exported.safetensors")
    mine = network_of_run(photo_run)
    assert (mine.mirror, mine.shift, mine.precision) == (True, shift, "highest")
    mine.save(tmp_path / "saved.safetensors")
    expected = mine.logits(photos / "test")
    plain = replace(mine, mirror=False, shift=0).logits(photos / "test")
    assert np.abs(plain - expected).max() > 1e-4  # so that the views matter
    for name in ("exported", "saved"):
        weights = load(tmp_path / f"{name}.safetensors", architecture="tiny")
        assert weights.precision == "highest"
        np.testing.assert_allclose(weights.logits(photos / "test"), expected, atol=1e-6)
        weights.save(tmp_path / f"{name}_again.safetensors")
        again = load(tmp_path / f"{name}_again.safetensors", architecture="tiny")
        assert (again.mirror, again.shift) == (True, shift)
    replace(mine, mirror=False, shift=0).save(tmp_path / "plain.safetensors")
    alone = load(tmp_path / "plain.safetensors", architecture="tiny")
    assert (alone.mirror, alone.shift, alone.precision) == (False, 0, "highest")


def test_exported_weights_compute_in_the_dtype_of_the_run(photo_run, photos, tmp_path):
    path = photo_run / "config.json"
    config = json.loads(path.read_text())
    config["recipe"] |= {"dtype": "bfloat16"}
    path.write_text(json.dumps(config))
    export_run(photo_run, tmp_path / "exported.safetensors")
    mine = network_of_run(photo_run)
    mine.save(tmp_path / "saved.safetensors")
    expected = mine.logits(photos / "test")
    exact = replace(mine, model=mine.model.clone(dtype=jnp.float32)).logits(photos / "test")
    assert np.abs(exact - expected).max() > 1e-4  # so that the dtype matters
    for name in ("exported", "saved"):
        weights = load(tmp_path / f"{name}.safetensors", architecture="tiny")
        np.testing.assert_allclose(weights.logits(photos / "test"), expected, atol=1e-6)


def test_what_only_a_run_has_is_not_asked_of_what_is_not_there(tmp_path, tiny):
    with pytest.raises(RecipeError, match=r"which='last' .* is for a run: .*typo is no run here"):
        load(tmp_path / "typo", which="last")
    with pytest.raises(RecipeError, match=r"model is for a run: .*typo is no run here"):
        load(tmp_path / "typo", model=ResNet(stage_sizes=()))


def test_a_run_and_its_exported_weights_see_the_same(stored_run, digits, tmp_path):
    run = stored_run
    export_run(run, tmp_path / "w.safetensors")
    mine = network_of_run(run)
    weights = network_of_weights(tmp_path / "w.safetensors", architecture="tiny", dataset="digits")
    assert mine.name == "run run, best checkpoint"
    assert network_of_run(run, 0).name == "run run, step 0"
    assert mine.class_names == weights.class_names == digits.class_names
    assert mine.figures == run / "figures"
    assert mine.model.clone(dropout_rate=0.0) == weights.model
    assert_trees_identical(dict(mine.variables), dict(weights.variables))
    images = jnp.asarray(digits.test.images[:2])
    np.testing.assert_allclose(mine.preprocess(images), weights.preprocess(images), atol=1e-6)
    np.testing.assert_array_equal(mine.split("train").labels, digits.train.labels)
    with pytest.raises(RunError, match="use --split test"):
        weights.split("train")
    np.testing.assert_array_equal(weights.split("test").labels, digits.test.labels)


def test_pictures_of_a_file_say_on_which_data_and_do_not_replace_each_other(
    photo_run, photos, tmp_path
):
    load(photo_run).save(tmp_path / "w.safetensors")
    copy = shutil.copytree(photos, tmp_path / "copy")
    options = (
        {"dataset": f"folder:{photos}"},
        {"dataset": f"folder:{copy}"},
        {"dataset": "cifar10"},
        {"dataset": "cifar10", "normalization": "half"},
    )
    shown = [network_of_weights(tmp_path / "w.safetensors", **each) for each in options]
    assert len({network.file_suffix for network in shown}) == len(shown)
    for network, each in zip(shown, options, strict=True):
        assert network.name.endswith(f", on {each['dataset']}")


def test_a_home_that_is_not_known_is_one_error():
    with pytest.raises(RunError, match="no home folder of that user"):
        load("~nobody-of-that-name/run")
