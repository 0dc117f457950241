"""Whole trainings with different forms of the convolutions, compared over many seeds.

Training in float32 is chaotic: after some steps, different rounding gives a different run, so a
single run says nothing. But a form must not change how runs are distributed.
"""

import dataclasses
import math

import numpy as np
import pytest

from jaxcifar.data import load_dataset
from jaxcifar.recipes.parts import make_parts
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step.metrics import compute
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.stage import resident_epoch, resident_evaluation
from jaxcifar.training.start import first_state

SEEDS, EPOCHS = 12, 6


@pytest.fixture(scope="module")
def splits():
    return load_dataset("digits", split=(640, 400))


def validation_curves(recipe, splits, lowering):
    """Validation accuracies, [seeds, epochs]."""
    # As a part of its own: the programs are found by recipe and parts.
    parts = make_parts(model=recipe.make_model(1).clone(lowering=lowering))
    stage = make_stage(recipe, parts=parts)
    data, validation = to_device(splits.train), to_device(splits.validation)
    epoch = resident_epoch(stage, len(splits.train)).over(data)
    scoring = resident_evaluation(stage, len(splits.validation)).over(validation)
    curves = []
    for seed in range(SEEDS):
        state = first_state(dataclasses.replace(recipe, seed=seed), splits, parts=parts)
        curve = []
        for _ in range(EPOCHS):
            state, _ = epoch.run(state)
            curve.append(compute(scoring.run(state.variables))["accuracy"])
        curves.append(curve)
    return np.array(curves)


@pytest.mark.slow
def test_the_form_does_not_change_the_distribution_of_trainings(tiny, splits, optimised):
    """Adam at 0.01 as in the report; its validation curve is unstable with every form."""
    recipe = Recipe(
        dataset="digits",
        train_size=640,
        validation_size=400,
        normalization="half",
        architecture=tiny,
        width=16,  # so that Winograd does all three passes of layer1
        epochs=EPOCHS,
        batch_size=64,
        learning_rate=0.01,
        t_max=200.0,
        schedule_unit="epoch",
    )
    ours, plain = (validation_curves(recipe, splits, form) for form in ("auto", "patches"))
    assert not np.array_equal(ours, plain), "the forms round alike"
    # A t-test of the means over seeds, after each epoch; 4 standard errors.
    error = np.sqrt((ours.var(0, ddof=1) + plain.var(0, ddof=1)) / SEEDS)
    assert (np.abs(ours.mean(0) - plain.mean(0)) < 4 * error + 0.002).all()
    falls = [int((np.diff(curves) < -0.1).sum()) for curves in (ours, plain)]
    # If the forms are alike, each fall is equally likely to be of either.
    assert chance_of_split(*falls) > 0.01, falls


def chance_of_split(a, b):
    """The probability that a + b fair coins are split at least as unevenly."""
    n = a + b
    tail = sum(math.comb(n, k) for k in range(min(a, b) + 1)) / 2**n
    return min(1.0, 2 * tail)


def test_an_uneven_split_is_unlikely():
    assert chance_of_split(2, 2) == 1.0
    assert chance_of_split(0, 8) == pytest.approx(2 / 2**8)
    assert chance_of_split(8, 0) < 0.01 < chance_of_split(0, 7)
