"""What is warned of: each case beside its nearest one that is in order."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxcifar.recipes.own import with_parts
from jaxcifar.recipes.parts import Parts
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.freeze import labels_at
from jaxcifar.step.optimizer import carry_over, for_labels, make_optimizer
from jaxcifar.training.cautions import of_muon, of_thawing, of_warm_up
from jaxcifar.training.console import random_and_frozen
from jaxcifar.training.plan import plan_run


class Net(nn.Module):
    """A convolution, perhaps with a normalization, and a head."""

    norm: nn.Module | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(4, (3, 3))(x)
        if self.norm is not None:
            x = self.norm(x)
        return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.parametrize(
    ("epochs", "warm_up", "warned"),
    [(3, 3.2, True), (3, 3.0, True), (4, 3.2, False), (1, 0.0, False)],
)
def test_a_warm_up_as_long_as_the_run(recipe, epochs, warm_up, warned):
    text = of_warm_up(replace(recipe, epochs=epochs, warmup_epochs=warm_up))
    assert (text is not None) is warned
    if warned:
        assert f"warmup_epochs {warm_up:g}" in text
        assert f"{epochs} epochs" in text


@pytest.mark.parametrize(
    ("model", "warned"),
    [
        (Net(), True),
        (Net(nn.BatchNorm(use_running_average=True)), False),
        (Net(nn.BatchNorm(use_running_average=True, use_scale=False)), False),
        (Net(nn.GroupNorm(2)), False),
    ],
)
def test_muon_without_a_normalization(recipe, model, warned):
    recipe = replace(recipe, architecture="resnet18", width=64, dropout_rate=0.0, optimizer="muon")
    recipe, parts = with_parts(recipe, Parts(model=model))
    assert (of_muon(recipe, parts) is not None) is warned
    assert of_muon(replace(recipe, optimizer="sgd"), parts) is None


OWN_TX = {"learning_rate": Recipe.learning_rate, "t_max": None}


@pytest.mark.parametrize(
    ("freeze", "tx", "warned"),
    [
        ("fc=trained *=trained@2", optax.adam(1e-3), True),
        ("fc=trained *=0.1@2", optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0)), True),
        ("fc=trained *=0.1", optax.adam(1e-3), False),
        ("fc=trained *=trained@2", optax.sgd(lambda count: 0.1, momentum=0.9), False),
        ("fc=trained *=trained@2", lambda count: 0.1, False),
    ],
)
def test_an_own_adam_with_one_count_for_what_thaws_later(recipe, freeze, tx, warned):
    recipe, parts = with_parts(replace(recipe, freeze=freeze, **OWN_TX), Parts(tx=tx))
    text = of_thawing(recipe, parts)
    assert (text is not None) is warned
    if warned:
        assert f"'{freeze}' thaws in epoch 2 begin with empty moments" in text


def test_one_count_makes_steps_six_times_too_large_and_one_a_label_does_not():
    """What the warning says of Adam, and of the recipe's optimizer."""
    labels, params = {"a": "trained", "b": "trained@2"}, {"a": jnp.ones(1), "b": jnp.ones(1)}

    def largest_step(make):
        """Of what thaws after 10,000 steps, by gradients that are all 1."""

        def step(state, _):
            updates, state = tx.update(params, state, params)
            return state, -updates["b"][0]

        tx = make(labels_at(labels, 1))
        state, _ = jax.lax.scan(step, tx.init(params), length=10_000)
        tx = make(labels)
        return float(jax.lax.scan(step, carry_over(state, tx.init(params)), length=50)[1].max())

    def of_recipe(labels):
        return make_optimizer("adam", lambda step: 1.0, labels=labels, steps_per_epoch=10_000)

    assert largest_step(of_recipe) == pytest.approx(1, rel=1e-3)
    own = largest_step(lambda labels: for_labels(optax.adam(1.0), labels))
    assert own == pytest.approx(6.6, abs=0.1)


def test_a_built_in_network_has_batch_norm(recipe):
    assert of_muon(replace(recipe, optimizer="muon"), Parts()) is None


def test_a_plan_warns(recipe, digits):
    with pytest.warns(UserWarning, match="lower --warmup-epochs"):
        plan_run(replace(recipe, warmup_epochs=3.0), digits)


@pytest.mark.parametrize(
    ("freeze", "changes", "named"),
    [
        ("up_to:layer1", {"weights": "some.safetensors"}, None),
        ("none", {}, None),
        ("up_to:layer1", {}, "conv1, layer1"),
        ("conv1=frozen *=trained", {}, "conv1"),
        ("bn1=frozen *=trained", {}, None),  # its scale is one, not random
        ("conv1=trained@2 *=trained", {}, None),
        ("conv1=frozen *=trained", {"stem": "cifar", "whiten": True}, None),
        ("up_to:layer1", {"stem": "cifar", "whiten": True}, "layer1"),
        ("layer1.0.conv1=frozen *=trained", {}, "layer1.0.conv1"),
    ],
)
def test_random_kernels_that_are_never_trained_are_named(recipe, freeze, changes, named):
    recipe = replace(recipe, freeze=freeze, **changes)
    lines = random_and_frozen(recipe, recipe.make_labels())
    assert lines == (
        []
        if named is None
        else [f"frozen at their random initial values: {named}; --weights names trained ones"]
    )
