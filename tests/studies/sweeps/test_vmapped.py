"""Members trained as one program, compared with each member trained separately."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.models.names import named_leaves
from jaxcifar.models.pretrained import WeightsError
from jaxcifar.recipes.stage import StageRecipe, make_stage
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.step import metrics
from jaxcifar.step.state import init_state
from jaxcifar.studies.sweeps.measured_mode import build_members, stack
from jaxcifar.studies.sweeps.members import PLAIN_FIELDS, Member, make_members
from jaxcifar.studies.sweeps.vmapped import _begin
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.resident import make_train_epoch
from tests.conftest import assert_trees_identical


def in_float64(recipe):
    return recipe.with_traced(dtype="float64")


def wide(state):
    """The state with all floats in float64."""

    def at_least_float32(leaf):
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(at_least_float32, state)


def initial_state(recipe):
    return wide(
        init_state(recipe.make_model(), recipe.make_optimizer(), seed=recipe.seed, image_size=32)
    )


make_train_step = StageRecipe.make_train_step


def narrow_step(stage, cut=None):
    """A step with sums in float32, as the epoch needs them, for every dtype of the network."""
    step = make_train_step(stage, cut)

    def narrow(state, batch):
        state, sums = step(state, batch)
        zeros = metrics.zeros()
        return state, {name: value.astype(zeros[name].dtype) for name, value in sums.items()}

    return narrow


def trained_alone(recipe, data, state, epochs):
    stage, size = make_stage(recipe), len(data["label"])
    program = make_train_epoch(
        narrow_step(stage), size=size, batch_size=recipe.batch_size, augment=stage.augment
    )
    for _ in range(epochs):
        state, sums = program.run(state, data)
    return state, sums


@pytest.mark.slow
def test_in_float64_members_equal_separate_runs(recipe, digits, monkeypatch):
    """The members differ in seed and dropout rate."""
    monkeypatch.setattr(StageRecipe, "make_train_step", narrow_step)
    # Only the head is trained: the gradients of the other layers take longest to compile.
    sgd = dataclasses.replace(recipe, optimizer="sgd", freeze="freeze_b")
    members = [
        Member(rate, "", in_float64(dataclasses.replace(sgd, seed=seed, dropout_rate=rate)))
        for seed, rate in ((3, 0.0), (0, 0.3))
    ]
    with jax.enable_x64(True):
        data = to_device(digits.train)
        program = build_members("dropout_rate", members, None, size=120)
        states = stack([initial_state(member.recipe) for member in members])
        for _ in range(2):
            states, sums = program.run(states, data)
        for i, member in enumerate(members):
            state, alone = trained_alone(member.recipe, data, initial_state(member.recipe), 2)
            np.testing.assert_allclose(sums["loss_sum"][i], alone["loss_sum"], rtol=1e-6)
            assert int(sums["correct"][i]) == int(alone["correct"])
            for name, leaf in named_leaves(state.variables).items():
                of_member = named_leaves(states.variables)[name][i]
                assert of_member.dtype == jnp.float64, name
                np.testing.assert_allclose(of_member, leaf, rtol=1e-7, atol=1e-9, err_msg=name)
        first, second = np.asarray(sums["loss_sum"])
        assert abs(first - second) > 1e-3, "the members do not differ"


@pytest.mark.slow
def test_members_with_muon_and_lookahead_equal_separate_runs(recipe, digits):
    """Muon, lookahead and scaled biases; also their state is compared."""
    fast = dataclasses.replace(
        recipe, optimizer="muon", lookahead_steps=2, bias_scale=4.0, dropout_rate=0.0, epochs=1
    )
    members = make_members(fast, "seed", [0, 3])
    data = to_device(digits.train)

    def begin(recipe):
        return init_state(
            recipe.make_model(), recipe.make_optimizer(), seed=recipe.seed, image_size=32
        )

    program = build_members("seed", members, None, size=120)
    states, _ = program.run(stack([begin(member.recipe) for member in members]), data)
    stage = make_stage(fast)
    alone = make_train_epoch(
        stage.make_train_step(), size=120, batch_size=40, augment=stage.augment
    )
    for i, member in enumerate(members):
        state, _ = alone.run(begin(member.recipe), data)
        for name, leaf in named_leaves((state.params, state.opt_state)).items():
            of_member = named_leaves((states.params, states.opt_state))[name][i]
            np.testing.assert_allclose(of_member, leaf, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_traced_number_has_the_effect_of_the_constant(recipe, digits):
    """All fields that can be traced are traced in one program."""
    numbers = {
        "learning_rate": 0.02,
        "final_scale": 0.1,
        "momentum": 0.8,
        "weight_decay": 0.01,
        "label_smoothing": 0.1,
        "clip_norm": 0.5,
        "dropout_rate": 0.2,
        "flip_rate": 0.7,
        "rotate_degrees": 20.0,
        "translate_pixels": 4,
        "cutout_pixels": 6,
    }
    assert {"seed", *numbers} == set(PLAIN_FIELDS)  # the seed is in the state
    plain = dataclasses.replace(recipe, optimizer="sgd", freeze="freeze_b", **numbers)
    with jax.enable_x64(True):
        data = to_device(digits.train)

        def step_of(recipe):
            stage = make_stage(recipe)
            step = stage.make_train_step()
            images = stage.augment(jax.random.split(jax.random.key(5), 40), data["image"][:40])
            batch = {"image": images, "label": data["label"][:40]}
            sums = step(initial, batch)[1]
            return jax.lax.fori_loop(0, 2, lambda _, c: step(c[0], batch), (initial, sums))

        initial = initial_state(in_float64(plain))

        @jax.jit
        def traced(values):
            recipe = in_float64(plain)
            for name, value in values.items():
                recipe = recipe.with_traced(**{name: value})
            return step_of(recipe)

        expected = jax.jit(lambda: step_of(in_float64(plain)))()
        result = traced(numbers)
        for name, leaf in named_leaves(expected[0].variables).items():
            ours = named_leaves(result[0].variables)[name]
            np.testing.assert_allclose(ours, leaf, rtol=1e-7, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(result[1]["loss_sum"], expected[1]["loss_sum"], rtol=1e-9)
        # Each of them has an effect.
        for name in numbers:
            half = type(numbers[name])(0.5 * numbers[name])
            other = traced(numbers | {name: half})
            leaves = zip(*(jax.tree.leaves(s.params) for s in (other[0], result[0])), strict=True)
            assert max(float(jnp.abs(a - b).max()) for a, b in leaves) > 1e-9, name


def test_the_weights_may_be_gone_once_a_member_has_a_checkpoint(
    recipe, digits, stored_run, tmp_path
):
    members = make_members(
        dataclasses.replace(recipe, weights=str(stored_run)), "learning_rate", [0.1, 0.2]
    )
    runs = [RunDirectory(tmp_path / member.name) for member in members]
    states = _begin(members[:1], digits, runs[:1], "digits")
    with Checkpoints(runs[0].checkpoints) as checkpoints:
        checkpoints.save(states[0], validation_accuracy=0.5)
    stored_run.rename(tmp_path / "gone")
    (resumed,) = _begin(members[:1], digits, runs[:1], "digits")
    assert_trees_identical(resumed, states[0])
    with pytest.raises(WeightsError):
        _begin(members, digits, runs, "digits")
