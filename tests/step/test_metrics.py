import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxcifar.common.target import built_for
from jaxcifar.step import metrics


def softmax_loss(logits, label, smoothing=0.0):
    """The closed form, in NumPy float64."""
    logits = np.float64(logits)
    log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    target = (1 - smoothing) * np.eye(logits.shape[1])[label] + smoothing / logits.shape[1]
    return -np.sum(target * log_p, axis=1)


def example(n, classes=5):
    rng = np.random.default_rng(n)
    logits = jnp.asarray(3 * rng.normal(size=(n, classes)), jnp.float32)
    label = jnp.asarray(rng.integers(0, classes, n), jnp.int32)
    return logits, label


def measured(logits, label, mask=None):
    mask = jnp.ones(label.shape, bool) if mask is None else jnp.asarray(mask)
    return metrics.measure(metrics.cross_entropy(logits, label), logits, label, mask)


def test_hand_made_logits_give_hand_made_numbers():
    third = np.log(3.0)
    logits = jnp.array([[third, 0.0], [0.0, third], [0.0, 0.0]])
    label = jnp.array([0, 0, 1])
    found = metrics.compute(measured(logits, label))
    loss = (np.log(4 / 3) + np.log(4) + np.log(2)) / 3
    assert found == {"loss": pytest.approx(loss, rel=1e-6), "accuracy": 1 / 3, "examples": 3}
    assert {type(v) for v in found.values()} == {float, int}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_the_closed_form(smoothing):
    logits, label = example(17)
    found = metrics.cross_entropy(logits, label, smoothing)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, softmax_loss(logits, label, smoothing), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_torchs(smoothing):
    torch = pytest.importorskip("torch")
    logits, label = example(17)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(np.asarray(logits)),
        torch.tensor(np.asarray(label), dtype=torch.long),
        reduction="none",
        label_smoothing=smoothing,
    )
    ours = metrics.cross_entropy(logits, label, smoothing)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_large_logits_stay_finite():
    logits = jnp.array([[1e4, 0.0], [-1e4, 0.0]])
    np.testing.assert_allclose(metrics.cross_entropy(logits, jnp.array([1, 0])), [1e4, 1e4])


@settings(deadline=None, max_examples=10)
@given(cuts=st.lists(st.integers(1, 5), max_size=4, unique=True))
def test_any_split_of_a_batch_merges_to_the_same_sums(cuts):
    logits, label = map(np.asarray, example(6))
    total = metrics.zeros()
    edges = [0, *sorted(cuts), 6]
    for start, stop in itertools.pairwise(edges):
        total = metrics.add(total, measured(logits[start:stop], label[start:stop]))
    whole = measured(logits, label)
    assert total["count"] == whole["count"] == 6
    assert total["correct"] == whole["correct"]
    np.testing.assert_allclose(total["loss_sum"], whole["loss_sum"], rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(mask=st.lists(st.booleans(), min_size=12, max_size=12))
def test_masked_examples_do_not_count_even_where_they_are_not_finite(mask):
    logits, label = example(12)
    mask = np.asarray(mask)
    dirty = jnp.where(mask[:, None], logits, jnp.nan)
    found = measured(dirty, label, mask)
    right = np.argmax(logits, axis=1) == label
    assert found["count"] == mask.sum()
    assert found["correct"] == np.sum(right & mask)
    expected = np.sum(softmax_loss(logits, label)[mask])
    np.testing.assert_allclose(found["loss_sum"], expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [3, 5, 6, 20])
def test_top5_counts_the_labels_among_the_five_largest(classes):
    rng = np.random.default_rng(classes)
    logits = rng.integers(0, 4, (50, classes)).astype(np.float32)  # with many equal ones
    label = rng.integers(0, classes, 50).astype(np.int32)
    mask = rng.random(50) < 0.7
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    right = (best == label[:, None]).any(axis=1)
    found = metrics.measure(np.zeros(50, np.float32), logits, label, mask, top5=True)
    assert found["top5"] == np.sum(right & mask)
    assert metrics.top5_accuracy(found) == np.sum(right & mask) / np.sum(mask)
    assert metrics.measure(np.zeros(50, np.float32), logits, label, mask)["top5"] == 0


def test_no_label_is_among_the_largest_of_what_is_no_number():
    logits = np.zeros((2, 8), np.float32)
    logits[0, 3] = np.nan
    label, mask = np.zeros(2, np.int32), np.ones(2, bool)
    found = metrics.measure(np.zeros(2, np.float32), logits, label, mask, top5=True)
    assert found["top5"] == 1
    assert found["correct"] == 1  # the first of equal ones, and not a logit beside one that is none


@given(st.integers(1, 8), st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_the_first_of_the_largest_logits_is_the_prediction(classes, seed):
    rng = np.random.default_rng(seed)
    logits = rng.choice([-np.inf, -1.0, 0.0, 1.0, np.inf], (20, classes)).astype(np.float32)
    label, mask = rng.integers(-2, classes + 2, 20), rng.random(20) < 0.8
    for top5 in (False, True):
        found = metrics.measure(np.zeros(20, np.float32), logits, label, mask, top5=top5)
        assert found["correct"] == np.sum((logits.argmax(axis=1) == label) & mask)


def test_the_sums_keep_their_types():
    sums = metrics.add(metrics.zeros(), measured(*example(4)))
    assert sums.pop("own") == {}
    assert {k: (v.dtype.name, v.shape) for k, v in sums.items()} == {
        "loss_sum": ("float32", ()),
        "correct": ("int32", ()),
        "top5": ("int32", ()),
        "count": ("int32", ()),
        "gradient_norm_sum": ("float32", ()),
        "nonfinite": ("int32", ()),
        "nonfinite_kinds": ("int32", ()),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_number_that_is_not_finite_is_found_and_named(value, index):
    trees = [{"a": np.zeros((3, 5), np.float32), "b": (np.ones(4, np.float32),)} for _ in range(3)]
    trees[index]["b"][0][2] = value
    kinds = jax.jit(metrics.find_nonfinite)(*trees)
    sums = metrics.add(metrics.zeros(), metrics.zeros() | {"nonfinite_kinds": kinds})
    assert metrics.nonfinite_names(sums) == [metrics.NONFINITE_KINDS[index]]


def test_finite_numbers_and_empty_trees_are_not_reported():
    huge = jnp.full(3, 3e38, jnp.float32)  # it is finite, but its norm is not
    assert int(metrics.find_nonfinite(huge, {}, jnp.zeros(2, jnp.bfloat16))) == 0


def test_nonfinite_kinds_accumulate_over_steps():
    bad = metrics.zeros() | {"nonfinite": jnp.int32(1), "nonfinite_kinds": jnp.int32(5)}
    worse = metrics.zeros() | {"nonfinite": jnp.int32(1), "nonfinite_kinds": jnp.int32(6)}
    sums = metrics.add(metrics.add(bad, metrics.zeros()), worse)
    assert int(sums["nonfinite"]) == 2
    assert metrics.nonfinite_names(sums) == list(metrics.NONFINITE_KINDS)


def test_means_over_no_examples_are_refused():
    with pytest.raises(ValueError, match="no examples were counted"):
        metrics.compute(metrics.zeros())


def test_the_gradient_norm_is_the_mean_over_steps_weighted_by_their_examples():
    def step(n, norm):
        logits, label = example(n)
        loss = metrics.cross_entropy(logits, label)
        return metrics.measure(loss, logits, label, jnp.ones(n, bool), gradient_norm=norm)

    sums = metrics.add(step(6, jnp.float32(3.0)), step(2, 8.0))
    assert metrics.mean_gradient_norm(sums) == pytest.approx((6 * 3 + 2 * 8) / 8)
    assert metrics.mean_gradient_norm(measured(*example(4))) == 0.0


@settings(deadline=None, max_examples=30)
@given(
    place=st.sampled_from(["kernel", "bias", "scalar", "none"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 99),
)
def test_on_an_accelerator_the_same_trees_are_reported(place, value, seed):
    rng = np.random.default_rng(seed)
    tree = {
        "kernel": rng.normal(size=(3, 3, 4, 5)),
        "bias": rng.normal(size=7),
        "scalar": rng.normal(size=()),
    }
    if place != "none":
        broken = np.arange(tree[place].size) == rng.integers(tree[place].size)
        tree[place] = np.where(broken.reshape(tree[place].shape), value, tree[place])
    trees = (jnp.ones((2, 3)), jax.tree.map(jnp.float32, tree), {})
    with built_for("gpu"):
        assert int(jax.jit(metrics.find_nonfinite)(*trees)) == (0 if place == "none" else 2)


def test_on_an_accelerator_the_cross_entropy_has_the_same_numbers_and_gradients():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(50 * rng.normal(size=(6, 5)), jnp.float32).at[0, 1].set(-jnp.inf)
    label = jnp.asarray([2, 0, 4, 3, 1, 0])

    def pulled(platform):
        with built_for(platform):
            loss, pull = jax.vjp(lambda logits: metrics.cross_entropy(logits, label), logits)
            return loss, *pull(jnp.linspace(-1, 1, 6))

    for actual, expected in zip(pulled("gpu"), pulled("cpu"), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_on_an_accelerator_the_gradient_of_the_cross_entropy_scatters_nothing():
    def gradient_text(platform):
        def loss(logits):
            return jnp.sum(metrics.cross_entropy(logits, jnp.zeros(4, jnp.int32)))

        with built_for(platform):
            return jax.jit(jax.grad(loss)).lower(jnp.zeros((4, 5))).as_text()

    assert "scatter" in gradient_text("cpu")
    assert "scatter" not in gradient_text("gpu")
