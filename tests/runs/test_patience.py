"""The rule of early stopping against one that is written down in another way."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.runs.patience import best_score, first_without_patience, score_to_store, stop_epoch


def by_hand(values, patience, min_delta):
    """Epochs from 1; stop as soon as the last `patience` values have improved on nothing."""
    improved_in, best = 0, None
    for epoch, value in enumerate(values, start=1):
        if not math.isfinite(value):
            pass
        elif best is None or value > best + min_delta:
            best, improved_in = value, epoch
        if epoch - improved_in >= patience:
            return epoch
    return None


VALUES = st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, math.nan]), max_size=12)


def row(epoch, accuracy, loss=1.0):
    return {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}


@given(VALUES, st.integers(1, 4), st.sampled_from([0.0, 0.1]))
def test_patience_runs_out_where_a_loop_says(values, patience, min_delta):
    scores = [(i, v if math.isfinite(v) else -math.inf) for i, v in enumerate(values, start=1)]
    expected = by_hand(values, patience, min_delta)
    assert first_without_patience(scores, patience, min_delta) == expected


@given(VALUES, st.integers(1, 4))
def test_it_is_the_same_after_a_resume(values, patience):
    """What came first decides: more rows never move the epoch."""
    scores = [(i, v if math.isfinite(v) else -math.inf) for i, v in enumerate(values, start=1)]
    whole = first_without_patience(scores, patience)
    seen = (first_without_patience(scores[:n], patience) for n in range(len(scores) + 1))
    assert whole == next((epoch for epoch in seen if epoch is not None), None)


@pytest.fixture
def patient(recipe):
    def make(**settings):
        return recipe.from_dict(recipe.to_dict() | {"patience": 2} | settings)

    return make


def test_only_validated_epochs_count(patient):
    rows = [row(1, None), row(2, 0.5), row(3, None), row(4, 0.4), row(5, None), row(6, 0.5)]
    assert stop_epoch(patient(), rows) == 6
    assert stop_epoch(patient(), rows[:5]) is None
    assert stop_epoch(patient(patience=None), rows) is None


def test_less_of_a_loss_is_better_and_the_mode_can_be_turned(patient):
    falling = [row(i, 0.5, 1 / i) for i in range(1, 6)]
    by_loss = patient(patience_metric="validation_loss")
    assert stop_epoch(by_loss, falling) is None
    assert stop_epoch(patient(patience_metric="validation_loss", patience_mode="max"), falling) == 3
    assert stop_epoch(patient(), falling) == 3  # the accuracy stands still
    assert best_score(by_loss, falling[1]) == -0.5
    assert best_score(by_loss, row(1, 0.5, math.nan)) == -math.inf


def test_the_score_of_a_checkpoint_is_stored_where_it_is_not_the_accuracy(patient, recipe):
    assert score_to_store(recipe, row(1, 0.5)) is None
    assert score_to_store(patient(), row(1, 0.5)) is None
    assert score_to_store(patient(patience_mode="min"), row(1, 0.5)) == -0.5
