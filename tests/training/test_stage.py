import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.common.errors import FeatureError
from jaxcifar.models.names import named_leaves
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step.state import state_shapes
from jaxcifar.training import features, run
from jaxcifar.training.fit import fit
from jaxcifar.training.plan import check_stages, plan_run
from jaxcifar.training.stage import begin_stage, forget_programs, training_programs
from tests.conftest import assert_trees_identical
from tests.training.test_fit import Stop, numbers, stop_after


def changed(recipe, **settings):
    return dataclasses.replace(recipe, **settings)


@pytest.fixture
def plain(recipe):
    """Without augmentation, and with the first layers frozen, including their BatchNorms."""
    return changed(
        recipe,
        flip_rate=0.0,
        translate_pixels=0,
        freeze="freeze_a",
        bn="frozen",
    )


def assert_same_run(a, b, tolerance):
    for one, other in zip(a.rows, b.rows, strict=True):
        for name in ("train_loss", "validation_loss"):
            assert one[name] == pytest.approx(other[name], rel=tolerance), name


@pytest.mark.slow
def test_runs_that_differ_only_in_the_seed_share_programs_and_keep_their_numbers(recipe, digits):
    other = changed(recipe, seed=recipe.seed + 1)
    alone, _ = fit(other, digits)
    forget_programs()
    fit(recipe, digits)
    shared, _ = fit(other, digits)
    assert_trees_identical(shared, alone)
    assert training_programs.cache_info().hits == 1
    fit(changed(other, batch_size=30), digits)
    assert training_programs.cache_info().misses == 2


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_a_gpu_gets_plain_bfloat16_convolutions_with_channels_last(recipe, monkeypatch, stem):
    """The step is lowered for a GPU, which is possible without one."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    recipe = changed(recipe, stem=stem, dtype="bfloat16", optimizer="muon", bias_scale=16.0)
    step = make_stage(recipe).make_train_step()
    state = state_shapes(recipe.make_model(1), recipe.make_optimizer(1), image_size=32)
    batch = {
        "image": jax.ShapeDtypeStruct((40, 32, 32, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((40,), jnp.int32),
    }
    program = jax.jit(step).trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 3 + 3 + 2  # the images have no gradient
    for line in convolutions:
        assert set(re.findall(r"x(bf16|f32)>", line)) == {"bf16"}, line
    plain = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert sum(plain in line for line in convolutions) >= 3
    # The statistics are float32 sums over feature maps.
    maps = re.findall(r"stablehlo\.reduce\(.*\(tensor<(?:\d+x){4}(\w+)>", program)
    assert set(maps) - {"i1"} == {"f32"}  # i1: the check that all numbers are finite


@pytest.mark.parametrize("freeze", [pytest.param("conv1 bn1", marks=pytest.mark.slow), "freeze_b"])
def test_a_run_on_cached_features_equals_the_run_on_images(plain, digits, freeze):
    plain = changed(plain, freeze=freeze, batch_size=50)
    state, history = fit(plain, digits)
    cached_state, cached = fit(changed(plain, cache_features=True), digits)
    assert_same_run(cached, history, 1e-5)
    for name, leaf in named_leaves(state.params).items():
        np.testing.assert_allclose(named_leaves(cached_state.params)[name], leaf, atol=1e-5)
    stats, cached_stats = state.batch_stats, cached_state.batch_stats
    for name, leaf in named_leaves(stats).items():
        np.testing.assert_allclose(named_leaves(cached_stats)[name], leaf, atol=1e-5)
    assert_trees_identical(cached_stats["bn1"], stats["bn1"])


def test_features_are_cached_for_an_optimizer_of_ones_own(plain, digits):
    rate = {"learning_rate": Recipe.learning_rate, "t_max": None}
    cached = changed(plain, freeze="all_but:fc", cache_features=True, epochs=1, **rate)
    _, history = fit(cached, digits, tx=optax.adam(1e-3))
    assert np.isfinite(history.rows[0]["train_loss"])


@pytest.mark.slow
def test_a_run_on_cached_views_equals_the_run_that_takes_its_views_in_turn(plain, digits):
    viewed = changed(plain, flip_rate=0.5, translate_pixels=2, views=2, epochs=4)
    _, history = fit(viewed, digits)
    _, cached = fit(changed(viewed, cache_features=True), digits)
    assert_same_run(cached, history, 1e-5)
    _, fresh = fit(changed(viewed, views=None), digits)
    assert numbers(fresh)[:2] == numbers(history)[:2]
    assert numbers(fresh)[2] != numbers(history)[2]


def test_a_layer_thaws_in_its_epoch(plain, digits):
    thawing = changed(plain, freeze="fc=trained layer1=0.1@2 *=frozen", epochs=2)
    seen = {}

    def keep(row):
        seen[row["epoch"]] = row

    short, _ = fit(changed(thawing, freeze="all_but:fc", epochs=1), digits)
    state, history = fit(thawing, digits, on_epoch=keep)
    _, first = fit(changed(thawing, freeze="all_but:fc"), digits)
    assert numbers(history)[0] == numbers(first)[0]
    moved = {
        name
        for name, leaf in named_leaves(state.params).items()
        if not np.array_equal(leaf, named_leaves(short.params)[name])
    }
    assert {name.split(".")[0] for name in moved} == {"fc", "layer1"}
    # The statistics of layer1 are frozen until then.
    stats, before = named_leaves(state.batch_stats), named_leaves(short.batch_stats)
    changed_stats = {n.split(".")[0] for n in stats if not np.array_equal(stats[n], before[n])}
    assert changed_stats == {"layer1"}


@pytest.mark.slow
def test_a_resumed_thawing_run_is_bit_identical_to_an_uninterrupted_one(plain, digits, tmp_path):
    """Stopped before a layer thaws, at that moment, and after it."""
    thawing = changed(
        plain,
        freeze="fc=trained layer1=0.1@3 *=frozen",
        epochs=4,
        cache_features=True,
        clip_norm=0.5,
        log_gradient_norm=True,
    )
    whole, history = fit(thawing, digits)
    assert all(row["gradient_norm"] > 0 for row in history.rows)
    for stop in (1, 2, 3):
        run = tmp_path / str(stop)
        with pytest.raises(Stop):
            fit(thawing, digits, workdir=run, on_epoch=stop_after(stop))
        state, resumed = fit(thawing, digits, workdir=run, resume=True)
        assert_trees_identical(state, whole)
        assert numbers(resumed) == numbers(history)


def test_features_that_do_not_fit_are_refused_before_anything_is_written(
    plain, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "free_memory", lambda: 1000)
    with pytest.raises(FeatureError, match="start a run with fewer views or images"):
        fit(changed(plain, cache_features=True), digits, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_stages(plain, digits)


@pytest.mark.slow
def test_the_time_of_caching_counts_for_the_first_epoch(plain, digits, monkeypatch):
    cached = changed(plain, cache_features=True, epochs=1)
    state, _ = fit(changed(plain, epochs=1), digits)
    stage, _ = begin_stage(plan_run(cached, digits), state, 1)
    assert stage.caching_seconds > 0

    def slow(*args, **kwargs):
        stage, state = begin_stage(*args, **kwargs)
        return stage._replace(caching_seconds=1000.0), state

    monkeypatch.setattr(run, "begin_stage", slow)
    _, history = fit(cached, digits)
    assert history.rows[0]["seconds"] > 1000
    assert history.rows[0]["images_per_second"] < 1
