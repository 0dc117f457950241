import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.resnet import BatchNorm, Linear
from jaxcifar.state import TrainState
from jaxcifar.steps import make_eval_step, make_train_step

N, CLASSES = 6, 4
jit = lambda f: jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})  # noqa: E731


class Tiny(nn.Module):
    """BatchNorm and one linear layer: its gradients can be written down."""

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
    """Loss, logits and gradients of `Tiny` by the chain rule, NumPy float64."""
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


def test_the_optimizers_state_is_carried_on(batch):
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


def test_dropout_is_drawn_from_the_runs_key_and_the_step(batch):
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
def test_evaluation_counts_the_images_in_the_mask_with_the_running_statistics(batch, masked):
    state = start(Tiny(), optax.sgd(0.1), batch)
    stats = {"bn1": {"mean": jnp.array([0.1, 0.2, 0.3]), "var": jnp.array([1.0, 2.0, 3.0])}}
    variables = {"params": state.params, "batch_stats": stats}
    mask = np.arange(N) >= masked
    # Padding may be anything, even what would give NaN.
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


def test_evaluation_normalises_and_drops_nothing_out(batch):
    model = Tiny(dropout_rate=0.5)
    state = start(model, optax.sgd(0.1), batch)
    batch = {**batch, "mask": jnp.ones(N, bool)}
    plain = jit(make_eval_step(Tiny(), normalize=lambda x: x))
    normalised = {**batch, "image": halve(batch["image"])}
    with_dropout = jit(make_eval_step(model, normalize=halve))(state.variables, batch)
    without = plain(state.variables, normalised)
    for name, value in without.items():
        np.testing.assert_allclose(with_dropout[name], value, rtol=1e-6, err_msg=name)
