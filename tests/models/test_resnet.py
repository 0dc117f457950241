import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcifar.models.names import count_params, named_leaves
from jaxcifar.models.resnet import (
    ResNet,
    batch_norm_names,
    make_resnet,
    resnet18,
    resnet34,
    resnet50,
)
from tests.conftest import random_variables

GOLDEN = Path(__file__).with_name("golden") / "torch_resnet.npz"
SHAPE = {"stage_sizes": (1, 1), "width": 4, "num_classes": 5}
CASES = {
    f"{block}_{stem}": {"bottleneck": block == "bottleneck", "stem": stem}
    for block in ("basic", "bottleneck")
    for stem in ("imagenet", "cifar")
}
# Each program runs once or twice, so optimised compiling would take most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
each_network = pytest.mark.parametrize("case", CASES)


def shapes_of(model, size=32):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda k, x: model.init(k, x, train=False), jax.random.key(0), image)


def init(model, images):
    return jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))


def apply(model, variables, images, **options):
    return jit(lambda v, x: model.apply(v, x, **options))(variables, images)


class TestCounts:
    @pytest.mark.parametrize(("stem", "total"), [("imagenet", 11_181_642), ("cifar", 11_173_962)])
    def test_resnet18_with_ten_classes(self, stem, total):
        variables = shapes_of(resnet18(stem=stem))
        assert count_params(variables["params"]) == total
        assert len(jax.tree.leaves(variables["params"])) == 62
        assert len(jax.tree.leaves(variables["batch_stats"])) == 40

    @pytest.mark.parametrize(
        ("make", "total"), [(resnet18, 11_689_512), (resnet34, 21_797_672), (resnet50, 25_557_032)]
    )
    def test_torchvisions_totals_with_a_thousand_classes(self, make, total):
        assert count_params(shapes_of(make(1000))["params"]) == total


@functools.cache
def programs(case):
    """(variables, images) -> logits, and (variables, images, label) -> a train-mode pass."""
    model = ResNet(**SHAPE, **CASES[case])

    def loss_fn(params, stats, images, label):
        logits, updates = model.apply(
            {"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"]
        )
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)
        return -jnp.mean(picked), (logits, updates["batch_stats"])

    def training(variables, images, label):
        (loss, (logits, stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            variables["params"], variables["batch_stats"], images, label
        )
        return {"loss": loss, "logits": logits, "new_stats": stats, "gradients": gradients}

    return jit(lambda v, x: model.apply(v, x, train=False)), jit(training)


def nested(named):
    return unflatten_dict({tuple(name.split(".")): jnp.asarray(v) for name, v in named.items()})


def assert_close(ours, theirs, name):
    assert ours.shape == theirs.shape, name
    np.testing.assert_allclose(ours, theirs, atol=2e-4 * np.max(np.abs(theirs)), err_msg=name)


def assert_close_trees(ours, theirs):
    """`ours` is a tree, `theirs` has arrays by dotted names: the same names and close values."""
    ours = named_leaves(ours)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert_close(ours[name], theirs[name], name)


@each_network
def test_numbers_are_those_recorded_from_torch(case):
    with np.load(GOLDEN) as file:
        golden = {k.removeprefix(f"{case}/"): file[k] for k in file if k.startswith(f"{case}/")}

    def part(name):
        return {k.removeprefix(name): v for k, v in golden.items() if k.startswith(name)}

    variables = {"params": nested(part("params/")), "batch_stats": nested(part("stats/"))}
    evaluate, train = programs(case)
    images, label = golden["images"], golden["label"]
    assert_close(evaluate(variables, images), golden["eval_logits"], "eval_logits")
    trained = train(variables, images, label)
    assert_close(trained["logits"], golden["logits"], "logits")
    assert_close(trained["loss"], golden["loss"], "loss")
    assert_close_trees(trained["new_stats"], part("new_stats/"))
    assert_close_trees(trained["gradients"], part("gradients/"))


@each_network
def test_numbers_are_torchs(case):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_resnet

    rng = np.random.default_rng(1)
    size = 16 if CASES[case]["stem"] == "imagenet" else 8
    images = rng.normal(size=(6, size, size, 3)).astype(np.float32)
    label = rng.integers(0, 5, 6).astype(np.int32)
    variables = jax.tree.map(
        lambda x: np.array(x + (0.2 * rng.uniform(size=x.shape) if x.ndim == 1 else 0), np.float32),
        init(ResNet(**SHAPE, **CASES[case]), images),
    )
    twin = torch_resnet.ResNet(**SHAPE, **CASES[case])
    torch_resnet.load_from_flax(twin, variables)

    # In float32, torch gave these narrow 1x1 convolutions a random gradient in some runs.
    twin.double().eval()
    channels_first = torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.double)
    eval_logits = twin(channels_first).detach().numpy()
    twin.train()
    logits = twin(channels_first)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(label, dtype=torch.long))
    loss.backward()

    evaluate, train = programs(case)
    assert_close(evaluate(variables, images), eval_logits, "eval_logits")
    trained = train(variables, images, label)
    assert_close(trained["logits"], logits.detach().numpy(), "logits")
    assert_close(trained["loss"], loss.detach().numpy(), "loss")
    # The gradients are renamed like the parameters.
    ours = {"params": trained["gradients"], "batch_stats": trained["new_stats"]}
    ours = torch_resnet.state_dict_from_flax(jax.tree.map(np.array, ours))
    theirs = {name: parameter.grad for name, parameter in twin.named_parameters()}
    theirs |= {k: v for k, v in twin.named_buffers() if not k.endswith("num_batches_tracked")}
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert_close(ours[name].numpy(), theirs[name].numpy(), name)


class TestHead:
    def test_the_sequential_head_has_torchs_names_and_256_hidden_units(self):
        model = ResNet(**SHAPE, stem="cifar", head="sequential")
        named = named_leaves(shapes_of(model, 8)["params"]["fc"])
        shapes = {name: leaf.shape for name, leaf in named.items()}
        hidden = 256
        assert shapes == {
            "0.kernel": (8, hidden),
            "0.bias": (hidden,),
            "3.kernel": (hidden, 5),
            "3.bias": (5,),
        }

    @pytest.mark.parametrize("head", ["linear", "sequential"])
    def test_dropout_is_random_only_in_training(self, head):
        model = ResNet(stage_sizes=(), width=4, stem="cifar", head=head, dropout_rate=0.5)
        images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 3)), jnp.float32)
        variables = model.init(jax.random.key(0), images, train=False)

        def train(seed):
            rngs = {"dropout": jax.random.key(seed)}
            return model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])[0]

        np.testing.assert_array_equal(train(0), train(0))
        assert not np.array_equal(train(0), train(1))
        model.apply(variables, images, train=False)

    def test_the_sequential_head_is_two_linear_layers_with_a_relu_between(self):
        model = ResNet(stage_sizes=(), width=4, num_classes=3, stem="cifar", head="sequential")
        images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 3)), jnp.float32)
        variables = init(model, images)
        logits, seen = apply(model, variables, images, train=False, mutable=["intermediates"])
        first, last = (variables["params"]["fc"][name] for name in ("0", "3"))
        pooled = seen["intermediates"]["avgpool"][0]
        hidden = np.maximum(pooled @ first["kernel"] + first["bias"], 0)
        np.testing.assert_allclose(logits, hidden @ last["kernel"] + last["bias"], atol=1e-5)


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
    options = {**SHAPE, "stem": "cifar"}
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    narrow = ResNet(**options, dtype=jnp.bfloat16)
    variables = init(narrow, images)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}

    def run(model):
        mutable = ["batch_stats", "intermediates"]
        return apply(model, variables, images, train=True, mutable=mutable)

    logits, updates = run(narrow)
    wide_logits, wide_updates = run(ResNet(**options))
    assert updates["intermediates"]["layer1"]["output"][0].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, wide_logits, atol=0.03 * np.max(np.abs(wide_logits)))
    stats, wide_stats = (flatten_dict(u["batch_stats"]) for u in (updates, wide_updates))
    for name, value in stats.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wide_stats[name], atol=0.03)


def test_intermediates_are_stored_only_on_request():
    model = ResNet(stage_sizes=(), width=4, stem="cifar")
    images = jnp.ones((2, 4, 4, 3))
    variables = init(model, images)
    _, updates = apply(model, variables, images, train=True, mutable=["batch_stats"])
    assert set(updates) == {"batch_stats"}
    _, updates = apply(model, variables, images, train=False, mutable=["intermediates"])
    assert {"conv1", "bn1", "relu", "avgpool", "fc"} == set(updates["intermediates"])


def test_initial_variables_hold_no_intermediates():
    assert set(shapes_of(ResNet(**SHAPE), 16)) == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "resnet19"}, "'resnet19'.*resnet18, resnet34, resnet50"),
        ({"stem": "vgg"}, "stem 'vgg'.*imagenet, cifar"),
        ({"head": "mlp"}, "head 'mlp'.*linear, sequential"),
        ({"lowering": "fft"}, "lowering 'fft'.*auto, xla"),
        ({"dtype": jnp.float16}, "dtype 'float16'.*float32, bfloat16"),
        ({"dropout_rate": 1.0}, r"dropout_rate must lie in \[0, 1\), not 1.0"),
        ({"dropout_rate": -0.1}, "dropout_rate must lie in"),
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        ({"frozen": frozenset({"layer1.2"})}, "no BatchNorm at or below 'layer1.2'"),
        ({"frozen": frozenset({"layer10"})}, "no BatchNorm at or below 'layer10'"),
    ],
)
def test_a_wrong_setting_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_resnet(**{"architecture": "resnet18", **options})


class TestCut:
    @pytest.mark.parametrize("stem", ["imagenet", "cifar"])
    def test_the_network_cut_anywhere_and_joined_again_gives_the_same_logits(self, stem):
        model = ResNet(**SHAPE, stem=stem, head="sequential")
        images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
        variables = init(model, images)

        @jit
        def all_cuts(variables, images):
            whole = model.apply(variables, images, train=False)
            joined = {}
            for child in model.children:
                features = model.apply(variables, images, train=False, stop=child)
                joined[child] = model.apply(variables, features, train=False, start=child)
            return whole, joined

        whole, joined = all_cuts(variables, images)
        assert ("maxpool" in joined) == (stem == "imagenet")
        for child, logits in joined.items():
            np.testing.assert_array_equal(logits, whole, err_msg=child)

    def test_an_unknown_child_is_named(self):
        model = ResNet(**SHAPE)
        with pytest.raises(ValueError, match="no child 'layer3'; choose from conv1, bn1, relu"):
            model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False, stop="layer3")


class TestFrozenBatchNorm:
    def test_in_train_mode_it_gives_the_output_of_evaluation_and_keeps_its_statistics(self):
        model = ResNet(**SHAPE, bottleneck=True, frozen=frozenset({"bn1", "layer1"}))
        images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
        variables = jax.tree.map(lambda x: x + 0.1, init(model, images))

        @jit
        def run(variables, images):
            mutable = ["batch_stats", "intermediates"]
            _, updates = model.apply(variables, images, train=True, mutable=mutable)
            _, seen = model.apply(variables, images, train=False, mutable=["intermediates"])
            return updates, seen["intermediates"]

        updates, evaluated = run(variables, images)
        after = named_leaves(updates["batch_stats"])
        for name, before in named_leaves(variables["batch_stats"]).items():
            frozen = name.split(".")[0] in ("bn1", "layer1")
            assert np.array_equal(before, after[name]) == frozen, name
        for child, same in (("bn1", True), ("layer1", True), ("layer2", False)):
            outputs = (part[child]["output"][0] for part in (updates["intermediates"], evaluated))
            assert np.array_equal(*outputs) == same, child

    def test_its_names_are_those_of_the_networks_batch_norms(self):
        for make in (resnet18, resnet50):
            stats = named_leaves(shapes_of(make())["batch_stats"])
            expected = {name.rpartition(".")[0] for name in stats}
            assert set(batch_norm_names(make())) == expected

    def test_inside_another_module_its_name_is_relative_to_the_network(self):
        class Wrapper(nn.Module):
            @nn.compact
            def __call__(self, images):
                return ResNet(stage_sizes=(), width=4, frozen=frozenset({"bn1"}), name="net")(
                    images, train=True
                )

        images = jnp.ones((2, 16, 16, 3))
        variables = Wrapper().init(jax.random.key(0), images)
        _, updates = Wrapper().apply(variables, images, mutable=["batch_stats"])
        assert np.array_equal(updates["batch_stats"]["net"]["bn1"]["mean"], np.zeros(4))


@pytest.mark.parametrize("case", ["basic_cifar", "bottleneck_imagenet"])
def test_the_decay_is_that_of_every_batch_norm(case):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)
    settings = {"zero": {"batch_norm_decay": 0.0}, "half": {"batch_norm_decay": 0.5}, "default": {}}
    variables = random_variables(ResNet(**SHAPE, **CASES[case]))
    found = {}
    for name, options in settings.items():
        model = ResNet(**SHAPE, **CASES[case], **options)
        _, updates = apply(model, variables, images, train=True, mutable=["batch_stats"])
        found[name] = named_leaves(updates["batch_stats"])
    old = named_leaves(variables["batch_stats"])
    assert len(old) == 2 * len(list(batch_norm_names(model)))
    for name, before in old.items():
        for which, decay in (("half", 0.5), ("default", 0.9)):
            blended = decay * before + (1 - decay) * found["zero"][name]
            np.testing.assert_allclose(found[which][name], blended, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="batch_norm_decay must lie in"):
        resnet18(batch_norm_decay=decay)
