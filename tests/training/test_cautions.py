"""What is warned of: each case beside its nearest one that is in order."""

from dataclasses import replace

import flax.linen as nn
import pytest

from jaxcifar.recipes.own import with_parts
from jaxcifar.recipes.parts import Parts
from jaxcifar.training.cautions import of_muon, of_warm_up
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
