from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.models.layers import BatchNorm, Linear
from jaxcifar.step import metrics
from jaxcifar.step.optimizer import make_optimizer
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import make_eval_step, make_train_step

N, CLASSES = 6, 4
jit = lambda f: jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})  # noqa: E731


class Tiny(nn.Module):
    """BatchNorm and one linear layer, whose gradients have a simple formula."""

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images, *, train):
        x = BatchNorm(name="bn1")(images, train=train).reshape(len(images), -1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return Linear(CLASSES, name="fc")(x)


def halve(images):
    return images.astype(jnp.float32) / 100 - 1


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (N, 2, 2, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, CLASSES, N), jnp.int32),
    }


def start(model, tx, batch):
    variables = jit(lambda key: model.init(key, halve(batch["image"]), train=False))(
        jax.random.key(0)
    )
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(params),
        key=jax.random.key(7),
    )


def by_hand(state, batch, smoothing):
    """Loss, logits and gradients of `Tiny` by the chain rule, in NumPy float64."""
    x = np.float64(batch["image"]) / 100 - 1
    unit = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    params = jax.tree.map(np.float64, state.params)
    features = (unit * params["bn1"]["scale"] + params["bn1"]["bias"]).reshape(N, -1)
    logits = features @ params["fc"]["kernel"] + params["fc"]["bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = (1 - smoothing) * np.eye(CLASSES)[batch["label"]] + smoothing / CLASSES
    d_logits = (p - target) / N
    d_features = (d_logits @ params["fc"]["kernel"].T).reshape(x.shape)
    gradients = {
        "bn1": {
            "scale": (d_features * unit).sum((0, 1, 2)),
            "bias": d_features.sum((0, 1, 2)),
        },
        "fc": {"kernel": features.T @ d_logits, "bias": d_logits.sum(0)},
    }
    return -np.sum(target * np.log(p)), logits, gradients


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_is_one_update_against_the_gradient_of_the_mean_loss(batch, smoothing):
    tx = optax.sgd(0.5)
    state = start(Tiny(), tx, batch)
    step = jit(make_train_step(Tiny(), tx, normalize=halve, label_smoothing=smoothing))
    after, measured = step(state, batch)

    loss_sum, logits, gradients = by_hand(state, batch, smoothing)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.params, expected)
    np.testing.assert_allclose(measured["loss_sum"], loss_sum, rtol=1e-5)
    assert measured["correct"] == np.sum(np.argmax(logits, 1) == batch["label"])
    assert measured["count"] == N

    x = np.float64(batch["image"]) / 100 - 1
    stats = after.batch_stats["bn1"]
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)
    assert after.step == 1
    assert after.key == state.key


def test_the_optimizers_state_is_carried_from_step_to_step(batch):
    tx = optax.sgd(0.1, momentum=0.9)
    state = start(Tiny(), tx, batch)
    step = jit(make_train_step(Tiny(), tx, normalize=halve))
    trace = jax.tree.map(np.zeros_like, state.params)
    for _ in range(3):
        _, _, gradients = by_hand(state, batch, 0.0)
        trace = jax.tree.map(lambda m, g: 0.9 * m + g, trace, gradients)
        expected = jax.tree.map(lambda p, m: p - 0.1 * m, state.params, trace)
        state, _ = step(state, batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, expected
        )
    assert state.step == 3


def test_dropout_depends_on_the_runs_key_and_the_step(batch):
    tx = optax.sgd(0.0)
    model = Tiny(dropout_rate=0.5)
    state = start(model, tx, batch)
    step = jit(make_train_step(model, tx, normalize=halve))

    def loss(step_number, seed):
        other = state.replace(step=jnp.int32(step_number), key=jax.random.key(seed))
        return float(step(other, batch)[1]["loss_sum"])

    assert loss(0, 7) == loss(0, 7)
    assert len({loss(0, 7), loss(1, 7), loss(2, 7), loss(0, 8)}) == 4


@pytest.mark.parametrize("masked", [0, 2])
def test_evaluation_counts_the_images_in_the_mask_and_uses_the_running_statistics(batch, masked):
    state = start(Tiny(), optax.sgd(0.1), batch)
    stats = {"bn1": {"mean": jnp.array([0.1, 0.2, 0.3]), "var": jnp.array([1.0, 2.0, 3.0])}}
    variables = {"params": state.params, "batch_stats": stats}
    mask = np.arange(N) >= masked
    # Padding may have any values, even ones that give NaN.
    image = jnp.where(mask[:, None, None, None], halve(batch["image"]), jnp.nan)
    evaluate = jit(make_eval_step(Tiny(), normalize=lambda x: x))
    found = evaluate(variables, {"image": image, "label": batch["label"], "mask": mask})

    x = np.float64(halve(batch["image"]))
    x = (x - stats["bn1"]["mean"]) / np.sqrt(np.float64(stats["bn1"]["var"]) + 1e-5)
    logits = x.reshape(N, -1) @ state.params["fc"]["kernel"] + state.params["fc"]["bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    losses = -log_p[np.arange(N), batch["label"]]
    np.testing.assert_allclose(found["loss_sum"], losses[mask].sum(), rtol=1e-5)
    assert found["correct"] == np.sum((np.argmax(logits, 1) == batch["label"])[mask])
    assert found["count"] == N - masked


def mirrored_batches(images, labels):
    """A batch of the images, and one of their mirror images."""
    mask = jnp.ones(len(labels), bool)
    return [{"image": x, "label": labels, "mask": mask} for x in (images, images[:, :, ::-1])]


def test_mirrored_evaluation_scores_the_mean_logits_of_an_image_and_its_mirror_image(batch):
    variables = start(Tiny(), optax.sgd(0.1), batch).variables
    plain, flipped = mirrored_batches(batch["image"], batch["label"])
    step = jit(make_eval_step(Tiny(), normalize=halve, mirror=True))
    found = step(variables, plain)
    logits = [
        np.float64(Tiny().apply(variables, halve(b["image"]), train=False))
        for b in (plain, flipped)
    ]
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    mean = (logits[0] + logits[1]) / 2
    losses = np.log(np.exp(mean).sum(1)) - mean[np.arange(N), batch["label"]]
    np.testing.assert_allclose(found["loss_sum"], losses.sum(), rtol=1e-5)
    assert found["correct"] == np.sum(mean.argmax(1) == batch["label"])
    # The two images have equal weight.
    np.testing.assert_allclose(step(variables, flipped)["loss_sum"], found["loss_sum"], rtol=1e-6)


def test_mirrored_evaluation_of_symmetric_images_is_the_plain_one(batch):
    variables = start(Tiny(), optax.sgd(0.1), batch).variables
    half = batch["image"][:, :, : batch["image"].shape[2] // 2]
    images = jnp.concatenate([half, half[:, :, ::-1]], axis=2)
    symmetric, _ = mirrored_batches(images, batch["label"])
    plain, mirrored = (
        jit(make_eval_step(Tiny(), normalize=halve, mirror=mirror))(variables, symmetric)
        for mirror in (False, True)
    )
    np.testing.assert_allclose(mirrored["loss_sum"], plain["loss_sum"], rtol=1e-6)
    assert mirrored["correct"] == plain["correct"]


VIEWS = {  # the weights of airbench's test-time augmentation
    False: {"plain": 0.5, "up left": 0.25, "down right": 0.25},
    True: dict.fromkeys(("plain", "plain flipped"), 0.25)
    | dict.fromkeys(
        ("up left", "down right", "up left flipped", "down right flipped"),
        0.125,
    ),
}


@pytest.mark.parametrize("mirror", VIEWS)
@pytest.mark.parametrize("shift", [1, 3])
def test_shifted_evaluation_scores_the_weighted_logits_of_the_views(mirror, shift):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 4, 5, 3), np.uint8)
    batch = {
        "image": jnp.asarray(images),
        "label": jnp.asarray(rng.integers(0, CLASSES, N), jnp.int32),
        "mask": jnp.ones(N, bool),
    }
    variables = start(Tiny(), optax.sgd(0.1), batch).variables
    edge = (shift, shift)
    padded = np.pad(images, ((0, 0), edge, edge, (0, 0)), mode="reflect")
    views = {
        "plain": images,
        "up left": padded[:, 2 * shift :, 2 * shift :],
        "down right": padded[:, :4, :5],
    }
    views |= {f"{name} flipped": view[:, :, ::-1] for name, view in views.items()}
    logits = {
        name: np.float64(Tiny().apply(variables, halve(jnp.asarray(view)), train=False))
        for name, view in views.items()
    }
    mean = sum(weight * logits[name] for name, weight in VIEWS[mirror].items())
    losses = np.log(np.exp(mean).sum(1)) - mean[np.arange(N), batch["label"]]
    step = jit(make_eval_step(Tiny(), normalize=halve, mirror=mirror, shift=shift))
    found = step(variables, batch)
    np.testing.assert_allclose(found["loss_sum"], losses.sum(), rtol=1e-5)
    assert found["correct"] == np.sum(mean.argmax(1) == batch["label"])
    plain = jit(make_eval_step(Tiny(), normalize=halve, mirror=mirror))(variables, batch)
    assert found["loss_sum"] != pytest.approx(float(plain["loss_sum"]), rel=1e-4)


@pytest.mark.parametrize("views", [{"mirror": True}, {"shift": 1}, {"shift": 2, "mirror": True}])
def test_features_have_no_other_views(views):
    with pytest.raises(
        ValueError, match="(mirror|shift) needs images, but the batch is the output of layer1"
    ):
        make_eval_step(Tiny(), normalize=halve, start="layer1", **views)


def test_a_negative_shift_is_refused():
    with pytest.raises(ValueError, match="shift must not be negative, not -1"):
        make_eval_step(Tiny(), normalize=halve, shift=-1)


def test_evaluation_normalises_and_has_no_dropout(batch):
    model = Tiny(dropout_rate=0.5)
    state = start(model, optax.sgd(0.1), batch)
    batch = {**batch, "mask": jnp.ones(N, bool)}
    plain = jit(make_eval_step(Tiny(), normalize=lambda x: x))
    normalised = {**batch, "image": halve(batch["image"])}
    with_dropout = jit(make_eval_step(model, normalize=halve))(state.variables, batch)
    without = plain(state.variables, normalised)
    assert without.pop("own") == {}
    for name, value in without.items():
        np.testing.assert_allclose(with_dropout[name], value, rtol=1e-6, err_msg=name)


def test_the_gradient_norm_is_measured_before_clipping(batch):
    tx = make_optimizer("sgd", lambda step: 0.1, momentum=0.0, clip_norm=1e-3)
    state = start(Tiny(), tx, batch)
    step = jit(make_train_step(Tiny(), tx, normalize=halve, log_gradient_norm=True))
    after, measured = step(state, batch)
    _, _, gradients = by_hand(state, batch, 0.0)
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradients)))
    np.testing.assert_allclose(measured["gradient_norm_sum"], N * norm, rtol=1e-4)
    moved = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), after.params, state.params)
    length = np.sqrt(sum(np.sum(m**2) for m in jax.tree.leaves(moved)))
    assert length == pytest.approx(0.1 * 1e-3, rel=0.01)


def spoil(batch, model, where):
    """A state, a batch and an optimizer, with an image or the statistics not finite."""
    tx = optax.adam(0.1)
    state = start(model, tx, batch)
    if where == "image":
        batch = batch | {"image": halve(batch["image"]).at[1, 0, 0, 0].set(jnp.nan)}
    elif where == "statistics":
        stats = {"bn1": state.batch_stats["bn1"] | {"mean": jnp.full(3, jnp.inf)}}
        state = state.replace(batch_stats=stats)
    return state, batch, tx


@pytest.mark.parametrize(
    ("where", "kinds"),
    [
        ("image", ["logits", "gradients", "BatchNorm statistics"]),
        ("statistics", ["BatchNorm statistics"]),
        ("none", []),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_nonfinite_steps_are_reported_and_skipped_on_request(batch, where, kinds, skip):
    model = Tiny()
    state, batch, tx = spoil(batch, model, where)
    normalize = lambda x: x if x.dtype == jnp.float32 else halve(x)  # noqa: E731
    step = jit(make_train_step(model, tx, normalize=normalize, skip_nonfinite=skip))
    after, measured = step(state, batch)
    assert metrics.nonfinite_names(measured) == kinds
    assert int(measured["nonfinite"]) == bool(kinds)
    assert int(after.step) == int(state.step) + 1
    unchanged = all(
        np.array_equal(a, b)
        for name in ("params", "batch_stats", "opt_state")
        for a, b in zip(
            jax.tree.leaves(getattr(after, name)),
            jax.tree.leaves(getattr(state, name)),
            strict=True,
        )
    )
    assert unchanged == (skip and bool(kinds))
    assert int(measured["count"]) == (0 if skip and kinds else N)
    if skip:
        assert np.isfinite(measured["loss_sum"])


class Convolved(nn.Module):
    """With a kernel for muon, too."""

    @nn.compact
    def __call__(self, images, *, train):
        return Tiny(name="tiny")(nn.Conv(3, (3, 3), name="conv")(images), train=train)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_schedule_goes_on_over_a_skipped_step(batch, name, grouped):
    """Then the next step is the first one of an optimizer at the second rate."""
    model = Convolved()
    state, bad, _ = spoil(batch, model, "image")
    good = bad | {"image": halve(batch["image"])}
    groups = jax.tree.map(lambda leaf: "0.5" if leaf.ndim > 1 else "trained", state.params)
    labels = groups if grouped else None

    def trained(schedule, *batches):
        tx = make_optimizer(name, schedule, labels=labels)
        settings = {"normalize": lambda x: x, "labels": labels, "skip_nonfinite": True}
        step = jit(make_train_step(model, tx, **settings))
        now = state.replace(opt_state=tx.init(state.params))
        for each in batches:
            now, _ = step(now, each)
        return now.params

    def schedule(count):
        return 0.1 / (1 + count)

    skipped, first = trained(schedule, bad, good), trained(schedule, good)
    expected = trained(lambda _: schedule(1), good)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), skipped, expected)
    for kernel in (lambda params: params["tiny"]["fc"], lambda params: params["conv"]):
        assert not np.allclose(kernel(skipped)["kernel"], kernel(first)["kernel"], rtol=1e-3)


def test_lookahead_averages_at_the_end_also_after_a_skipped_step(batch):
    model = Tiny()
    state, bad, _ = spoil(batch, model, "image")
    good = bad | {"image": halve(batch["image"])}
    tx = make_optimizer("sgd", lambda _: 0.1, lookahead_steps=2, total_steps=4)
    step = jit(make_train_step(model, tx, normalize=lambda x: x, skip_nonfinite=True))
    now = state.replace(opt_state=tx.init(state.params))
    for each in (good, bad, good, good):
        now, _ = step(now, each)
    slow = now.opt_state[1].slow
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), now.params, slow)
