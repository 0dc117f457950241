"""Members trained as one program, compared with each member trained separately."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.models.names import named_leaves
from jaxcifar.models.pretrained import WeightsError
from jaxcifar.recipes.splits import load_splits
from jaxcifar.recipes.stage import StageRecipe, make_stage
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.step import metrics
from jaxcifar.step.state import init_state
from jaxcifar.studies.sweeps import vmapped
from jaxcifar.studies.sweeps.measured_mode import build_members, stack
from jaxcifar.studies.sweeps.members import PLAIN_FIELDS, Member, make_members
from jaxcifar.studies.sweeps.vmapped import Together, _begin, train_together
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.resident import make_train_epoch
from jaxcifar.training.stage import Stage
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


def narrow_step(stage, cut=None, axis_name=None):
    """A step with sums in float32, as the epoch needs them, for every dtype of the network."""
    step = make_train_step(stage, cut, axis_name=axis_name)

    def narrow(state, batch):
        state, sums = step(state, batch)
        return state, jax.tree.map(lambda s, zero: s.astype(zero.dtype), sums, metrics.zeros())

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


def test_a_damaged_test_picture_is_found_before_anything_is_trained(
    photo_run, photos, tmp_path, monkeypatch
):
    def never(*_, **__):
        raise AssertionError("it trained")

    monkeypatch.setattr("jaxcifar.studies.sweeps.vmapped.Together", never)
    recipe = read_recipe(RunDirectory(photo_run))
    next((photos / "test").rglob("*.png")).write_bytes(b"junk")
    splits, members = load_splits(recipe, lazy=True), make_members(recipe, "seed", [0, 1])
    runs = [RunDirectory(tmp_path / "s" / member.name) for member in members]
    with pytest.raises(DataError, match="a picture cannot be read"):
        train_together("seed", members, splits, runs, experiment="x")
    assert not (tmp_path / "s").exists()


class Timed:
    """Stands for `Together` and for the `Run` of a member: ten minutes of training an epoch for
    all, and one for each validation.
    """

    states, seconds_each, seconds, stage = None, 300.0, 600.0, None

    def __init__(self, plan, *_, **__):
        self.recipe = getattr(plan, "recipe", None)

    def remaining_epochs(self):
        return range(1, 6)

    def train(self, epoch):
        Timed.epoch = epoch

    def check_finite(self):
        pass

    def validate(self, stage):
        validates = self.recipe.validates(self.epoch)
        return {"validation_accuracy": 0.5} if validates else {"validation_accuracy": None}

    def record(self, validated):
        scored = validated["validation_accuracy"] is not None
        return validated | {"train_accuracy": 0.5, "validation_seconds": 60.0 if scored else 0.01}


def test_the_time_left_has_the_validations_that_are_to_come(
    recipe, digits, tmp_path, monkeypatch, capsys
):
    for name in ("Together", "Run"):
        monkeypatch.setattr(vmapped, name, Timed)
    for name in ("_begin", "stack", "_take", "_of_member"):
        monkeypatch.setattr(vmapped, name, lambda *_: None)
    five = dataclasses.replace(recipe, epochs=5, validate_every=2)
    members = make_members(five, "seed", [0, 1])
    runs = [RunDirectory(tmp_path / member.name) for member in members]
    train_together("seed", members, digits, runs, experiment="x", verbose=True)
    left = [line.rpartition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    # After epochs 2, 4 and 5 both are validated; before that nobody knows for how long.
    assert left == ["40m00s left", "34m00s left", "24m00s left", "12m00s left", "0s left"]


def test_seconds_of_caching_are_spent_once(recipe):
    together = object.__new__(Together)
    together._members, together._recipe, together._verbose = 2, recipe, False
    together._first_epoch, together._images, together.states = 1, 80, None
    together._epoch = SimpleNamespace(run=lambda states, advance: (states, {}))
    together.stage = Stage(3, None, None, 100.0, None)
    together.train(1)
    assert together.seconds < 10
    assert together.seconds_each == pytest.approx(50, abs=5)
    together.train(2)
    assert together.seconds_each < 10
