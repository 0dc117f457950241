"""Data that are not those which a recipe knows."""

from dataclasses import replace

import pytest

from jaxcifar.common.errors import RecipeError
from jaxcifar.recipes import splits
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits


@pytest.mark.parametrize("described", [True, False])
def test_data_prepared_anew_are_compared_with_those_of_a_run(monkeypatch, described):
    recipe = Recipe(dataset="digits", batch_size=8)
    info = recipe.dataset_info
    names = ("zero", *info.class_names[1:])
    changed = replace(info, test=3, validation=4, class_names=names)
    monkeypatch.setattr(splits, "dataset_info", lambda *_, **__: changed)
    stored = Recipe.from_dict(recipe.to_dict(), info if described else None)
    with pytest.raises(RecipeError) as caught:
        load_splits(stored, "/data")
    first, *others = caught.value.args
    assert first.startswith("digits in /data ")
    if not described:
        assert "set TFDS_DATA_DIR=/data" in first
        return
    assert (
        "has other data than the run was trained on (images of a validation split: 4, not none; "
        "test images: 3, not 360; classes): put those back, or name their place with --data-dir"
    ) in first
    assert [line.split(", ")[0] for line in others] == ["  the run: 0", "  the data: zero"]
