import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcifar.common.errors import RecipeError, RunError, WeightsError
from jaxcifar.models.pretrained import Preprocessing, export_weights, to_torch
from jaxcifar.models.resnet import make_resnet
from jaxcifar.runs.transfer import export_run
from jaxcifar.step.augment import resize
from jaxcifar.visualize.network import batch_of, run_subject, weights_subject
from tests.conftest import assert_trees_identical, random_variables

PREPROCESSING = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 64)


def write(path, preprocessing=PREPROCESSING, classes=7, **options):
    model = make_resnet("tiny", classes, width=4, **options)
    export_weights(random_variables(model), path, preprocessing=preprocessing)
    return model


@pytest.mark.parametrize(
    ("stem", "head"), [("imagenet", "linear"), ("cifar", "linear"), ("imagenet", "sequential")]
)
def test_a_file_of_weights_is_its_own_network(tiny, tmp_path, stem, head):
    model = write(tmp_path / "w.safetensors", stem=stem, head=head)
    subject = weights_subject(tmp_path / "w.safetensors", architecture="tiny")
    assert subject.model == model
    assert_trees_identical(dict(subject.variables), random_variables(model))
    assert subject.class_names == ("0", "1", "2", "3", "4", "5", "6")
    assert subject.name == "weights w.safetensors"
    images = np.array([[[[0, 51, 255]]]], np.uint8)
    expected = (images / 255 - PREPROCESSING.mean) / PREPROCESSING.std
    np.testing.assert_allclose(subject.normalize(jnp.asarray(images)), expected, atol=1e-6)


def test_the_classes_have_names_where_the_dataset_has_as_many(tiny, tmp_path):
    write(tmp_path / "w.safetensors", classes=10)
    assert weights_subject(tmp_path / "w.safetensors", architecture="tiny").class_names[8] == "ship"


def test_without_a_stated_normalization_it_must_be_given(tiny, tmp_path):
    path = tmp_path / "w.safetensors"
    write(path, None)
    with pytest.raises(RecipeError, match=r"give --normalization .*torchvision's weights: image"):
        weights_subject(path, architecture="tiny")
    subject = weights_subject(path, architecture="tiny", normalization="half")
    assert subject.normalize(jnp.full((1, 1, 1, 3), 255, jnp.uint8)).tolist() == [[[[1, 1, 1]]]]


def test_what_does_not_fit_is_refused_by_name(tiny, tmp_path):
    path = tmp_path / "w.safetensors"
    model = write(path)
    for options, message in (
        ({"architecture": "resnet81"}, "unknown architecture 'resnet81'; did you mean 'resnet18'"),
        ({"normalization": "imagnet"}, "unknown normalization 'imagnet'; did you mean 'imagenet'"),
        ({"architecture": "tiny", "normalization": "half"}, "normalization half: .* trained on"),
    ):
        with pytest.raises(RecipeError, match=message):
            weights_subject(path, **options)
    with pytest.raises(WeightsError, match="does not fit the model"):
        weights_subject(path, architecture="resnet18")
    tensors = to_torch(random_variables(model))
    save_file({k: v for k, v in tensors.items() if not k.startswith("fc")}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"missing: fc\.weight"):
        weights_subject(tmp_path / "x.pth", architecture="tiny", normalization="half")


def test_weights_see_test_images_at_the_size_they_were_trained_on(tiny, tmp_path):
    write(tmp_path / "w.safetensors", classes=10)
    subject = weights_subject(tmp_path / "w.safetensors", architecture="tiny", dataset="digits")
    assert subject.image_size == PREPROCESSING.size
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)), jnp.uint8)
    expected = subject.normalize(resize(images, 64))
    np.testing.assert_array_equal(subject.preprocess(images), expected)
    assert subject.batch_size == 500
    write(tmp_path / "plain.safetensors", Preprocessing((0.5,) * 3, (0.5,) * 3), classes=10)
    plain = weights_subject(tmp_path / "plain.safetensors", architecture="tiny", dataset="digits")
    assert plain.image_size == 32
    np.testing.assert_array_equal(plain.preprocess(images), plain.normalize(images))
    assert batch_of(128) == 125


def test_a_run_and_its_exported_weights_see_alike(stored_run, digits, tmp_path):
    run = stored_run
    export_run(run, tmp_path / "w.safetensors")
    mine = run_subject(run)
    weights = weights_subject(tmp_path / "w.safetensors", architecture="tiny", dataset="digits")
    assert mine.name == "run run, best checkpoint"
    assert run_subject(run, 0).name == "run run, step 0"
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
