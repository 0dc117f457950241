import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.common.errors import RecipeError
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.sides import (
    side_starts,
    sides_text,
    smallest_side,
    train_side,
    train_sides,
)
from jaxcifar.recipes.stage import make_stage, program_key, stage_epochs


def of(text, **changes):
    return Recipe(
        **({"dataset": "digits", "normalization": "half", "train_resize": text} | changes)
    )


def test_the_example_of_the_help():
    recipe = of("16 24@7 32@13")
    assert [train_side(recipe, epoch) for epoch in (1, 6, 7, 12, 13, 20)] == [
        *(16, 16, 24, 24, 32, 32)
    ]
    assert side_starts(recipe) == [7, 13]
    assert [stage_epochs(recipe, epoch) for epoch in (1, 6, 7, 20)] == [
        *((1, 6), (1, 6), (7, 12), (13, 20))
    ]
    assert smallest_side(recipe) == 16
    assert sides_text(recipe) == "16 pixels, 24 from epoch 7, 32 from epoch 13"
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_unset_it_is_the_networks_input_size():
    recipe = of(None, resize=48)
    assert (train_side(recipe, 1), side_starts(recipe)) == (48, [])
    assert stage_epochs(recipe, 1) == (1, recipe.epochs)


def test_an_older_config_has_no_such_field():
    old = Recipe().to_dict()
    del old["train_resize"]
    assert Recipe.from_dict(old) == Recipe()


def test_a_side_that_does_not_change_begins_no_stage():
    assert side_starts(of("16@1, 16@3\n32@5")) == [5]


@settings(max_examples=30, deadline=None)
@given(data=st.data(), count=st.integers(1, 4))
def test_every_epoch_has_the_last_side_that_has_begun(data, count):
    starts = data.draw(st.lists(st.integers(2, 20), min_size=count, max_size=count, unique=True))
    expected = {1: 32} | {start: data.draw(st.integers(1, 32)) for start in sorted(starts)}
    words = [f"{pixels}@{epoch}" for epoch, pixels in expected.items()]
    recipe = of(data.draw(st.sampled_from([" ", ", ", "\n"])).join(words))
    assert train_sides(recipe) == list(expected.items())
    side = 0
    for epoch in range(1, 21):
        side = expected.get(epoch, side)
        assert train_side(recipe, epoch) == side
        first, last = stage_epochs(recipe, epoch)
        assert {train_side(recipe, other) for other in range(first, last + 1)} == {side}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("small", "has 'small'; write SIDE, then SIDE@EPOCH"),
        ("16 24@", "has '24@'; write SIDE"),
        ("16.5", "has '16.5'; write SIDE"),
        ("16 24@7@9", "has '24@7@9'; write SIDE"),
        ("9" * 50, "write SIDE"),
        ("١٦ 32@3", "write SIDE"),  # digits, but not those that it is written in
        (" , ", "names no side; leave it unset"),
        ("0 32@3", "has a side of 0 pixels; a side is at least 1"),
        ("16 -4@3", "has a side of -4 pixels; a side is at least 1"),
        ("33", "a side of 33 pixels, larger than the network's input of 32; use 32 or less"),
        ("16 64@3", "a side of 64 pixels, larger than the network's input of 32"),
        ("24@7 32@13", "begins with 24@7, and epoch 1 has no side; write 24 first"),
        ("16 24 32@3", "has 24 without its first epoch; write 24@EPOCH"),
        ("16@0", "has 16@0; epochs count from 1"),
        ("16 24@7 32@7", "has epoch 7 after epoch 7; write the sides in the order"),
        ("16 24@7 32@3", "has epoch 3 after epoch 7"),
        ("16 24@1", "has epoch 1 after epoch 1"),
        ("16 32@21", "begins a side in epoch 21, and the run ends with epoch 20; leave"),
    ],
)
def test_a_text_that_the_run_cannot_follow_is_refused_in_one_line(text, message):
    with pytest.raises(RecipeError) as refused:
        of(text)
    assert message in str(refused.value)
    assert str(refused.value).startswith("train_resize '")
    assert "\n" not in str(refused.value)


def test_it_is_a_text():
    with pytest.raises(RecipeError, match="train_resize must be of type str, not 16"):
        of(16)


def test_the_full_size_is_that_of_resize():
    assert smallest_side(of("40 48@2", resize=48)) == 40
    with pytest.raises(RecipeError, match="larger than the network's input of 24"):
        of("32", resize=24)


def test_cached_features_are_of_one_size():
    settings = {"freeze": "freeze_b", "bn": "frozen", "cache_features": True}
    assert of(None, **settings).cache_features
    with pytest.raises(RecipeError, match="not go with cache_features.*--no-cache-features"):
        of("16 32@2", **settings)


def test_one_image_of_a_small_side_has_no_variance():
    settings = {"train_size": 129, "validation_size": 40, "batch_size": 128, "stem": "cifar"}
    assert of("16 32@2", **settings).train_resize
    with pytest.raises(RecipeError, match="leaves a batch of one image"):
        of("8 32@2", **settings)


def test_thawing_and_the_schedules_end_are_boundaries_too():
    recipe = of("16 32@5", freeze="fc=trained *=0.1@3", t_max=8.0, after_schedule="final")
    spans = [(1, 2), (3, 4), (5, 8), (9, 20)]
    assert [stage_epochs(recipe, epoch) for epoch, _ in spans] == spans
    same = of("16 32@3", freeze="fc=trained *=0.1@3")
    assert [stage_epochs(same, epoch) for epoch in (1, 3)] == [(1, 2), (3, 20)]


def test_training_images_are_shrunk_from_the_full_size_and_evaluation_keeps_it():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)), jnp.uint8)
    recipe = of("12 40@2", resize=40)
    for epoch, side in ((1, 12), (2, 40)):
        stage = make_stage(recipe, epoch)
        assert stage.preprocess(images).shape == (2, 40, 40, 3)
        full = jax.image.resize(images / 255, (2, 40, 40, 3), "bilinear")
        small = jax.image.resize(full, (2, side, side, 3), "bilinear")
        np.testing.assert_allclose(stage.train_preprocess(images), 2 * small - 1, atol=1e-5)


def test_programs_of_other_sides_have_other_keys():
    keys = {program_key(of(text)) for text in (None, "16 32@2", "16 32@3", "24 32@2", "16")}
    assert len(keys) == 5
    assert program_key(of("16 32@2")) == program_key(
        dataclasses.replace(of("16 32@2"), learning_rate=0.5)
    )
