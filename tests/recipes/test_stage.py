import dataclasses
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.common.errors import RecipeError
from jaxcifar.recipes.numbers import numbers_of
from jaxcifar.recipes.own import with_parts
from jaxcifar.recipes.parts import make_parts
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage, program_key
from jaxcifar.step.state import init_state, state_shapes
from tests.conftest import assert_trees_identical

N = 8
BATCH = {
    "image": jax.ShapeDtypeStruct((N, 32, 32, 3), jnp.uint8),
    "label": jax.ShapeDtypeStruct((N,), jnp.int32),
}
MASK = {"mask": jax.ShapeDtypeStruct((N,), jnp.bool_)}


class Dense(nn.Module):
    """An own network."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(nn.relu(nn.Dense(4)(images.reshape(len(images), -1))))


def mix(keys, images, labels):
    """An own augmentation that multiplies a matrix: each image is half its neighbour."""
    weights = 0.5 * (jnp.eye(len(images)) + jnp.roll(jnp.eye(len(images)), 1, 0))
    mixed = (weights @ images.reshape(len(images), -1).astype(jnp.float32)).reshape(images.shape)
    return mixed / 255, labels


def squares(logits, labels):
    """An own loss with a product in it."""
    errors = logits - jax.nn.one_hot(labels, logits.shape[-1])
    return jnp.diag(errors @ errors.T)


def whitened(gradients, *_):
    """An own optimizer with products in it."""
    return jax.tree.map(lambda g: -1e-3 * (g @ (g.T @ g) if g.ndim == 2 else g), gradients)


OWN = {
    "model": Dense(),
    "loss": squares,
    "augment": mix,
    "tx": optax.stateless(whitened),
}


ALL_OWN = {"architecture": "own", "optimizer": "own", "learning_rate": 0.01, "t_max": None}
ALL_OWN |= {"dropout_rate": 0.0, "width": 64}


def products(function, arguments, platform):
    """The lines of a lowered program that multiply matrices or convolve."""
    with jax.default_matmul_precision(None):  # the tests' own setting
        traced = jax.jit(function).trace(*arguments)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    return [line for line in text.splitlines() if re.search("dot_general|convolution", line)]


def programs(recipe, parts, platform):
    """Those lines of the train step, the augmentation and the evaluation step."""
    stage = make_stage(recipe, 1, parts)
    state = state_shapes(stage.model, stage.tx, image_size=32)
    lines = {"train": products(stage.make_train_step(), (state, BATCH), platform)}
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    evaluation = (variables, BATCH | MASK)
    lines["evaluation"] = products(stage.make_eval_step(), evaluation, platform)
    if parts.augment is not None:
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), N))
        arguments = (keys, BATCH["image"], BATCH["label"])
        lines["augmentation"] = products(stage.augment_batch, arguments, platform)
    return lines


@pytest.mark.parametrize(
    ("platform", "changes", "own"),
    [
        ("cuda", {"stem": "cifar", "optimizer": "muon", "clip_norm": 1.0}, ()),
        ("cpu", {"width": 16, "head": "sequential"}, ()),  # with the forms of a CPU
        ("cuda", {"flip_rate": 0.0, "translate_pixels": 0}, ("augment", "loss")),
        ("cuda", ALL_OWN, tuple(OWN)),
    ],
)
def test_the_precision_is_that_of_every_product_and_convolution(
    recipe, monkeypatch, platform, changes, own
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if platform == "cuda" else "cpu")
    exact = dataclasses.replace(recipe, precision="highest", **changes)
    exact, parts = with_parts(exact, make_parts(**{name: OWN[name] for name in own}))
    found = programs(exact, parts, platform)
    plain = programs(dataclasses.replace(exact, precision="default"), parts, platform)
    for name, lines in found.items():
        assert len(lines) == len(plain[name]) > 0
        assert all(line.count("HIGHEST") == 2 for line in lines), name
        assert not any("HIGHEST" in line for line in plain[name]), name


def test_on_a_cpu_the_precision_changes_no_bit(recipe):
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (N, 32, 32, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, N), jnp.int32),
    }
    found = {}
    for precision in ("default", "highest"):
        stage = make_stage(dataclasses.replace(recipe, precision=precision, stem="cifar"))
        state = init_state(stage.model, stage.tx, seed=0, image_size=32)
        with jax.default_matmul_precision(None):  # the tests' own setting
            step = jax.jit(stage.make_train_step())
            for _ in range(2):
                state, _ = step(state, batch)
        found[precision] = state
    assert_trees_identical(found["default"], found["highest"])


NEW = {
    "batch_norm_decay": (0.9, 0.6),
    "precision": ("default", "highest"),
    "translate_fill": ("zero", "reflect"),
    "test_shift_pixels": (0, 1),
}


@pytest.mark.parametrize("name", NEW)
def test_a_change_of_a_setting_that_is_no_number_has_programs_of_its_own(recipe, name):
    keys = [program_key(dataclasses.replace(recipe, **{name: value})) for value in NEW[name]]
    assert keys[0] == program_key(recipe), "the default"
    assert keys[0] != keys[1]
    further = {"batch_norm_decay": 0.7, "test_shift_pixels": 2}.get(name)
    if further is not None:
        assert program_key(dataclasses.replace(recipe, **{name: further})) != keys[1]


def test_the_amount_of_a_reflecting_shift_is_a_number_of_one_program(recipe):
    small, large = (
        dataclasses.replace(recipe, translate_fill="reflect", translate_pixels=n) for n in (2, 5)
    )
    assert program_key(small) == program_key(large)
    assert int(numbers_of(large)["translate_pixels"]) == 5
    images = jnp.asarray(np.random.default_rng(0).integers(1, 256, (N, 8, 8, 3)), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), N)

    @jax.jit
    def program(numbers):
        return program_key(small).recipe.with_traced(**numbers).make_augment()(keys, images)

    for each in (small, large):
        expected = jax.jit(each.make_augment())(keys, images)
        np.testing.assert_array_equal(program(numbers_of(each)), expected)
    assert program._cache_size() == 1


@pytest.mark.parametrize("after", ["final", "restart"])
@pytest.mark.parametrize("t_max", [None, 2.5])
def test_a_run_that_begins_with_the_choice_is_compiled_as_if_it_went_on(recipe, after, t_max):
    """Nothing comes after its schedule's end yet, and more epochs may."""
    short = dataclasses.replace(recipe, epochs=2, t_max=t_max, after_schedule=after)
    longer = dataclasses.replace(short, epochs=4, t_max=t_max or 2.0)

    def program(recipe, epoch):
        schedule = make_stage(recipe, epoch).recipe.make_schedule()
        return str(jax.make_jaxpr(schedule)(jnp.int32(0)))

    assert program(short, 1) == program(longer, 1) != program(longer, 4)


def test_a_config_without_the_new_settings_reads_as_before(recipe, tmp_path):
    old = {name: value for name, value in recipe.to_dict().items() if name not in NEW}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"recipe": old}))
    read = Recipe.from_dict(json.loads(path.read_text())["recipe"])
    assert read == recipe
    assert {name: getattr(read, name) for name in NEW} == {name: NEW[name][0] for name in NEW}
    assert make_stage(read).model == make_stage(recipe).model


def test_the_decay_is_of_the_built_in_networks_and_the_others_are_of_all(recipe):
    own = {"architecture": "own", "width": 64, "dropout_rate": 0.0}
    with pytest.raises(
        RecipeError, match="batch_norm_decay 0.6 does not go with a network of your own"
    ):
        dataclasses.replace(recipe, **own, batch_norm_decay=0.6)
    others = {name: values[1] for name, values in NEW.items() if name != "batch_norm_decay"}
    assert with_parts(dataclasses.replace(recipe, **own, **others), make_parts(Dense()))
