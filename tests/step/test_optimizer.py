import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.models.names import named_leaves
from jaxcifar.step.freeze import label_params
from jaxcifar.step.optimizer import carry_over, make_optimizer

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


def ours(name, settings, share=1.0):
    """The parameters by name after each step."""
    tx = make_optimizer(name, lambda step: share * schedule(step), **settings)
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
    """The textbook formulas in NumPy float64, with decay of kernels only."""
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
def test_decay_changes_only_kernels(name):
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


def first_updates(tx, params, gradient):
    updates, _ = tx.update(gradient, tx.init(params), params)
    return named_leaves(updates)


def test_what_is_no_convolution_uses_sgd_with_muon():
    settings = {"momentum": 0.6, "weight_decay": 0.1}
    rest = [
        {k: v for k, v in moved.items() if k != "conv1.kernel"} for moved in ours("sgd", settings)
    ]
    found = [{k: moved[k] for k in rest[0]} for moved in ours("muon", settings)]
    assert_same_traces(found, rest, rtol=1e-6)


class TestBiasScale:
    @pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
    def test_it_scales_the_updates_of_batch_norm_biases_only(self, name):
        params, gradients = params_and_gradients()
        plain, scaled = (
            first_updates(make_optimizer(name, schedule, bias_scale=s), params, gradients[0])
            for s in (1.0, 64.0)
        )
        for leaf in plain:
            factor = np.float32(64 if leaf == "bn1.bias" else 1)
            np.testing.assert_array_equal(scaled[leaf], factor * plain[leaf], err_msg=leaf)

    def test_it_multiplies_the_share_of_a_label_even_if_the_scale_has_another_label(self):
        params, gradients = params_and_gradients()
        rules = (("bn1.bias", "0.5"), ("conv1", "frozen"), ("*", "trained"))
        labels = label_params(params, rules)
        tx = make_optimizer("sgd", schedule, labels=labels, bias_scale=8.0)
        found = first_updates(tx, params, gradients[0])
        plain = first_updates(make_optimizer("sgd", schedule), params, gradients[0])
        np.testing.assert_allclose(found["bn1.bias"], 4 * plain["bn1.bias"], rtol=1e-6)
        np.testing.assert_array_equal(found["bn1.scale"], plain["bn1.scale"])
        assert not found["conv1.kernel"].any()


class TestLookahead:
    def trace(self, labels=None, **settings):
        params, gradients = params_and_gradients()
        params = jax.tree.map(jnp.asarray, params)
        tx = make_optimizer("sgd", schedule, labels=labels, total_steps=STEPS, **settings)
        state, found = tx.init(params), []
        for gradient in gradients:
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            found.append(named_leaves(params))
        return found, state

    @pytest.mark.parametrize(("steps", "averages"), [(4, {2, 6}), (3, {3, 6}), (9, {6})])
    def test_the_weights_are_those_of_a_loop_by_hand(self, steps, averages):
        params, gradients = params_and_gradients()
        fast = {k: np.float64(v) for k, v in named_leaves(params).items()}
        slow, momentum = dict(fast), {k: np.zeros_like(v) for k, v in fast.items()}
        expected = []
        for step, gradient in enumerate(gradients):
            for k, g in named_leaves(gradient).items():
                momentum[k] = 0.9 * momentum[k] + g
                fast[k] = fast[k] - schedule(step) * (g + 0.9 * momentum[k])
            if step + 1 in averages:
                part = 1 - 0.7 * ((step + 1) / STEPS) ** 3
                slow = {k: v + part * (fast[k] - v) for k, v in slow.items()}
                fast = dict(slow)
            expected.append(dict(fast))
        found, state = self.trace(lookahead_steps=steps, lookahead_share=0.3)
        assert_same_traces(found, expected, rtol=2e-5)
        # The run ends at the slow weights, which are in the state.
        slow = {k.split("slow.")[1]: v for k, v in named_leaves(state).items() if "slow." in k}
        assert_same_traces([slow], [found[-1]], rtol=1e-6)

    def test_a_share_of_one_is_no_lookahead(self):
        found, _ = self.trace(lookahead_steps=2, lookahead_share=1.0)
        assert_same_traces(found, self.trace()[0], rtol=1e-5)

    def test_frozen_leaves_have_no_slow_weights_and_stay(self):
        params, _ = params_and_gradients()
        labels = label_params(params, (("fc", "trained"), ("bn1", "0.1"), ("*", "frozen")))
        found, state = self.trace(labels, lookahead_steps=2, clip_norm=1.0, bias_scale=2.0)
        slow = {k.split("slow.")[1] for k in named_leaves(state) if "slow." in k}
        assert slow == {"bn1.scale", "bn1.bias", "fc.kernel", "fc.bias"}
        np.testing.assert_array_equal(found[-1]["conv1.kernel"], params["conv1"]["kernel"])

    def test_invalid_settings_are_refused(self):
        for settings, message in (
            ({"lookahead_steps": 2}, "needs total_steps"),
            ({"lookahead_steps": 0, "total_steps": 3}, "at least 1 step, not 0"),
            ({"lookahead_steps": 2, "total_steps": 3, "lookahead_share": 0.0}, "above 0"),
            ({"bias_scale": 0.0}, "bias_scale must be positive"),
        ):
            with pytest.raises(ValueError, match=message):
                make_optimizer("sgd", schedule, **settings)


class TestGroups:
    rules = (("fc", "trained"), ("bn1", "0.1"), ("*", "frozen"))

    def labelled(self, name="adam", rules=None, **settings):
        params, gradients = params_and_gradients()
        labels = label_params(params, rules or self.rules)
        return make_optimizer(name, schedule, labels=labels, **settings), params, gradients

    @each
    def test_each_group_is_updated_as_if_alone_at_its_share_of_the_rate(self, name, settings):
        tx, params, gradients = self.labelled(name, **settings)
        whole = ours(name, settings)
        tenth = ours(name, settings, share=0.1)
        state, moved = tx.init(params), jax.tree.map(jnp.asarray, params)
        for step, gradient in enumerate(gradients):
            updates, state = tx.update(gradient, state, moved)
            moved = optax.apply_updates(moved, updates)
            found = named_leaves(moved)
            for key in ("fc.kernel", "fc.bias"):
                np.testing.assert_allclose(found[key], whole[step][key], rtol=1e-6, atol=1e-7)
            for key in ("bn1.scale", "bn1.bias"):
                np.testing.assert_allclose(found[key], tenth[step][key], rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(found["conv1.kernel"], params["conv1"]["kernel"])

    @pytest.mark.parametrize("frozen", [(), (("conv1", "frozen"),)])
    @each
    def test_a_share_above_one_trains_the_head_faster(self, name, settings, frozen):
        rules = (*frozen, ("fc", "2.5"), ("*", "trained"))
        tx, params, gradients = self.labelled(name, rules, **settings)
        whole, faster = ours(name, settings), ours(name, settings, share=2.5)
        state, moved = tx.init(params), jax.tree.map(jnp.asarray, params)
        for step, gradient in enumerate(gradients):
            updates, state = tx.update(gradient, state, moved)
            moved = optax.apply_updates(moved, updates)
            for key, leaf in named_leaves(moved).items():
                expected = (faster if key.startswith("fc.") else whole)[step][key]
                if frozen and key == "conv1.kernel":
                    expected = params["conv1"]["kernel"]
                np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-6, err_msg=key)

    @pytest.mark.parametrize(("name", "moments"), [("adam", 2), ("adamw", 2), ("sgd", 1)])
    def test_frozen_leaves_have_no_optimizer_state(self, name, moments):
        tx, params, _ = self.labelled(name, clip_norm=1.0)
        sizes = [leaf.size for leaf in jax.tree.leaves(tx.init(params)) if leaf.ndim]
        assert sum(sizes) == moments * (4 * 3 + 3 + 4 + 4)

    def test_clipping_uses_the_trained_gradients_of_all_groups_together(self):
        tx, params, gradients = self.labelled("sgd", momentum=0.0, clip_norm=0.5)
        gradient = jax.tree.map(jnp.asarray, gradients[0])
        gradient["conv1"]["kernel"] = jnp.full_like(gradient["conv1"]["kernel"], jnp.nan)
        updates, _ = tx.update(gradient, tx.init(params), params)
        trained = [gradient["fc"]["kernel"], gradient["fc"]["bias"]]
        trained += [gradient["bn1"]["scale"], gradient["bn1"]["bias"]]
        scale = 0.5 / np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in trained))
        assert scale < 1
        np.testing.assert_allclose(
            updates["fc"]["kernel"], -0.05 * scale * gradient["fc"]["kernel"], rtol=1e-5
        )
        np.testing.assert_allclose(
            updates["bn1"]["scale"], -0.005 * scale * gradient["bn1"]["scale"], rtol=1e-5
        )
        assert not updates["conv1"]["kernel"].any()

    def test_without_labels_clipping_is_torchs(self):
        torch = pytest.importorskip("torch")
        params, gradients = params_and_gradients()
        tensors = {k: torch.tensor(v, requires_grad=True) for k, v in named_leaves(params).items()}
        for k, g in named_leaves(gradients[0]).items():
            tensors[k].grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(tensors.values(), 0.7)
        tx = make_optimizer("sgd", lambda step: 1.0, momentum=0.0, clip_norm=0.7)
        updates, _ = tx.update(gradients[0], tx.init(params), params)
        for k, update in named_leaves(updates).items():
            np.testing.assert_allclose(-update, tensors[k].grad.numpy(), rtol=1e-4, atol=1e-6)

    def test_a_late_group_follows_the_schedule_of_the_run(self):
        rules = (("fc", "trained"), ("bn1", "0.5@3"), ("*", "frozen"))
        tx, params, gradients = self.labelled("sgd", rules, momentum=0.0, steps_per_epoch=4)
        updates, _ = tx.update(gradients[0], tx.init(params), params)
        rate = 0.5 * schedule(8)
        np.testing.assert_allclose(
            updates["bn1"]["bias"], -rate * gradients[0]["bn1"]["bias"], rtol=1e-6
        )

    def test_groups_that_were_trained_before_keep_their_moments(self):
        params, gradients = params_and_gradients()
        now = label_params(params, (("fc", "trained"), ("*", "frozen")))
        later = label_params(params, (("fc", "trained"), ("*", "trained@2")))
        before, after = (
            make_optimizer("adam", schedule, labels=labels, steps_per_epoch=2)
            for labels in (now, later)
        )
        state = before.init(params)
        for gradient in gradients[:2]:
            _, state = before.update(gradient, state, params)
        carried = carry_over(state, after.init(params))
        assert jax.tree.structure(carried) == jax.tree.structure(after.init(params))
        leaves = {
            jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(carried)
        }
        moments = [v for k, v in leaves.items() if "'trained'" in k and v.ndim]
        assert len(moments) == 4
        assert all(np.any(moment) for moment in moments)
        fresh = [v for k, v in leaves.items() if "'trained@2'" in k]
        assert fresh
        assert not any(np.any(leaf) for leaf in fresh)
        # It is the identity if no further parameters are trained.
        same = jax.tree.map(np.array_equal, carry_over(state, before.init(params)), state)
        assert jax.tree.all(same)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"clip_norm": 0.0}, "clip_norm must be positive"),
            ({"rules": (("fc", "trained"), ("*", "0.1@2"))}, "'0.1@2'.*steps_per_epoch"),
        ],
    )
    def test_invalid_settings_are_refused(self, settings, message):
        with pytest.raises(ValueError, match=message):
            self.labelled(**settings)
