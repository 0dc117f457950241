import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.common.errors import FeatureError
from jaxcifar.models.resnet import ResNet
from jaxcifar.step.augment import make_augment, make_normalize
from jaxcifar.step.freeze import FREEZE_A, FREEZE_B, frozen_batch_norms, label_params
from jaxcifar.step.freeze_text import parse_rules
from jaxcifar.step.state import Draw, draw_key
from jaxcifar.training import features
from jaxcifar.training.features import cache_features, check_memory, cut_point
from tests.conftest import random_variables

MODEL = ResNet(stage_sizes=(1, 1), width=4)
SIZE = 10


@pytest.fixture
def variables():
    return random_variables(MODEL)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (SIZE, 16, 16, 3)), jnp.uint8),
        "label": jnp.arange(SIZE, dtype=jnp.int32),
    }


def labels_and_model(variables, rules):
    if isinstance(rules, str):
        rules = parse_rules(rules, variables["params"])
    labels = label_params(variables["params"], rules)
    return labels, MODEL.clone(frozen=frozen_batch_norms(labels))


@pytest.mark.parametrize(
    ("rules", "cut"),
    [
        (FREEZE_A, "layer1"),
        (FREEZE_B, "avgpool"),
        ("conv1", "conv1"),
        ("conv1 bn1", "maxpool"),
        ("conv1 layer1", "conv1"),
        ("up_to:layer1 layer2.0.conv1", "layer1"),
        ("layer1", None),
        ("none", None),
    ],
)
def test_the_cut_is_before_the_first_trained_child(variables, rules, cut):
    labels, model = labels_and_model(variables, rules)
    assert cut_point(model, labels) == cut


def test_batch_norms_that_follow_the_batch_cannot_be_cached(variables):
    labels, _ = labels_and_model(variables, FREEZE_A)
    with pytest.raises(
        FeatureError, match=r"bn1, layer1\.0\.bn1, layer1\.0\.bn2 normalise.*bn='frozen'"
    ):
        cut_point(MODEL, labels)
    half = MODEL.clone(frozen=frozenset({"bn1", "layer1.0.bn1"}))
    with pytest.raises(FeatureError, match=r"^layer1\.0\.bn2 normalise"):
        cut_point(half, labels)


@pytest.mark.parametrize("batch_size", [3, 5, 100])
def test_the_features_are_the_output_of_the_layer(variables, data, batch_size):
    normalize = make_normalize("half")
    cached = cache_features(
        MODEL, variables, data, "layer1", normalize=normalize, batch_size=batch_size
    )
    expected = MODEL.apply(variables, normalize(data["image"]), train=False, stop="layer1")
    assert cached["image"].shape == (SIZE, 4, 4, 4)
    np.testing.assert_allclose(cached["image"], expected, atol=1e-5)
    np.testing.assert_array_equal(cached["label"], data["label"])


def test_each_view_is_augmented_like_the_epoch_with_its_number(variables, data):
    normalize, key = make_normalize("half"), jax.random.key(3)
    augment = make_augment(flip_rate=0.5, translate_pixels=2)
    cached = cache_features(
        MODEL,
        variables,
        data,
        "avgpool",
        normalize=normalize,
        batch_size=4,
        augment=augment,
        views=2,
        key=key,
    )
    for view in (0, 1):
        view_key = draw_key(key, Draw.AUGMENT, view)
        keys = jax.vmap(lambda i: jax.random.fold_in(view_key, i))(jnp.arange(SIZE))  # noqa: B023
        images = normalize(augment(keys, data["image"]))
        expected = MODEL.apply(variables, images, train=False, stop="avgpool")
        np.testing.assert_allclose(
            cached["image"][view * SIZE : (view + 1) * SIZE], expected, atol=1e-5
        )
    assert not np.allclose(cached["image"][:SIZE], cached["image"][SIZE:])


def test_bfloat16_features_are_kept_in_bfloat16(variables, data):
    model = MODEL.clone(dtype=jnp.bfloat16)
    cached = cache_features(model, variables, data, "layer1", normalize=make_normalize("half"))
    assert cached["image"].dtype == jnp.bfloat16


def test_the_memory_estimate_is_the_size_of_the_features(variables, data):
    cached = cache_features(MODEL, variables, data, "layer1", normalize=make_normalize("half"))
    needed = check_memory(MODEL, variables, "layer1", images=SIZE, image_size=16)
    assert needed == cached["image"].nbytes


def test_features_larger_than_the_free_memory_are_refused_with_both_sizes(variables, monkeypatch):
    monkeypatch.setattr(features, "free_memory", lambda: 2**30)
    assert check_memory(MODEL, variables, "layer1", images=1000, image_size=16)
    with pytest.raises(
        FeatureError,
        match=r"2\.4 GiB, more than 80% of the 1\.0 GiB free: free some memory, or .* fewer views",
    ):
        check_memory(MODEL, variables, "layer1", images=10_000_000, image_size=16)


def test_without_a_known_memory_nothing_is_refused(variables, monkeypatch):
    monkeypatch.setattr(features, "free_memory", lambda: None)
    check_memory(MODEL, variables, "layer1", images=10**12, image_size=16)
