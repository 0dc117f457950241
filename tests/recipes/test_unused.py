from dataclasses import replace

import flax.linen as nn
import pytest

from jaxcifar.common.errors import RecipeError
from jaxcifar.recipes.own import check_reached, with_parts
from jaxcifar.recipes.parts import Parts
from jaxcifar.recipes.presets import EXPERIMENTS, get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.unused import unused_settings, why_unused


@pytest.mark.parametrize(
    ("settings", "name", "beside"),
    [
        ({"momentum": 0.5}, "momentum", {"optimizer": "sgd"}),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum", {"optimizer": "muon"}),
        ({"schedule": "constant", "t_max": 3.0}, "t_max", {"schedule": "cosine"}),
        ({"schedule": "constant", "final_scale": 0.1}, "final_scale", {"schedule": "triangular"}),
        (
            {"schedule": "constant", "schedule_unit": "epoch", "warmup_epochs": 1.0},
            "schedule_unit",
            {"schedule": "cosine"},
        ),
        ({"interpolation": "bilinear"}, "interpolation", {"rotate_degrees": 5.0}),
        ({"translate_fill": "reflect"}, "translate_fill", {"translate_pixels": 2}),
    ],
)
def test_a_setting_without_that_which_it_is_for_is_named(settings, name, beside):
    recipe = Recipe(**settings)
    assert list(unused_settings(recipe)) == [name]
    assert why_unused(recipe, name)
    assert unused_settings(replace(recipe, **beside)) == {}


def test_no_preset_has_one():
    for name in EXPERIMENTS:
        assert unused_settings(get_experiment(name).recipe) == {}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"freeze": "freeze_b", "optimizer": "muon", "bias_scale": 16.0}, ["bias_scale", "opt"]),
        ({"freeze": "bn1", "optimizer": "muon"}, []),
        ({"freeze": "layer1=trained@2 fc=trained *=frozen", "bias_scale": 16.0}, []),
        ({"freeze": "all_but:bn1", "optimizer": "sgd", "weight_decay": 0.1}, ["weight_decay"]),
        ({"freeze": "freeze_b", "optimizer": "sgd", "weight_decay": 0.1}, []),
        ({"freeze": "fc", "optimizer": "muon", "weight_decay": 0.1}, ["weight_decay"]),
        ({"optimizer": "muon", "weight_decay": 0.1, "bias_scale": 16.0}, []),
    ],
)
def test_a_setting_for_what_freeze_takes_away_is_named(recipe, settings, names):
    found = unused_settings(replace(recipe, **settings))
    assert [name[:3] for name in found] == [name[:3] for name in names]
    assert all("trains none of them" in text for text in found.values())


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"optimizer": "muon"}, "optimizer 'muon' acts on the kernels of convolutions"),
        ({"bias_scale": 16.0}, "bias_scale 16.0 acts on the biases"),
        ({"optimizer": "muon", "freeze": "BatchNorm_0"}, None),
        ({"bias_scale": 16.0, "freeze": "BatchNorm_0=trained@2 *=trained"}, None),
        (
            {"optimizer": "sgd", "weight_decay": 0.1, "freeze": "all_but:BatchNorm_0"},
            "weight_decay 0.1 acts on parameters called kernel",
        ),
    ],
)
def test_for_an_own_network_it_is_refused(recipe, settings, refused):
    built_in = {"architecture": "resnet18", "width": 64, "dropout_rate": 0.0}
    changed = replace(recipe, **built_in)
    changed, _ = with_parts(changed, Parts(model=Net()))
    changed = replace(changed, **({"freeze": "all_but:Dense_0"} | settings))
    if refused is None:
        check_reached(Net(), changed)
        return
    with pytest.raises(RecipeError, match=f"{refused}.* has none that freeze 'all_but:.* trains: "):
        check_reached(Net(), changed)
