import pytest

from jaxcifar.recipes.presets import EXPERIMENTS, Experiment
from jaxcifar.studies.reproduction import Item
from jaxcifar.studies.reproduction.entries import Reported


@pytest.fixture
def plan(recipe, monkeypatch):
    """Two small runs on digits, a sweep whose member serves as another run, and all pictures."""
    settings = recipe.to_dict() | {"epochs": 2}
    monkeypatch.setitem(EXPERIMENTS, "one", Experiment(settings, "a run"))
    monkeypatch.setitem(
        EXPERIMENTS, "lean", Experiment(settings | {"weights": "nobody/nothing"}, "no weights")
    )
    reported = Reported(0.9, 0.8, 0.7, 60)
    return (
        Item("one", "The one.", "one", reported=reported, smoke={"epochs": 1}),
        Item("lean", "From weights.", "lean", reported=reported, smoke={"epochs": 1}),
        Item("rates", "A sweep.", "one", smoke={"epochs": 1}, swept="dropout_rate", values=(0.3,)),
        Item(
            "two", "A member.", "one", reported=reported, smoke={"epochs": 1}, member=("rates", 0.3)
        ),
        Item("confusion", "Confusion matrices."),
        Item("compare", "Accuracy against time."),
    )
