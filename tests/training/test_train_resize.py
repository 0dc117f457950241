"""Training on smaller images first, as stages of a run."""

import dataclasses
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import count_flops
from jaxcifar.common.errors import RecipeError
from jaxcifar.devices.processes import DeviceOptions
from jaxcifar.models.names import named_leaves
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step.augment import make_normalize, unit_range
from jaxcifar.step.metrics import compute
from jaxcifar.step.state import Draw, draw_key, state_shapes
from jaxcifar.step.steps import make_train_step
from jaxcifar.training import stage
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.fit import fit
from jaxcifar.training.plan import plan_run
from jaxcifar.training.stage import (
    evaluation_programs,
    forget_programs,
    streamed_scoring,
    training_programs,
)
from jaxcifar.training.start import first_state
from tests.conftest import assert_trees_identical
from tests.training.test_fit import Stop, numbers, stop_after


@pytest.fixture
def growing(recipe):
    """Two epochs on 12 pixels, one on all 32."""
    return dataclasses.replace(recipe, train_resize="12 32@3")


class Pooled(nn.Module):
    """A network for images of any size."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(nn.relu(nn.Conv(4, (3, 3))(images)).mean((1, 2)))


class Flat(nn.Module):
    """A network for images of one size."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(images.reshape(len(images), -1))


def by_hand(recipe, splits, sides, augment=None):
    """(final state, loss of each epoch) of steps one by one, shrunk by JAX's own resizing."""
    state = first_state(recipe, splits)
    images, labels = jnp.asarray(splits.train.images), jnp.asarray(splits.train.labels)
    normalize, own = make_normalize(recipe.normalization), augment or (lambda k, x, y: (x, y))
    step = jax.jit(
        make_train_step(recipe.make_model(), recipe.make_optimizer(), normalize=normalize)
    )
    losses = []
    for epoch, side in enumerate(sides):
        order = jax.random.permutation(draw_key(state.key, Draw.ORDER, epoch), len(labels))
        key = draw_key(state.key, Draw.AUGMENT, epoch % (recipe.views or len(sides)))
        total = 0.0
        for index in order.reshape(-1, recipe.batch_size):
            keys = jax.vmap(lambda i, key=key: jax.random.fold_in(key, i))(index)
            own_keys = jax.vmap(lambda key: jax.random.fold_in(key, 4))(keys)
            full, label = own(own_keys, recipe.make_augment()(keys, images[index]), labels[index])
            shape = (len(index), side, side, 3)
            shrunk = jax.image.resize(unit_range(full), shape, "bilinear", antialias=True)
            state, sums = step(state, {"image": shrunk, "label": label})
            total += compute(sums)["loss"]
        losses.append(total / recipe.steps_per_epoch)
    return state, losses


def assert_close(state, history, expected):
    by_hand_state, losses = expected
    assert history.column("train_loss") == pytest.approx(losses, rel=1e-5)
    for name, leaf in named_leaves(by_hand_state.params).items():
        np.testing.assert_allclose(named_leaves(state.params)[name], leaf, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("input", ["resident", "stream"])
def test_a_run_is_the_loop_by_hand(growing, digits, input):
    state, history = fit(growing, digits, devices=DeviceOptions(input=input))
    assert_close(state, history, by_hand(growing, digits, (12, 12, 32)))


@pytest.mark.slow
def test_views_are_taken_in_turn_on_every_side(growing, digits):
    viewed = dataclasses.replace(growing, views=1, epochs=2, train_resize="12 32@2")
    assert_close(*fit(viewed, digits), by_hand(viewed, digits, (12, 32)))


def noisy(keys, images, labels):
    """An own augmentation at the full size, which returns floats."""
    assert images.shape[1:] == (32, 32, 3)
    noise = jax.vmap(lambda key: 0.1 * jax.random.normal(key, (32, 32, 3)))(keys)
    return unit_range(images) + noise, labels


@pytest.mark.slow
def test_an_own_augmentation_sees_the_full_size(growing, digits):
    short = dataclasses.replace(growing, epochs=2, train_resize="12 32@2")
    state, history = fit(short, digits, augment=noisy)
    assert_close(state, history, by_hand(short, digits, (12, 32), noisy))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"freeze": "fc=trained *=0.1@2", "clip_norm": 0.5}])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(growing, digits, tmp_path, changes):
    """Stopped in the middle of a stage, and at its boundary."""
    growing = dataclasses.replace(growing, **changes)
    whole, history = fit(growing, digits)
    for stop in (1, 2):
        run = tmp_path / str(stop)
        with pytest.raises(Stop):
            fit(growing, digits, workdir=run, on_epoch=stop_after(stop))
        state, resumed = fit(growing, digits, workdir=run, resume=True)
        assert_trees_identical(state, whole)
        assert numbers(resumed) == numbers(history)


@pytest.mark.slow
def test_the_text_of_the_full_size_is_the_run_without_it(recipe, digits):
    plain, history = fit(recipe, digits)
    named, same = fit(dataclasses.replace(recipe, train_resize="32"), digits)
    assert_trees_identical(named, plain)
    assert numbers(same) == numbers(history)


def test_each_side_has_its_program_and_a_second_run_has_them_too(growing, digits):
    forget_programs()
    fit(growing, digits)
    assert (training_programs.cache_info().misses, training_programs.cache_info().hits) == (2, 0)
    # Validation is at the full size on either: the second side finds it compiled.
    assert (evaluation_programs.cache_info().misses, evaluation_programs.cache_info().hits) == (
        1,
        1,
    )
    fit(dataclasses.replace(growing, seed=1, learning_rate=0.1), digits)
    assert (training_programs.cache_info().misses, training_programs.cache_info().hits) == (2, 2)


def test_the_images_go_to_the_device_once(growing, digits):
    sizes = []

    def put(source, layout):
        sizes.append(len(source))
        return to_device(source, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "to_device", put)
        fit(growing, digits)
    assert sizes == [120, 40]


def test_the_sides_share_the_scoring_of_images_that_are_read_from_the_host(growing, digits):
    forget_programs()
    fit(growing, digits, devices=DeviceOptions(input="stream"))
    assert (streamed_scoring.cache_info().misses, streamed_scoring.cache_info().hits) == (1, 1)


def test_a_smaller_side_takes_fewer_flops(growing):
    batch = {
        "image": jax.ShapeDtypeStruct((40, 32, 32, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((40,), jnp.int32),
    }
    growing = dataclasses.replace(growing, stem="cifar", width=16, train_resize="16 32@3")
    state = state_shapes(growing.make_model(), growing.make_optimizer(), image_size=32)
    small, large = (
        count_flops(make_stage(growing, epoch).make_train_step(), state, batch) for epoch in (1, 3)
    )
    assert small < 0.4 * large  # a quarter of the pixels, and the shrinking


def for_own(text):
    settings = {"flip_rate": 0.5, "train_resize": text, "epochs": 3, "batch_size": 40}
    sizes = {"train_size": 120, "validation_size": 40}
    return Recipe(dataset="digits", normalization="half", **sizes, **settings)


def test_an_own_network_is_tried_on_every_side(digits, tmp_path):
    message = "Flat with train=True on a side of train_resize '12 32@3' fails on images of 12x12"
    with pytest.raises(RecipeError, match=message):
        fit(for_own("12 32@3"), digits, model=Flat(), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_own_network_of_any_size_trains_on_every_side(digits):
    recipe = for_own("8 16@2 32@3")
    _, history = fit(recipe, digits, model=Pooled())
    assert all(np.isfinite(history.column("train_loss")))


def test_a_run_that_ends_on_smaller_images_is_told(digits, recipe):
    small = dataclasses.replace(recipe, train_resize="12 16@2")
    with pytest.warns(UserWarning, match="ends with training images of 16 pixels, and .* at 32"):
        plan_run(small, digits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_run(dataclasses.replace(small, train_resize="12 32@2"), digits)
        plan_run(recipe, digits)


@pytest.mark.slow
def test_the_sides_are_printed(growing, digits, capsys):
    fit(growing, digits, verbose=True)
    assert (
        "training images: 12 pixels, 32 from epoch 3; evaluation: 32 pixels"
        in capsys.readouterr().out
    )
