import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import recall_score

from jaxcifar.data import Dataset
from jaxcifar.inference import predictions
from jaxcifar.inference.predictions import (
    confusion_matrix,
    most_confident_mistakes,
    per_class_accuracy,
    predict,
)
from jaxcifar.models.resnet import ResNet
from jaxcifar.training.evaluation import evaluate
from tests.conftest import random_variables

MODEL = ResNet(stage_sizes=(1,), width=4, num_classes=10, stem="imagenet", lowering="xla")


def normalize(images):
    return images.astype(jnp.float32) / 255 - 0.5


def test_probabilities_do_not_depend_on_the_batch_size(digits):
    variables = random_variables(MODEL)
    part = digits.test.take(np.arange(50))
    logits = np.asarray(
        MODEL.apply(variables, normalize(jnp.asarray(part.images)), train=False), np.float64
    )
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    for batch_size in (16, 50, 64):  # a partial last batch, one batch, more than there are
        programs = predictions._class_logits._cache_size()
        probabilities = predict(MODEL, variables, part, normalize=normalize, batch_size=batch_size)
        assert probabilities.shape == (50, 10)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert predictions._class_logits._cache_size() <= programs + 1
    accuracy = evaluate(MODEL, variables, part, normalize=normalize, batch_size=50)["accuracy"]
    assert np.mean(probabilities.argmax(axis=1) == part.labels) == pytest.approx(accuracy)


def test_a_normalization_is_named_or_a_function(digits):
    variables, part = random_variables(MODEL), digits.test.take(np.arange(5))
    named = predict(MODEL, variables, part, normalize="half")
    by_hand = predict(MODEL, variables, part, normalize=lambda x: (x / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(named, by_hand, atol=1e-6)
    with pytest.raises(ValueError, match="unknown normalization 'halves'; choose from"):
        predict(MODEL, variables, part, normalize="halves")


@pytest.mark.parametrize("score", [predict, evaluate])
def test_variables_are_scored_at_a_precision(digits, score):
    variables, part, seen = random_variables(MODEL), digits.test.take(np.arange(3)), []

    class Watched(ResNet):
        def __call__(self, *arguments, **options):
            seen.append(jax.config.jax_default_matmul_precision)
            return super().__call__(*arguments, **options)

    model = Watched(stage_sizes=(1,), width=4, num_classes=10, lowering="xla")
    with jax.default_matmul_precision(None):  # the tests' own setting
        for precision, expected in (("highest", "highest"), ("default", None)):
            score(model, variables, part, normalize="half", precision=precision)
            assert set(seen) == {expected}
            seen.clear()


def test_weights_that_are_not_numbers_are_seen_in_every_score(digits):
    variables = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), random_variables(MODEL))
    part = digits.test.take(np.arange(5))
    assert np.isnan(predict(MODEL, variables, part, normalize="half")).all()
    scores = evaluate(MODEL, variables, part, normalize="half")
    assert scores["accuracy"] == 0
    assert np.isnan(scores["loss"])


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 7, (2, 200)).astype(np.int32)
    confusion = confusion_matrix(labels, predicted, 7)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, sklearn_confusion(labels, predicted, labels=range(7)))
    np.testing.assert_allclose(
        per_class_accuracy(confusion), recall_score(labels, predicted, average=None)
    )


def test_a_class_without_images_has_no_accuracy():
    confusion = confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 2]), 4)
    np.testing.assert_array_equal(per_class_accuracy(confusion), [0.5, np.nan, 1.0, np.nan])
    assert confusion.shape == (4, 4)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 4], [0, 0], "labels must lie in 0 to 3"),
        ([0, 1], [0, -1], "predicted must lie in 0 to 3"),
        ([0, 1], [0], "must have one dimension"),
    ],
)
def test_labels_that_cannot_be_counted_are_refused(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(labels), np.array(predicted), 4)


def test_mistakes_come_most_confident_first_and_equals_in_order():
    probabilities = np.array(
        [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]], np.float32
    )
    labels = np.array([0, 0, 1, 0, 1, 0])
    assert most_confident_mistakes(probabilities, labels, 10).tolist() == [1, 5, 2, 3, 4]
    assert most_confident_mistakes(probabilities, labels, 2).tolist() == [1, 5]
    right = probabilities.argmax(axis=1)
    assert most_confident_mistakes(probabilities, right, 3).tolist() == []


def test_an_empty_dataset_can_be_counted_but_not_predicted():
    none = np.zeros(0, np.int32)
    assert confusion_matrix(none, none, 3).tolist() == [[0] * 3] * 3
    with pytest.raises(ValueError, match="no images"):
        predict(
            MODEL,
            random_variables(MODEL),
            Dataset(np.zeros((0, 8, 8, 3), np.uint8), none),
            normalize=normalize,
        )
