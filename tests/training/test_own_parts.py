"""`fit` with parts of the user's own: the same spine, promises and refusals."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar import Recipe, ResNet, evaluate, evaluate_run, fit, load, load_splits, sweep
from jaxcifar.common.errors import DeviceError, RecipeError, RunError
from jaxcifar.data import Splits
from jaxcifar.devices.processes import DeviceOptions
from jaxcifar.models.names import named_leaves
from jaxcifar.recipes.own import check_augmented
from jaxcifar.recipes.parts import Parts, make_parts
from jaxcifar.recipes.stage import make_stage
from jaxcifar.training.interruption import Interrupted
from jaxcifar.training.plan import plan_run
from jaxcifar.training.stage import training_programs
from tests.conftest import assert_trees_identical, with_devices
from tests.training.test_fit import signal_after


class ConvNet(nn.Module):
    """Without BatchNorm."""

    features: int = 4

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Conv(self.features, (3, 3), strides=4)(images))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(10)(x.reshape(len(x), -1))


class Normalised(nn.Module):
    """With flax's own BatchNorm."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3), strides=4, use_bias=False)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Attention(nn.Module):
    """A small vision transformer; LayerNorm has a scale without a bias."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(8, (8, 8), strides=8)(images).reshape(len(images), -1, 8)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])
        y = nn.LayerNorm(use_bias=False)(x)
        x = x + nn.SelfAttention(num_heads=2, deterministic=not train)(y)
        return nn.Dense(10)(x.mean(1)).astype(jnp.bfloat16)


def focal(logits, labels):
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (1 - jnp.exp(-loss)) ** 2 * loss


def soft_cross_entropy(logits, labels):
    return optax.softmax_cross_entropy(logits, labels)


def top3(logits, labels):
    return (jnp.argsort(logits)[:, -3:] == labels[:, None]).any(1)


def label(logits, labels):
    return labels


def mixup(keys, images, labels):
    order = jax.random.permutation(keys[0], len(images))
    labels, images = jax.nn.one_hot(labels, 10), images / 255.0
    return 0.7 * images + 0.3 * images[order], 0.7 * labels + 0.3 * labels[order]


def brighten(keys, images, labels):
    share = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1)))(keys)
    return images / 255.0 * share, labels


TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


@pytest.fixture
def own():
    return Recipe(
        dataset="digits",
        train_size=120,
        validation_size=40,
        normalization="half",
        epochs=2,
        batch_size=40,
        eval_batch_size=64,
    )


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            {"model": ConvNet(), "tx": TX, "loss": focal, "metrics": {"top3": top3}}, id="convnet"
        ),
        pytest.param(
            {"model": Attention(), "tx": TX, "loss": soft_cross_entropy, "augment": mixup},
            id="transformer",
            marks=SLOW,
        ),
        pytest.param(
            {"model": Normalised(), "tx": optax.linear_schedule(0.01, 0.0, 6), "augment": brighten},
            id="batch_norm",
        ),
        pytest.param(
            {"model": ResNet(stage_sizes=(1,), width=2), "metrics": {"top3": top3, "y": label}},
            id="resnet",
            marks=SLOW,
        ),
    ],
)
def test_a_stopped_run_is_resumed_to_the_same_bits(own, digits, tmp_path, parts):
    whole, history = fit(own, digits, workdir=tmp_path / "whole", **parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxcifar.training.pieces.SECONDS_PER_PIECE", 0)
        signal_after(2, signal.SIGTERM, patch)
        with pytest.raises(Interrupted):
            fit(own, digits, workdir=tmp_path / "cut", verbose=True, **parts)
    state, resumed = fit(own, digits, workdir=tmp_path / "cut", resume=True, **parts)
    assert_trees_identical(state, whole)
    for name in history.rows[0]:
        if "seconds" not in name and "per_second" not in name:
            assert resumed.column(name) == history.column(name), name


def test_the_numbers_are_those_of_a_loop_by_hand(own, digits):
    """An outside oracle: the same updates with optax alone."""
    parts = {"model": ConvNet(), "tx": optax.sgd(0.1), "loss": focal, "metrics": {"top3": top3}}
    model = dataclasses.replace(ConvNet()).clone()
    recipe = dataclasses.replace(own, epochs=1, batch_size=120)
    state, history = fit(recipe, digits, **parts)
    start, _ = _first(recipe, digits, model)
    images = (digits.train.images / 255.0 - 0.5) / 0.5

    def mean_loss(params):
        # The one step of the epoch has the run's key and step 0 for its dropout.
        key = jax.random.fold_in(jax.random.fold_in(start.key, 2), 0)
        order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(start.key, 0), 0), 120)
        x = jnp.asarray(images[np.asarray(order)], jnp.float32)
        logits = model.apply({"params": params}, x, train=True, rngs={"dropout": key})
        labels = jnp.asarray(digits.train.labels)[order]
        return focal(logits, labels).mean(), top3(logits, labels).mean()

    (loss, share), gradients = jax.value_and_grad(mean_loss, has_aux=True)(start.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start.params, gradients)
    for name, leaf in named_leaves(expected).items():
        np.testing.assert_allclose(
            named_leaves(state.params)[name], leaf, rtol=1e-4, atol=1e-6, err_msg=name
        )
    row = history.rows[0]
    assert row["train_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert row["train_top3"] == pytest.approx(float(share))
    logits = model.apply({"params": state.params}, _seen(digits.validation), train=False)
    assert row["validation_loss"] == pytest.approx(
        float(focal(logits, digits.validation.labels).mean()), rel=1e-5
    )
    assert row["learning_rate"] is None


def _first(recipe, digits, model):
    from jaxcifar.recipes.own import with_parts
    from jaxcifar.recipes.parts import make_parts
    from jaxcifar.training.start import first_state

    recipe, parts = with_parts(recipe, make_parts(model=model, tx=optax.sgd(0.1)))
    return first_state(recipe, digits, parts=parts), parts


def _seen(dataset):
    return jnp.asarray((dataset.images / 255.0 - 0.5) / 0.5, jnp.float32)


def run_case(root, case, workdir, *, devices=1, killed_after=0, resume=False):
    words = [case, str(workdir), str(devices), str(killed_after), "resume" if resume else "begin"]
    return subprocess.run(
        [sys.executable, "-m", "tests.training.own_parts_in_a_process", *words],
        cwd=root,
        env=os.environ | {"XLA_FLAGS": with_devices(devices)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["convnet", "transformer", "resnet"])
def test_a_run_killed_in_mid_epoch_is_resumed_to_the_same_bits(root, tmp_path, case):
    whole = run_case(root, case, tmp_path / "whole")
    killed = run_case(root, case, tmp_path / "cut", killed_after=6)  # of 4 steps an epoch
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_case(root, case, tmp_path / "cut", resume=True)
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr
    assert "resuming" in resumed.stdout
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["convnet", "transformer", "resnet"])
def test_two_devices_give_the_losses_of_one(root, tmp_path, case):
    one, two = (
        json.loads(run_case(root, case, tmp_path / str(n), devices=n).stdout.splitlines()[-1])
        for n in (1, 2)
    )
    for name in ("train_loss", "validation_loss", "train_top3", "validation_top3"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, err_msg=name)


def test_frozen_modules_keep_their_bits_and_have_no_state(own, digits):
    recipe = dataclasses.replace(own, architecture="own", freeze="all_but:Dense_0", epochs=1)
    state, _ = fit(recipe, digits, model=Normalised(), tx=TX)
    first, _ = _first(recipe, digits, Normalised())
    for name, leaf in named_leaves(state.params).items():
        same = np.array_equal(leaf, named_leaves(first.params)[name])
        assert same == (not name.startswith("Dense_0")), name
    assert all("Conv_0" not in name for name in named_leaves(state.opt_state))


@pytest.mark.slow
def test_a_module_that_thaws_is_trained_from_then_on(own, digits):
    recipe = dataclasses.replace(own, architecture="own", freeze="Conv_0=0.5@2 *=trained", epochs=2)
    with pytest.warns(UserWarning, match="tx counts its steps once for all parameters"):
        whole, _ = fit(recipe, digits, model=ConvNet(), tx=TX)
    early, _ = fit(
        dataclasses.replace(recipe, freeze="Conv_0=frozen *=trained", epochs=1),
        digits,
        model=ConvNet(),
        tx=TX,
    )
    first, _ = _first(recipe, digits, ConvNet())
    kernel = "Conv_0.kernel"
    assert np.array_equal(named_leaves(early.params)[kernel], named_leaves(first.params)[kernel])
    assert not np.array_equal(
        named_leaves(whole.params)[kernel], named_leaves(first.params)[kernel]
    )


def test_a_run_is_evaluated_and_loaded_with_the_same_parts(own, digits, tmp_path):
    metrics = {"top3": top3}
    fit(own, digits, workdir=tmp_path / "run", model=ConvNet(), tx=TX, loss=focal, metrics=metrics)
    scores = evaluate_run(tmp_path / "run", model=ConvNet(), loss=focal, metrics=metrics)
    network = load(tmp_path / "run", model=ConvNet())
    again = evaluate(
        network.model,
        network.variables,
        digits.test,
        normalize="half",
        loss=focal,
        metrics=metrics,
    )
    assert {name: scores[name] for name in again} == pytest.approx(again)
    logits = network.logits(digits.test.images[:5])
    expected = ConvNet().apply(network.variables, _seen(digits.test)[:5], train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    maps = network.features(digits.test.images[:5], "Conv_0")
    assert maps.shape == (5, 8, 8, 4)
    with pytest.raises(ValueError, match="unknown layer 'Conv_1'.*Conv_0"):
        network.features(digits.test.images[:5], "Conv_1")
    with pytest.raises(RecipeError, match=r"ConvNet is a model of your own: only the built-in"):
        network.grad_cam(digits.test.images[:1])
    with pytest.raises(RecipeError, match=r"ConvNet is a model of your own"):
        network.save(tmp_path / "w.safetensors")
    for wrong, message in (
        ({}, r"was trained with a model of your own \('ConvNet'\).*model="),
        ({"model": Attention()}, r"with the model 'ConvNet', not with 'Attention'"),
        ({"model": ConvNet(3)}, r"of other shapes.*"),
    ):
        with pytest.raises(RunError, match=message):
            load(tmp_path / "run", **wrong)
    with pytest.raises(RunError, match=r"with the loss 'focal', not with the cross-entropy"):
        evaluate_run(tmp_path / "run", model=ConvNet())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": ConvNet(6)},
            r"ConvNet of other shapes(.|\n)*Conv_0.kernel: float32 \[3, 3, 3, 4\]",
        ),
        ({"model": None, "tx": None}, "architecture own: give your network as the argument model"),
        ({"tx": optax.sgd(0.1)}, r"started with the tx .*ScaleByAdamState.*not with the tx"),
        ({"loss": None}, r"started with the loss 'focal', not with no loss of its own"),
        ({"metrics": {}}, r"started with the metrics .*top3.*not with no metrics"),
        ({"augment": brighten}, r"started with no augment of its own, not with the augment 'bri"),
    ],
    ids=["shape", "none", "tx", "loss", "metrics", "augment"],
)
def test_other_parts_are_refused_on_resume(own, digits, tmp_path, change, message):
    parts = {"model": ConvNet(), "tx": TX, "loss": focal, "metrics": {"top3": top3}}
    recipe = dataclasses.replace(own, epochs=1)
    fit(recipe, digits, workdir=tmp_path / "run", **parts)
    before = (tmp_path / "run" / "config.json").read_bytes()
    more = dataclasses.replace(own, epochs=1, architecture="own", optimizer="own")
    with pytest.raises((RunError, RecipeError)) as caught:
        fit(more, digits, workdir=tmp_path / "run", resume=True, **(parts | change))
    assert caught.match(message) or any(map(message.__contains__, caught.value.args))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


class NoTrain(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images.mean((1, 2)))


class NineClasses(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(9)(images.mean((1, 2)))


class Weights(nn.Module):
    """Parameters with names and shapes of its own."""

    @nn.compact
    def __call__(self, images, *, train):
        pixels = images.mean((1, 2))
        return pixels @ self.param("w", nn.initializers.normal(), (3, 10))


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        ({"weight_decay": 0.5}, Weights(), "weight_decay 0.5 acts on parameters called kernel,"),
        ({"bias_scale": 64.0}, ConvNet(), "bias_scale 64.0 acts on the biases of modules that"),
        ({"optimizer": "muon"}, Weights(), "optimizer 'muon' acts on the kernels of convolutions"),
        ({"weight_decay": 0.5}, ConvNet(), None),
        ({"bias_scale": 64.0}, Normalised(), None),
        ({"optimizer": "muon", "weight_decay": 0.5}, Normalised(), None),
    ],
)
def test_a_setting_that_reaches_no_parameter_is_refused(own, digits, settings, model, message):
    recipe = dataclasses.replace(own, **({"optimizer": "sgd"} | settings))
    if message is None:
        plan_run(recipe, digits, parts=Parts(model=model))
    else:
        with pytest.raises(RecipeError, match=f"{message}.* has none: leave it at its default"):
            plan_run(recipe, digits, parts=Parts(model=model))
        # A run that an earlier version began.
        plan_run(recipe, digits, parts=Parts(model=model), resume=True)


class Remembers(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        self.variable("memory", "last", jnp.zeros, (3,))
        return nn.Dense(10)(images.mean((1, 2)))


class Broken(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(images @ jnp.zeros((7, 7)))


class Listed(nn.Module):
    sizes: object = dataclasses.field(default_factory=lambda: np.zeros(2))

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(images.mean((1, 2)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": NoTrain()}, "NoTrain takes no argument train"),
        ({"model": ConvNet}, "not the class: call it"),
        ({"model": "resnet"}, "must be a flax.linen module"),
        ({"model": NineClasses()}, r"return logits \[n, 10\].*digits.*float32 \[2, 9\]"),
        ({"model": Remembers()}, "variables in memory: only params and batch_stats"),
        ({"model": Broken()}, "Broken fails on images of 32x32 pixels: TypeError"),
        ({"model": Listed()}, "a field without a hash"),
        ({"loss": lambda a, b: focal(a, b).mean()}, r"the loss must be one number for each .*\[\]"),
        ({"loss": lambda a, b: 1.0}, "the loss must be one number.*returned float"),
        ({"loss": "focal"}, "loss must be a function, not 'focal'"),
        ({"metrics": {"top3": lambda a, b: a}}, r"metric top3 must be one number for each"),
        ({"metrics": {"top3": lambda a, b: (a == 0).sum()}}, r"metric top3 must be one number"),
        ({"metrics": {"loss": top3}}, "a metric cannot be called 'loss'"),
        ({"metrics": {"top 3": top3}}, "a metric cannot be called 'top 3'"),
        ({"augment": lambda keys, images, labels: images}, r"must return \(images, labels\)"),
        ({"augment": lambda k, x, y: (x, jnp.ones((len(y), 3)))}, r"distributions \[n, 10\]"),
        ({"augment": lambda k, x, y: (x[:, :16], y)}, r"keep the images \[4, 32, 32, 3\]"),
        ({"augment": lambda k, x, y: (1.0 * x, y)}, r"floats go from 0 to 25.: divide by 255"),
        ({"augment": lambda k, x, y: (x / 64 - 2, y)}, r"floats go from -2 to"),
        (
            {"augment": lambda k, x, y: (x / 255 / 255, y)},
            "nearly black.* 0.0039.*, and was 0.996 before",
        ),
        ({"augment": mixup, "loss": focal}, r"given distributions \[n, 10\] because augment mixes"),
        ({"tx": 0.1}, "tx must be an optax transformation, or a schedule"),
        ({"tx": lambda step: jnp.ones(3)}, "must return one rate"),
        ({"tx": optax.sgd}, "is the function .*sgd, not a transformation: call it with a rate"),
        ({"metrics": [top3]}, "metrics must be a dict of functions by name"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(
    own, digits, tmp_path, parts, message
):
    compiled = training_programs.cache_info().misses
    with pytest.raises(RecipeError, match=message):
        fit(own, digits, workdir=tmp_path / "run", **parts)
    assert not (tmp_path / "run").exists()
    assert training_programs.cache_info().misses == compiled


def test_nearly_black_images_of_a_run_that_has_begun_are_warned_of(own, digits):
    parts = make_parts(augment=lambda k, x, y: (x / 255 / 255, y))
    with pytest.warns(UserWarning, match="nearly black"):
        check_augmented(own.on(digits), parts, digits.train.images[:4], resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "w.pth", "new_head": True}, "weights 'w.pth' does not go with a network of "),
        ({"dropout_rate": 0.3}, "dropout_rate 0.3 does not go with a network of your own"),
        ({"width": 8}, "width 8 does not go"),
        ({"freeze": "all_but:fc", "bn": "frozen", "cache_features": True}, "bn|cache_features"),
        ({"learning_rate": 0.1}, "learning_rate 0.1 does not go with an optimizer of your own"),
        ({"optimizer": "own", "momentum": 0.5}, "momentum 0.5 does not go"),
        ({"optimizer": "sgd"}, "optimizer 'sgd' does not go with one of your own"),
        ({"architecture": "resnet50"}, "architecture 'resnet50' does not go with one of your own"),
        ({"label_smoothing": 0.1}, "label_smoothing 0.1 is of the recipe's cross-entropy"),
    ],
)
def test_settings_that_a_part_would_ignore_are_refused(own, digits, settings, message):
    with pytest.raises(RecipeError, match=message):
        fit(dataclasses.replace(own, **settings), digits, model=ConvNet(), tx=TX, loss=focal)


def test_rules_for_the_order_of_layers_are_for_built_in_networks(own, digits):
    for rules in ("up_to:Conv_0", "layer_decay:0.5", "freeze_a", "up-to:Conv_0", "layer-decay:0.5"):
        recipe = dataclasses.replace(own, architecture="own", freeze=rules)
        with pytest.raises(RecipeError, match="is for the built-in networks, whose layers"):
            fit(recipe, digits, model=ConvNet())


def test_pmap_refuses_what_would_see_a_share_of_the_batch(own, digits):
    devices = DeviceOptions(devices=1, parallel="pmap")
    if len(jax.devices()) < 2:
        from jaxcifar.devices.layout import AXIS, Layout
        from jaxcifar.recipes.parts import make_parts
        from jaxcifar.training.plan import check_pmap

        mesh = jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))
        layout = Layout("pmap", mesh)
        for parts in (make_parts(model=ConvNet()), make_parts(augment=mixup)):
            with pytest.raises(DeviceError, match="under pmap"):
                check_pmap(layout, parts)
    else:
        with pytest.raises(DeviceError, match="under pmap"):
            fit(own, digits, model=ConvNet(), devices=devices)


def test_numbers_change_without_compiling(recipe, digits, caplog):
    """Learning rate, decay, dropout, smoothing, momentum and augmentation are arguments."""
    first = dataclasses.replace(
        recipe,
        optimizer="sgd",
        weight_decay=0.01,
        label_smoothing=0.1,
        rotate_degrees=5.0,
        cutout_pixels=3,
        clip_norm=1.0,
        epochs=1,
    )
    other = dataclasses.replace(
        first,
        learning_rate=0.02,
        momentum=0.5,
        weight_decay=0.1,
        dropout_rate=0.5,
        label_smoothing=0.2,
        flip_rate=0.1,
        rotate_degrees=20.0,
        translate_pixels=4,
        cutout_pixels=8,
        clip_norm=0.5,
        seed=3,
    )
    _, before = fit(first, digits)
    with jax.log_compiles():
        _, after = fit(other, digits)
    compiled = [
        r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()
    ]
    assert not [line for line in compiled if "steps" in line or "random" in line]
    assert before.column("train_loss") != after.column("train_loss")


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.02},
        pytest.param({"dropout_rate": 0.6}, marks=SLOW),
        pytest.param({"flip_rate": 0.9}, marks=SLOW),
        {"translate_pixels": 5},
    ],
)
def test_a_run_that_shares_programs_has_the_numbers_of_one_alone(recipe, digits, change):
    from jaxcifar.training.stage import forget_programs

    other = dataclasses.replace(recipe, epochs=1, **change)
    forget_programs()
    alone, _ = fit(other, digits)
    forget_programs()
    fit(dataclasses.replace(recipe, epochs=1), digits)
    shared, _ = fit(other, digits)
    assert_trees_identical(shared, alone)


def test_zero_and_other_values_of_a_number_are_different_programs(recipe):
    """Nothing is computed for an augmentation, dropout or decay that is not asked for."""
    off = dataclasses.replace(recipe, flip_rate=0.0, translate_pixels=0, dropout_rate=0.0)
    assert make_stage(off).augment_batch is None


SCALE = 1.0


def scaled(logits, labels):
    return SCALE * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class Weighted:
    """A loss that is an object without a hash, whose number may change."""

    def __init__(self, weight):
        self.weight = weight

    __hash__ = None

    def __call__(self, logits, labels):
        return self.weight * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@pytest.mark.slow
def test_what_a_function_reads_may_change_between_two_calls(own, digits, monkeypatch):
    """As in a notebook: a compiled program keeps what it read when it was traced."""
    recipe, loss = dataclasses.replace(own, epochs=1, learning_rate=1e-9), Weighted(1.0)

    def train(loss):
        return fit(recipe, digits, model=ConvNet(), loss=loss)[1].rows[0]["validation_loss"]

    one, compiled = train(scaled), training_programs.cache_info().misses
    assert train(scaled) == one
    assert train(loss) == pytest.approx(one)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    loss.weight = 2.0
    assert train(scaled) == pytest.approx(3 * one, rel=1e-4)
    assert train(loss) == pytest.approx(2 * one, rel=1e-4)
    assert training_programs.cache_info().misses == compiled + 3


def test_the_moments_of_an_own_transformation_outlive_the_last_thaw(own, digits):
    recipe = dataclasses.replace(own, architecture="own", freeze="Conv_0=trained@2 *=trained")
    with pytest.warns(UserWarning, match="tx counts its steps once for all parameters"):
        state, _ = fit(recipe, digits, model=ConvNet(), tx=optax.adam(1e-2))
    (count,) = (leaf for name, leaf in named_leaves(state.opt_state).items() if "count" in name)
    assert int(count) == 6


@SLOW
@pytest.mark.parametrize(
    "wrong", [{"patience": 1, "patience_metric": "validation_acuracy"}, {"architecture": "own"}]
)
def test_a_sweep_that_cannot_run_replaces_nothing(recipe, digits, tmp_path, wrong):
    recipe = dataclasses.replace(recipe, epochs=1)
    where = {"workdir": tmp_path / "sweep", "mode": "sequential"}
    sweep(recipe, "seed", [0, 1], digits, **where)
    before = sorted(path for path in where["workdir"].rglob("*") if path.is_file())
    if "architecture" in wrong:
        recipe = Recipe(dataset="digits", train_size=120, validation_size=40, batch_size=40)
    recipe = dataclasses.replace(recipe, **wrong)
    with pytest.raises(RecipeError, match="patience_metric|architecture own"):
        sweep(recipe, "seed", [0, 1], digits, overwrite=True, **where)
    assert sorted(path for path in where["workdir"].rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("changes", [{"split_seed": 3}, {"stratified": True}])
def test_another_split_than_that_of_the_arrays_is_refused(changes):
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (100, 8, 8, 3), np.uint8), np.arange(100) % 2
    small = Recipe(batch_size=20, **changes)
    with pytest.raises(RecipeError, match="the arrays were split with .*: give it to Splits.from"):
        small.on(Splits.from_arrays(pair, 20))
    seed, stratified = small.split_seed, small.stratified
    same = small.on(Splits.from_arrays(pair, 20, seed=seed, stratified=stratified))
    assert (same.split_seed, same.stratified) == (seed, stratified)


def test_two_data_to_score_are_refused(digits, tmp_path):
    with pytest.raises(RecipeError, match="dataset 'digits' and splits are two data to score"):
        evaluate_run(tmp_path, splits=digits, dataset="digits")


def test_rules_for_a_network_of_ones_own_say_how_they_are_given(own, digits):
    with pytest.raises(RecipeError, match=r"Dense_0.*go with architecture='own'"):
        dataclasses.replace(own, freeze="all_but:Dense_0")
    recipe = dataclasses.replace(own, architecture="own", freeze="all_but:Dense_7")
    with pytest.raises(RecipeError, match=r"Dense_7.*Dense_0"):
        fit(recipe, digits, model=ConvNet())


def test_data_that_are_no_splits_say_how_to_make_them(own, digits):
    with pytest.raises(RecipeError, match=r"must be Splits, not tuple: .*Splits.from_arrays"):
        fit(own, (digits.train.images, digits.train.labels))


def test_a_preset_named_in_place_of_its_recipe_says_how_to_get_it(digits, tmp_path):
    named = r"a Recipe, not 'demo': get_experiment\('demo'\).recipe is that of a preset$"
    for call in (
        lambda: fit("demo", digits),
        lambda: load_splits("demo"),
        lambda: sweep("demo", "seed", [0], digits, workdir=tmp_path / "sweep"),
    ):
        with pytest.raises(RecipeError, match=named):
            call()
    with pytest.raises(RecipeError, match=r"a Recipe, not Splits: make one by"):
        fit(digits, "demo")


def test_a_sweep_over_data_that_are_no_splits_says_how_to_make_them(own, digits, tmp_path):
    with pytest.raises(RecipeError, match="must be Splits, not tuple"):
        sweep(own, "seed", [0], (digits.train, digits.test), workdir=tmp_path / "sweep")
