"""What the course report ran, as data: what `reproduction` works through, in order."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.studies.reproduction.report import Reported, Scale


@dataclass(frozen=True)
class Item:
    """A part of the plan: a run, a sweep (`values` of `swept`), or pictures (no `preset`).

    Attributes:
        name: its id.
        title: one line on what it is.
        preset: the experiment it trains.
        faithful: the course report's experiment that it is measured by; the preset by default.
        reported: that report's figures.
        smoke: the recipe's fields at `scale="smoke"`.
        swept, values: the field of a sweep and its values.
        compared: whether it has a place in the comparison of accuracy against time.
        member: (sweep, value) whose run this item is, where that has been trained.
    """

    name: str
    title: str
    preset: str | None = None
    faithful: str | None = None
    reported: Reported | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)
    swept: str | None = None
    values: tuple[float, ...] = ()
    compared: bool = True
    member: tuple[str, float] | None = None

    @property
    def kind(self) -> Literal["run", "sweep", "pictures"]:
        """What there is to do."""
        if self.preset is None:
            return "pictures"
        return "run" if self.swept is None else "sweep"


# The course report's table, as EXPERIMENTS.md has it; all single runs on a Colab GPU.
REPORTED = {
    "scratch": Reported(0.978, 0.737, 0.730, 6 * 60 + 4),
    "finetune": Reported(0.992, 0.808, 0.805, 6 * 60 + 2),
    "freeze_a": Reported(0.995, 0.793, 0.791, 5 * 60 + 21),
    "freeze_b": Reported(0.615, 0.492, 0.491, 3 * 60 + 45),
    "mini": Reported(0.896, 0.728, 0.728, 23 * 60 + 51),
}
MOST_SEEDS = 100  # of an item; the page has a column for each
# So that all of it takes about ten minutes on two cores; most of that is compiling, and scoring
# the 10,000 test images, which are never fewer.
SMOKE = {"train_size": 1_280, "validation_size": 500, "epochs": 2}
# The 3x3 stem is 16 times the work, in training and in scoring.
SMOKE_MODERN = SMOKE | {"stem": "imagenet"}
SMOKE_MINI = {"train_size": 640, "validation_size": 500, "epochs": 2, "resize": 48}


def _run(name: str, title: str, faithful: str | None = None, **more: Any) -> Item:
    base = faithful or name
    mini = base == "mini"  # of other images and epochs than the rest
    smoke = more.pop("smoke", SMOKE_MINI if mini else SMOKE)
    return Item(name, title, name, base, REPORTED[base], smoke, compared=not mini, **more)


PLAN = (
    _run("scratch", "From random weights, all of it trained."),
    _run("finetune", "From pretrained weights with a new head, all of it trained."),
    _run(
        "freeze_a",
        "From pretrained weights; conv1, bn1 and layer1 frozen (the report's 6 frozen layers), "
        "while their BatchNorms follow each batch.",
    ),
    _run(
        "freeze_b",
        "From pretrained weights; all frozen (the report's 10 frozen layers) but a new head of "
        "two layers, while BatchNorms follow each batch.",
    ),
    _run("freeze_a_bn_frozen", "freeze_a with the frozen BatchNorms frozen, too.", "freeze_a"),
    _run("freeze_b_bn_frozen", "freeze_b with the frozen BatchNorms frozen, too.", "freeze_b"),
    _run(
        "scratch_modern",
        "scratch's images and epochs, spent better.",
        "scratch",
        smoke=SMOKE_MODERN,
    ),
    _run("finetune_modern", "finetune's images and epochs, spent better.", "finetune"),
    _run("freeze_a_modern", "freeze_a's images and epochs, spent better.", "freeze_a"),
    _run("freeze_b_modern", "freeze_b's images and epochs, spent better.", "freeze_b"),
    Item(
        "dropout_sweep",
        "mini at four dropout rates; train and test accuracy are of the last epoch. In the "
        "course report 0.3 was best.",
        preset="mini",
        smoke=SMOKE_MINI,
        swept="dropout_rate",
        values=(0.1, 0.2, 0.3, 0.4),
    ),
    _run(
        "mini",
        "5,000 images, enlarged, flipped and turned, with dropout, from random weights.",
        member=("dropout_sweep", 0.3),
    ),
    _run("mini_modern", "mini's images and epochs, spent better.", "mini"),
    Item("activations", "What early layers put out for a ship and a cat."),
    Item("grad_cam", "Where the network looks."),
    Item("mistakes", "Its most confident mistakes."),
    Item("confusion", "A confusion matrix for each run."),
    Item("compare", "Test accuracy against training time."),
)


@dataclass(frozen=True)
class Settings:
    """What a call asks for, beside the items.

    Attributes:
        scale: "smoke" changes each recipe by its item's `smoke`.
        weights: where pretrained items start; the presets' own name by default.
        data_dir: of TFDS data.
        seed: of the first run of an item.
        seeds: runs of an item.
        epochs: of every run, for a departure from the recipes.
        resize: the side of mini's images likewise; shifts and cutouts shrink with it.
    """

    scale: Scale = "full"
    weights: str | None = None
    data_dir: str | Path | None = None
    seed: int = 0
    seeds: int = 1
    epochs: int | None = None
    resize: int | None = None

    def __post_init__(self) -> None:
        """Check what no recipe checks.

        Raises:
            RecipeError: fewer than one seed, or far too many.
        """
        if self.seeds < 1:
            raise RecipeError(f"seeds must be at least 1, not {self.seeds}")
        if self.seeds > MOST_SEEDS:
            raise RecipeError(f"seeds must be at most {MOST_SEEDS}, not {self.seeds}")

    def options(self) -> dict[str, str | int]:
        """What of the command line, beside scale, seed and places, is not by default.

        Of weights in a local file or directory the name only.
        """
        weights = self.weights
        if weights is not None and (Path(weights).exists() or Path(weights).is_absolute()):
            weights = os.path.basename(os.path.realpath(weights))
        seeds = self.seeds if self.seeds > 1 else None
        values = {"weights": weights, "epochs": self.epochs, "resize": self.resize, "seeds": seeds}
        return {name: value for name, value in values.items() if value is not None}


def select(plan: Sequence[Item], only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Item]:
    """The items of these ids, or all but those, in the plan's order.

    Raises:
        RecipeError: an unknown id, with the nearest.
    """
    known = [item.name for item in plan]
    wanted, unwanted = ([name.replace("-", "_") for name in names] for names in (only, skip))
    for name in (*wanted, *unwanted):
        if name not in known:
            raise RecipeError(f"unknown id {name!r}{did_you_mean(name, known)}")
    chosen = [i for i in plan if (not wanted or i.name in wanted) and i.name not in unwanted]
    if not chosen:
        raise RecipeError("nothing is left to run: every id that was named is skipped, too")
    return chosen


def recipe_of(item: Item, settings: Settings, seed: int) -> Recipe:
    """An item's recipe at the scale, and with the departures, that are asked for.

    Raises:
        RecipeError: a departure that cannot be.
    """
    assert item.preset is not None
    recipe = get_experiment(item.preset).recipe
    changes: dict[str, Any] = dict(item.smoke) if settings.scale == "smoke" else {}
    if settings.epochs is not None:
        changes["epochs"] = settings.epochs
    if settings.resize is not None and recipe.resize is not None:
        changes["resize"] = settings.resize
    if "resize" in changes and recipe.resize is not None:
        share = changes["resize"] / recipe.resize
        for name in ("translate_pixels", "cutout_pixels"):
            changes[name] = round(share * getattr(recipe, name))
    if settings.weights is not None and recipe.weights is not None:
        path = Path(settings.weights)
        changes["weights"] = str(path.resolve()) if path.exists() else settings.weights
    return replace(recipe, seed=seed, **changes)
