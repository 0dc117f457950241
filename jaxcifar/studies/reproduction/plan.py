"""The plan as data: what the course report ran, and what goes beyond it, in order."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.studies.reproduction.entries import Reported, Scale


@dataclass(frozen=True)
class Item:
    """An item of the plan: a run, a sweep (`values` of `swept`), or pictures (no `preset`).

    Attributes:
        name: its id.
        title: one line on what it is.
        preset: the experiment it trains.
        faithful: the preset that follows the course report, with which it is compared; by default
            its own preset.
        reported: the report's figures for it.
        smoke: changes to the recipe at `scale="smoke"`.
        swept, values: the field of a sweep, and its values.
        compared: whether it is in the comparison of accuracy and time.
        member: (sweep, value) of the run that serves for this item, if it has been trained.
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
        """What running it does."""
        if self.preset is None:
            return "pictures"
        return "run" if self.swept is None else "sweep"


# The table of the course report: single runs on a Colab GPU.
REPORTED = {
    "scratch": Reported(0.978, 0.737, 0.730, 6 * 60 + 4),
    "finetune": Reported(0.992, 0.808, 0.805, 6 * 60 + 2),
    "freeze_a": Reported(0.995, 0.793, 0.791, 5 * 60 + 21),
    "freeze_b": Reported(0.615, 0.492, 0.491, 3 * 60 + 45),
    "mini": Reported(0.896, 0.728, 0.728, 23 * 60 + 51),
}
MAX_SEEDS = 100  # per item; the page has a column for each
# With these, everything takes about ten minutes on two cores. Most of that is compiling, and
# scoring the 10,000 test images, whose number is fixed.
SMOKE = {"train_size": 1_280, "validation_size": 500, "epochs": 2}
# The 3x3 stem costs 16 times as much, in training and in scoring.
SMOKE_MODERN = SMOKE | {"stem": "imagenet"}
SMOKE_MINI = {"train_size": 640, "validation_size": 500, "epochs": 2, "resize": 48}


def _run(name: str, title: str, faithful: str | None = None, **more: Any) -> Item:
    base = faithful or name
    mini = base == "mini"  # with other images and epochs than the rest
    smoke = more.pop("smoke", SMOKE_MINI if mini else SMOKE)
    return Item(name, title, name, base, REPORTED[base], smoke, compared=not mini, **more)


PLAN = (
    _run("scratch", "From random weights; all parameters trained."),
    _run("finetune", "From pretrained weights with a new head; all parameters trained."),
    _run(
        "freeze_a",
        "From pretrained weights; conv1, bn1 and layer1 frozen (the report's 6 frozen layers), but "
        "their BatchNorms use the batch's statistics.",
    ),
    _run(
        "freeze_b",
        "From pretrained weights; all frozen (the report's 10 frozen layers) except a new head of "
        "two layers, but BatchNorms use the batch's statistics.",
    ),
    _run(
        "freeze_a_bn_frozen",
        "freeze_a with the BatchNorms of the frozen layers frozen, too.",
        "freeze_a",
    ),
    _run(
        "freeze_b_bn_frozen",
        "freeze_b with the BatchNorms of the frozen layers frozen, too.",
        "freeze_b",
    ),
    _run(
        "scratch_modern",
        "The images and epochs of scratch with a modern recipe.",
        "scratch",
        smoke=SMOKE_MODERN,
    ),
    _run("finetune_modern", "The images and epochs of finetune with a modern recipe.", "finetune"),
    _run("freeze_a_modern", "The images and epochs of freeze_a with a modern recipe.", "freeze_a"),
    _run("freeze_b_modern", "The images and epochs of freeze_b with a modern recipe.", "freeze_b"),
    Item(
        "dropout_sweep",
        "mini at four dropout rates; train and test accuracy of the last epoch. In the course "
        "report 0.3 was best.",
        preset="mini",
        smoke=SMOKE_MINI,
        swept="dropout_rate",
        values=(0.1, 0.2, 0.3, 0.4),
    ),
    _run(
        "mini",
        "5,000 images, enlarged, flipped and rotated, with dropout, from random weights.",
        member=("dropout_sweep", 0.3),
    ),
    _run("mini_modern", "The images and epochs of mini with a modern recipe.", "mini"),
    Item("activations", "The outputs of early layers for a ship and a cat."),
    Item("grad_cam", "Where the network looks."),
    Item("mistakes", "The most confident mistakes."),
    Item("confusion", "A confusion matrix for each run."),
    Item("compare", "Test accuracy against training time."),
)


@dataclass(frozen=True)
class Settings:
    """What a call requests, in addition to the items.

    Attributes:
        scale: "smoke" changes each recipe by its item's `smoke`.
        weights: where pretrained items start; by default the weights named in their presets.
        data_dir: where TFDS keeps its data.
        seed: of the first run of an item.
        seeds: how many runs per item.
        epochs: of every run; by default as in the recipes.
        resize: the side of mini's images, pixels; by default as in the recipes. Shifts and cutouts
            are scaled with it.
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
            RecipeError: fewer than one seed, or more than `MAX_SEEDS`.
        """
        if self.seeds < 1:
            raise RecipeError(f"seeds must be at least 1, not {self.seeds}")
        if self.seeds > MAX_SEEDS:
            raise RecipeError(f"seeds must be at most {MAX_SEEDS}, not {self.seeds}")

    def options(self) -> dict[str, str | int]:
        """The command-line options that are not at their default, except scale, seed and paths.

        Weights in a local file or directory are given by name only.
        """
        weights = self.weights
        if weights is not None and (Path(weights).exists() or Path(weights).is_absolute()):
            weights = os.path.basename(os.path.realpath(weights))
        seeds = self.seeds if self.seeds > 1 else None
        values = {"weights": weights, "epochs": self.epochs, "resize": self.resize, "seeds": seeds}
        return {name: value for name, value in values.items() if value is not None}


def select(plan: Sequence[Item], only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Item]:
    """The items with the ids `only`, or all without the ids `skip`, in the plan's order.

    Raises:
        RecipeError: an unknown id (the message has the nearest one), or no item is left.
    """
    known = [item.name for item in plan]
    included, excluded = ([name.replace("-", "_") for name in names] for names in (only, skip))
    for name in (*included, *excluded):
        if name not in known:
            raise RecipeError(f"unknown id {name!r}{did_you_mean(name, known)}")
    chosen = [i for i in plan if (not included or i.name in included) and i.name not in excluded]
    if not chosen:
        raise RecipeError("nothing is left to run: --skip leaves out every chosen id")
    return chosen


def recipe_of(item: Item, settings: Settings, seed: int) -> Recipe:
    """An item's recipe, at the requested scale and with the requested changes.

    Raises:
        RecipeError: an invalid change.
    """
    assert item.preset is not None
    recipe = get_experiment(item.preset).recipe
    changes: dict[str, Any] = dict(item.smoke) if settings.scale == "smoke" else {}
    if settings.epochs is not None:
        changes["epochs"] = settings.epochs
    if settings.resize is not None and recipe.resize is not None:
        changes["resize"] = settings.resize
    if "resize" in changes and recipe.resize is not None:
        scale = changes["resize"] / recipe.resize
        for name in ("translate_pixels", "cutout_pixels"):
            changes[name] = round(scale * getattr(recipe, name))
    if settings.weights is not None and recipe.weights is not None:
        path = Path(settings.weights)
        changes["weights"] = str(path.resolve()) if path.exists() else settings.weights
    return replace(recipe, seed=seed, **changes)
