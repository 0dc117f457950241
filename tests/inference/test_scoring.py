import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcifar
from jaxcifar.common.errors import DataError, RecipeError
from jaxcifar.inference.load import network_of_run, network_of_weights
from jaxcifar.inference.predictions import class_logits
from jaxcifar.inference.scoring import class_scores, evaluate_run, split_logits
from jaxcifar.visualize.images import load_image
from jaxcifar.visualize.scoring import describe_scoring
from tests.conftest import CLASSES


def labels_of(logits):
    return logits.argmax(axis=1)


@settings(deadline=None)
@given(st.data(), st.integers(1, 5))
def test_class_scores_are_scikit_learns(data, classes):
    metrics = pytest.importorskip("sklearn.metrics")
    size = data.draw(st.integers(1, 30))
    labels, predicted = (
        np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size)))
        for _ in range(2)
    )
    names = [f"class {i}" for i in range(classes)]
    scores = class_scores(names, labels, predicted)
    present = np.unique(labels)
    precision, recall, f1, count = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    assert scores["macro_f1"] == pytest.approx(f1[present].mean())
    for label, name in enumerate(names):
        of_class = scores["per_class"][label]
        assert of_class["class"] == name
        assert of_class["examples"] == count[label]
        expected = (recall[label], f1[label]) if label in present else (None, None)
        assert (of_class["accuracy"], of_class["f1"]) == (
            expected if None in expected else pytest.approx(expected)
        )
        found = label in predicted
        assert of_class["precision"] == (pytest.approx(precision[label]) if found else None)


def test_the_scores_of_a_run(photo_run):
    network = jaxcifar.load(photo_run)
    source, logits = split_logits(network, "test")
    scores = evaluate_run(photo_run, per_class=True)
    exact = logits.astype(np.float64)
    own = exact[np.arange(9), source.labels]
    loss = np.mean(np.log(np.exp(exact).sum(axis=1)) - own)
    assert scores["accuracy"] == np.mean(labels_of(logits) == source.labels)
    assert scores["loss"] == pytest.approx(loss, rel=1e-5)
    assert [each["class"] for each in scores["per_class"]] == list(CLASSES)
    assert "top5_accuracy" not in scores  # of three classes


def test_top5_is_scored_where_there_are_more_than_five_classes(stored_run, digits):
    network = jaxcifar.load(stored_run)
    _, logits = split_logits(network, "test")
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    expected = np.mean((best == digits.test.labels[:, None]).any(axis=1))
    assert evaluate_run(stored_run)["top5_accuracy"] == pytest.approx(expected)


def test_other_data_of_the_same_classes_are_scored(photo_run, photos, tmp_path):
    """A folder of one's own, without train and test."""
    own = tmp_path / "own"
    (photos / "test").rename(own)
    scores = evaluate_run(photo_run, dataset=f"folder:{own}", per_class=True)
    assert scores["examples"] == 9
    # With fewer classes, labels follow the names, and a warning says which are absent.
    for file in (own / CLASSES[0]).iterdir():
        file.unlink()
    (own / CLASSES[0]).rmdir()
    with pytest.warns(UserWarning, match=f"has no images of {CLASSES[0]}"):
        fewer = evaluate_run(photo_run, dataset=f"folder:{own}", per_class=True)
    assert fewer["examples"] == 6
    for label in (1, 2):
        accuracies = [each["per_class"][label]["accuracy"] for each in (scores, fewer)]
        assert accuracies[0] == accuracies[1]
    assert fewer["per_class"][0]["accuracy"] is None
    (own / CLASSES[1]).rename(own / "Fisch")
    with pytest.raises(DataError, match="does not have the classes") as error:
        evaluate_run(photo_run, dataset=f"folder:{own}")
    assert ", ".join(CLASSES) in str(error.value)
    assert "Fisch" in str(error.value)


def test_the_same_classes_in_another_order_are_matched_by_name(photo_run, photos, tmp_path):
    """A run whose outputs have another order than the folder, as one on a TFDS dataset may."""
    network = network_of_run(photo_run)
    network.save(tmp_path / "w.safetensors")
    order = np.array([2, 0, 1])
    head = network.variables["params"]["fc"]
    params = network.variables["params"] | {
        "fc": {"kernel": head["kernel"][:, order], "bias": head["bias"][order]}
    }
    turned = dataclasses.replace(
        network,
        variables={**network.variables, "params": params},
        class_names=tuple(CLASSES[i] for i in order),
        metadata={
            **network.metadata,
            "class_names": f'["{CLASSES[2]}", "{CLASSES[0]}", "{CLASSES[1]}"]',
        },
    )
    turned_file = tmp_path / "turned.safetensors"
    turned.save(turned_file)
    dataset = f"folder:{photos}"
    plain = network_of_weights(tmp_path / "w.safetensors", dataset=dataset)
    other = network_of_weights(turned_file, dataset=dataset)
    with pytest.warns(UserWarning, match="another order .*: matched by name"):
        source, logits = split_logits(other, "test")
    expected_source, expected = split_logits(plain, "test")
    np.testing.assert_allclose(logits, expected[:, order], atol=1e-5)
    assert [other.class_names[i] for i in source.labels] == [
        plain.class_names[i] for i in expected_source.labels
    ]
    one, two = (
        class_scores(n.class_names, s.labels, labels_of(x))["per_class"]
        for n, s, x in ((plain, expected_source, expected), (other, source, logits))
    )
    assert sorted(one, key=str) == sorted(two, key=str)
    # A class is found by its name, and its images have it.
    for name in CLASSES:
        with pytest.warns(UserWarning, match="matched by name"):
            shown = load_image(network_of_weights(turned_file, dataset=dataset), name, None)
        index = int(np.flatnonzero(expected_source.labels == CLASSES.index(name))[0])
        assert shown.name == f"test image {index}: {name}"


def test_weights_of_other_classes_are_not_scored(photo_run, photos, tmp_path):
    network_of_run(photo_run).save(tmp_path / "w.safetensors")
    for part in ("train", "test"):
        (photos / part / CLASSES[0]).rename(photos / part / "Amsel")
    network = network_of_weights(tmp_path / "w.safetensors", dataset=f"folder:{photos}")
    assert network.class_names == CLASSES
    with pytest.raises(RecipeError, match="cannot be scored") as error:
        split_logits(network, "test")
    assert ", ".join(CLASSES) in str(error.value)
    assert "Amsel" in str(error.value)


def shifted_run(run, **changes):
    """The run, with other settings in its config.json."""
    config = run / "config.json"
    stored = json.loads(config.read_text())
    stored["recipe"] |= changes
    config.write_text(json.dumps(stored))
    return run


@pytest.mark.parametrize("mirror", [False, True])
def test_predictions_and_scores_are_of_the_shifted_views_too(photo_run, photos, mirror):
    plain = jaxcifar.load(photo_run)
    shifted = jaxcifar.load(shifted_run(photo_run, test_mirror=mirror, test_shift_pixels=3))
    source, logits = split_logits(shifted, "test")
    images = np.asarray(plain.preprocess(source.read(np.arange(9)).images))
    edge = (3, 3)
    padded = np.pad(images, ((0, 0), edge, edge, (0, 0)), mode="reflect")
    views = {"plain": images, "up": padded[:, 6:, 6:], "down": padded[:, :-6, :-6]}

    def score(view):
        found = [np.asarray(class_logits(plain.model, plain.variables, jnp.asarray(view)))]
        if mirror:
            found.append(class_logits(plain.model, plain.variables, jnp.asarray(view[:, :, ::-1])))
        return np.mean(found, axis=0)

    expected = score(views["plain"]) / 2 + score(views["up"]) / 4 + score(views["down"]) / 4
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(shifted.logits(photos / "test"), expected, atol=1e-5)
    assert np.abs(logits - split_logits(plain, "test")[1]).max() > 1e-3
    scored = evaluate_run(photo_run, per_class=True)
    assert scored["accuracy"] == np.mean(labels_of(expected) == source.labels)
    assert describe_scoring(shifted).endswith(
        "mean with the mirror image and shifts by 3 pixels" if mirror else "with shifts by 3 pixels"
    )


def test_a_shift_that_is_asked_for_takes_the_place_of_the_recipes(photo_run):
    losses = {shift: evaluate_run(photo_run, shift=shift)["loss"] for shift in (None, 0, 1, 15)}
    assert losses[None] == losses[0]
    assert len(set(losses.values())) == 3
    assert "views" not in evaluate_run(photo_run)
    assert evaluate_run(photo_run, shift=1)["views"] == {"mirror": False, "shift": 1}
    shifted_run(photo_run, test_shift_pixels=1)
    assert evaluate_run(photo_run)["loss"] == losses[1]
    assert evaluate_run(photo_run, shift=0)["loss"] == losses[0]
    for shift in (-1, 16):
        with pytest.raises(RecipeError, match=f"shift {shift} must be at least 0 and under 16"):
            evaluate_run(photo_run, shift=shift)


def test_a_network_is_computed_at_its_runs_precision(photo_run, photos):
    network = jaxcifar.load(shifted_run(photo_run, precision="highest"))
    image = photos / "test" / CLASSES[0] / "Bild 0.png"
    seen = []

    class Watched(type(network.model)):
        def __call__(self, *arguments, **options):
            seen.append(jax.config.jax_default_matmul_precision)
            return super().__call__(*arguments, **options)

    model = network.model
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.init}
    watched = Watched(**fields | {"parent": None, "name": None})
    with jax.default_matmul_precision(None):  # the tests' own setting
        for precision in ("highest", "default"):
            own = dataclasses.replace(network, model=watched, precision=precision)
            own.logits(image)
            own.features(image)
            own.grad_cam(image, layer="layer1")
            split_logits(own, "test")
            assert set(seen) == {None if precision == "default" else precision}
            assert len(seen) >= 4
            seen.clear()
