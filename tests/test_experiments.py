import pytest

from jaxcifar.experiments import EXPERIMENTS, get_experiment
from jaxcifar.recipe import RecipeError


def test_dash_and_underscore_are_the_same(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "two_words", EXPERIMENTS["demo"])
    assert get_experiment("two-words") is get_experiment("two_words")


def test_an_unknown_experiment_has_its_nearest_name():
    with pytest.raises(RecipeError, match="'scrach'; did you mean 'scratch'"):
        get_experiment("scrach")
    with pytest.raises(RecipeError, match="choose from demo, scratch"):
        get_experiment("xyzzy")
