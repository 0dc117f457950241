"""The presets, by name."""

from dataclasses import dataclass

from jaxcifar.recipe import Recipe, RecipeError
from jaxcifar.suggest import did_you_mean


@dataclass(frozen=True)
class Experiment:
    """A recipe with its story."""

    recipe: Recipe
    text: str  # one line: what it trains and what came of it where


EXPERIMENTS: dict[str, Experiment] = {
    "demo": Experiment(
        Recipe(
            dataset="digits",
            # 19 batches of 64: with none left over there is one program less to compile.
            train_size=1_216,
            validation_size=200,
            normalization="half",
            epochs=12,
            batch_size=64,
            learning_rate=0.001,
            translate_pixels=2,
            schedule="cosine",
        ),
        "ResNet-18 on 8x8 handwritten digits, shown at 32x32; minutes on two CPU cores",
    ),
    "scratch": Experiment(
        Recipe(
            dataset="cifar10",
            normalization="cifar10",
            epochs=20,
            batch_size=128,
            optimizer="adam",
            learning_rate=0.01,
            schedule="cosine",
            t_max=200.0,
            schedule_unit="epoch",
        ),
        "ResNet-18 on CIFAR-10 from random weights, the course report's recipe (test 0.730 there)",
    ),
}


def get_experiment(name: str) -> Experiment:
    """The preset of that name; `-` and `_` are the same.

    Raises:
        RecipeError: unknown, with the nearest name.
    """
    key = name.replace("-", "_")
    if key not in EXPERIMENTS:
        raise RecipeError(f"unknown experiment {name!r}{did_you_mean(key, EXPERIMENTS)}")
    return EXPERIMENTS[key]
