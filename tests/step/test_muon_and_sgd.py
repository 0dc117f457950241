"""`make_optimizer` divides the parameters among muon and sgd."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxcifar.models.names import named_leaves
from jaxcifar.step.freeze import label_params, labels_at
from jaxcifar.step.optimizer import carry_over, make_optimizer
from tests.step.airbench import BFLOAT16, STEPS, airbench, schedule, trained

SHAPES = {
    "conv1": {"kernel": (3, 3, 2, 4)},
    "bn1": {"scale": (4,), "bias": (4,)},
    "layer1": {"kernel": (3, 3, 4, 4)},
    "layer2": {"kernel": (3, 3, 4, 4)},
    "down": {"kernel": (1, 1, 4, 8)},
    "fc": {"kernel": (4, 3), "bias": (3,)},
}


def sgd(params, gradients, momentum, rate, decay):
    """Nesterov's momentum in NumPy float64."""
    ((name, weight),) = params.items()
    weight, buffer, trace = np.float64(weight), 0.0, []
    for step, gradient in enumerate(gradients):
        g = np.float64(gradient[name]) + decay * weight
        buffer = momentum * buffer + g
        weight = weight - rate(step) * (g + momentum * buffer)
        trace.append({name: weight})
    return trace


def shared_rate(share, step):
    return share * schedule(step)


def drawn(seed=3):
    rng = np.random.default_rng(seed)

    def draw():
        return jax.tree.map(
            lambda shape: rng.normal(size=shape).astype(np.float32),
            SHAPES,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    return draw(), [draw() for _ in range(STEPS)]


def expected(params, gradients, shares, momentum=0.9, decay=0.0):
    """Every kernel by airbench's loop and the rest by SGD's, in float64."""
    trace = [{} for _ in gradients]
    for name, leaf in named_leaves(params).items():
        of_leaf = [{name: named_leaves(gradient)[name]} for gradient in gradients]
        rate = partial(shared_rate, shares.get(name.split(".")[0], 1.0))
        if leaf.ndim == 4:
            moved = airbench({name: leaf}, of_leaf, momentum, rate)
        else:
            decay_here = decay if name == "fc.kernel" else 0.0
            moved = sgd({name: leaf}, of_leaf, momentum, rate, decay_here)
        for row, kernel in zip(trace, moved, strict=True):
            row |= kernel
    return trace


def compare(found, expected):
    moved = sum(schedule(step) for step in range(STEPS))
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            error = moved * BFLOAT16 if other[name].ndim == 4 else 1e-6
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=error, err_msg=name)


@pytest.mark.parametrize(
    ("rules", "shares"),
    [
        ((("*", "trained"),), {}),
        ((("layer2", "0.1"), ("*", "trained")), {"layer2": 0.1}),
        ((("fc", "2"), ("*", "trained")), {"fc": 2.0}),
        (
            (("fc", "2.5"), ("layer1", "3"), ("*", "0.5")),
            {"conv1": 0.5, "bn1": 0.5, "layer2": 0.5, "down": 0.5, "fc": 2.5, "layer1": 3.0},
        ),
    ],
)
def test_a_share_scales_the_rate_and_not_the_norm(rules, shares):
    params, gradients = drawn()
    tx = make_optimizer("muon", schedule, labels=label_params(params, rules), weight_decay=0.1)
    found, _ = trained(tx, params, gradients)
    compare(found, expected(params, gradients, shares, decay=0.1))


def test_weight_decay_is_for_the_head_alone():
    params, gradients = drawn()
    plain, decayed = (
        trained(make_optimizer("muon", schedule, weight_decay=decay), params, gradients)[0][-1]
        for decay in (0.0, 0.3)
    )
    assert {n for n in plain if not np.array_equal(plain[n], decayed[n])} == {"fc.kernel"}


@pytest.mark.parametrize("frozen", ["conv1", "layer2", "fc"])
def test_frozen_leaves_keep_their_bits_and_the_others_move_as_before(frozen):
    params, gradients = drawn()
    labels = label_params(params, ((frozen, "frozen"), ("*", "trained")))
    found, state = trained(make_optimizer("muon", schedule, labels=labels), params, gradients)
    whole, _ = trained(make_optimizer("muon", schedule), params, gradients)
    before, moved = named_leaves(params), sum(schedule(step) for step in range(STEPS))
    for name, leaf in found[-1].items():
        if name.startswith(frozen):
            np.testing.assert_array_equal(leaf.view(np.int32), before[name].view(np.int32))
        else:
            # Without the frozen kernel, products have another size, and round otherwise.
            error = moved * BFLOAT16 if leaf.ndim == 4 else 1e-6
            np.testing.assert_allclose(leaf, whole[-1][name], atol=error)
    assert not [name for name in named_leaves(state) if f".{frozen}." in name]


def test_the_others_keep_their_momentum_when_a_kernel_thaws():
    params, gradients = drawn()
    labels = label_params(params, (("layer2", "trained@2"), ("*", "trained")))
    before, after = (
        make_optimizer("muon", schedule, labels=labels_at(labels, epoch), steps_per_epoch=2)
        for epoch in (1, 2)
    )
    first, state = trained(before, params, gradients[:2])
    np.testing.assert_array_equal(first[-1]["layer2.kernel"], params["layer2"]["kernel"])
    carried = carry_over(state, after.init(params))
    buffers = {k: v for k, v in named_leaves(carried).items() if ".momentum." in k}
    kept = {k: np.any(v) for k, v in buffers.items()}
    assert len(kept) == 4
    assert [k for k, moved in kept.items() if not moved] == [k for k in kept if "layer2" in k]


def test_clipping_changes_no_direction_of_the_first_step():
    """Muon's direction has no length; sgd's has."""
    params, gradients = drawn()
    plain, clipped = (
        trained(make_optimizer("muon", schedule, clip_norm=clip), params, gradients[:1])[0][0]
        for clip in (None, 0.5)
    )
    for name, leaf in plain.items():
        close = np.allclose(leaf, clipped[name], atol=schedule(0) * BFLOAT16)
        assert close == (leaf.ndim == 4), name
