from dataclasses import replace

import pytest

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
            {"schedule": "constant", "schedule_unit": "epoch"},
            "schedule_unit",
            {"warmup_epochs": 1.0},
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
