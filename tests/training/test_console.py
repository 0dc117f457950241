import pytest

from jaxcifar import Recipe
from jaxcifar.runs.history import History
from jaxcifar.training.console import epoch_line, seconds_left


def row(epoch, seconds, validation_seconds=0.0):
    return {"epoch": epoch, "seconds": seconds, "validation_seconds": validation_seconds}


def test_the_time_left_is_that_of_the_last_three_epochs():
    rows = [row(1, 90.0), row(2, 10.0, 1.0), row(3, 11.0, 2.0), row(4, 12.0)]
    assert seconds_left(History(rows), Recipe(epochs=7)) == pytest.approx(3 * (11 + 1))
    assert seconds_left(History(rows), Recipe(epochs=4)) == 0


def test_the_time_left_has_the_validations_that_are_to_come():
    recipe = Recipe(epochs=12, validate_every=5)
    rows = [row(epoch, 10.0) for epoch in range(1, 5)]
    assert seconds_left(History(rows), recipe) == pytest.approx(8 * 10)  # none was timed yet
    rows += [row(5, 10.0, 30.0), row(6, 10.0), row(7, 10.0)]
    for _ in range(2):  # after epoch 7, then after epoch 9: validations follow 10 and 12
        left = 12 - len(rows)
        assert seconds_left(History(rows), recipe) == pytest.approx(left * 10 + 2 * 30)
        rows += [row(8, 10.0), row(9, 10.0)]


def test_the_time_left_grows_with_the_area_of_the_images():
    recipe = Recipe(epochs=9, train_resize="16 24@7 32@9")
    of_16 = History([row(epoch, 100.0) for epoch in range(1, 5)])
    assert seconds_left(of_16, recipe) == pytest.approx(100 * (2 + 2 * 2.25 + 4))
    mixed = History([row(5, 100.0), row(6, 100.0), row(7, 225.0)])
    assert seconds_left(mixed, recipe) == pytest.approx(100 * (2.25 + 4))


def test_the_line_of_an_epoch_ends_with_the_time_left():
    losses = dict.fromkeys(("train_loss", "train_accuracy"), 0.5)
    more = {"validation_accuracy": None, "learning_rate": 0.1, "images_per_second": 1_000.0}
    history = History([row(1, 30.0) | losses | more])
    line = epoch_line(history, Recipe(epochs=3, train_resize="16 32@3"))
    assert line.startswith("epoch   1/3  train 0.5000 0.5000")
    assert line.endswith("lr 1.00e-01  1,000 img/s  2m30s left")


def test_the_line_of_an_epoch_has_the_users_metrics_on_the_validation_images():
    losses = dict.fromkeys(("train_loss", "train_accuracy", "validation_loss"), 0.5)
    more = {"validation_accuracy": 0.25, "learning_rate": None, "images_per_second": 1_000.0}
    own = {"train_sure": 0.75, "validation_sure": 0.6875}
    rows = [row(1, 30.0) | losses | more | own]
    line = epoch_line(History(rows), Recipe(epochs=2))
    assert "  validation 0.5000 0.2500 best  sure 0.6875  1,000 img/s" in line
    rows.append(rows[0] | {"epoch": 2, "validation_accuracy": None, "validation_sure": None})
    without = epoch_line(History(rows), Recipe(epochs=2, validate_every=2))
    assert "  sure      -  1,000 img/s" in without
    assert without.index("sure") == line.index("sure")
