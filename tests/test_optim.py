import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.optim import make_optimizer
from jaxcifar.partition import named_leaves

STEPS = 6
CASES = [
    ("adam", {}),
    ("adamw", {"weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.0, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.0}),
]
each = pytest.mark.parametrize(("name", "settings"), CASES)


def schedule(step):
    return 0.05 / (1 + step)


def params_and_gradients():
    rng = np.random.default_rng(0)
    shapes = {
        "conv1": {"kernel": (3, 3, 2, 4)},
        "bn1": {"scale": (4,), "bias": (4,)},
        "fc": {"kernel": (4, 3), "bias": (3,)},
    }

    def draw():
        return jax.tree.map(
            lambda shape: rng.normal(size=shape).astype(np.float32),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    return draw(), [draw() for _ in range(STEPS)]


def ours(name, settings):
    """The parameters by name after each step."""
    tx = make_optimizer(name, schedule, **settings)
    params, gradients = params_and_gradients()
    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)
    trace = []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trace.append(named_leaves(params))
    return trace


def assert_same_traces(a, b, rtol):
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=rtol, atol=1e-6, err_msg=name)


def by_hand(name, momentum=0.9, weight_decay=0.0):
    """The textbook formulas in NumPy float64, decay on kernels alone."""
    params, gradients = params_and_gradients()
    params = {k: np.float64(v) for k, v in named_leaves(params).items()}
    first = {k: np.zeros_like(v) for k, v in params.items()}
    second = {k: np.zeros_like(v) for k, v in params.items()}
    trace = []
    for step, gradient in enumerate(gradients):
        rate = schedule(step)
        for k, g in named_leaves(gradient).items():
            decay = weight_decay * params[k] if k.endswith("kernel") else 0.0
            if name == "sgd":
                g = g + decay
                first[k] = momentum * first[k] + g
                update = g + momentum * first[k] if momentum else g
            else:
                first[k] = 0.9 * first[k] + 0.1 * g
                second[k] = 0.999 * second[k] + 0.001 * g**2
                mean = first[k] / (1 - 0.9 ** (step + 1))
                square = second[k] / (1 - 0.999 ** (step + 1))
                update = mean / (np.sqrt(square) + 1e-8) + decay
            params[k] = params[k] - rate * update
        trace.append(dict(params))
    return trace


def in_torch(name, momentum=0.9, weight_decay=0.0):
    torch = pytest.importorskip("torch")
    params, gradients = params_and_gradients()
    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in named_leaves(params).items()}
    groups = [
        {"params": [v for k, v in tensors.items() if k.endswith("kernel")]},
        {"params": [v for k, v in tensors.items() if not k.endswith("kernel")], "weight_decay": 0},
    ]
    if name == "adam":
        optimizer = torch.optim.Adam(groups)
    elif name == "adamw":
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=1.0, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay
        )
    trace = []
    for step, gradient in enumerate(gradients):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        for k, g in named_leaves(gradient).items():
            tensors[k].grad = torch.tensor(g)
        optimizer.step()
        trace.append({k: v.detach().numpy().copy() for k, v in tensors.items()})
    return trace


@each
def test_the_updates_are_the_textbooks(name, settings):
    assert_same_traces(ours(name, settings), by_hand(name, **settings), rtol=2e-5)


@each
def test_the_updates_are_torchs(name, settings):
    assert_same_traces(ours(name, settings), in_torch(name, **settings), rtol=2e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_decay_moves_kernels_alone(name):
    params, _ = params_and_gradients()
    params = jax.tree.map(jnp.asarray, params)
    tx = make_optimizer(name, schedule, weight_decay=0.1)
    state = tx.init(params)
    moved = params
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, moved)
        moved = optax.apply_updates(moved, updates)
    before, after = named_leaves(params), named_leaves(moved)
    stayed = {k for k in before if np.array_equal(before[k], after[k])}
    assert stayed == {"bn1.scale", "bn1.bias", "fc.bias"}
    assert np.all(np.abs(after["fc.kernel"]) < np.abs(before["fc.kernel"]))


def test_decay_with_adam_is_refused():
    with pytest.raises(ValueError, match="use the optimizer adamw"):
        make_optimizer("adam", schedule, weight_decay=1e-4)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="'lion'.*adam, adamw, sgd"):
        make_optimizer("lion", schedule)
