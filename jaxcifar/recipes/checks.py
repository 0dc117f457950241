"""What the settings of a recipe must satisfy: each by itself, and together.

The checks run in the order of this file, before anything is compiled or written.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import shown, unknown_choice
from jaxcifar.models.resnet import ARCHITECTURES
from jaxcifar.recipes.settings import LOOKAHEAD_SHARE, OWN, PATIENCE_METRICS
from jaxcifar.recipes.sides import smallest_side
from jaxcifar.step.augment import NORMALIZATIONS
from jaxcifar.step.freeze import frozen_batch_norms, frozen_prefix, labels_at, stage_starts

LONGEST_TEXT = 16_384  # characters: rules for each leaf of a ResNet-50 take 7,000
LONGEST_NAME = 100
LONGEST_PATH = 4_096  # as on Linux
MOST_EPOCHS = 100_000  # whose lines fit in the largest metrics.jsonl that is read
# No machine can run more, so it is refused before anything is compiled or allocated.
MOST_WIDTH = 4_096  # a ResNet-18 of that width has 46 billion parameters, 183 GB
MOST_PIXELS = 16_384  # a side: one such image takes 3 GB as float32, and a layer's maps far more
_LARGEST = float(np.finfo(np.float32).max)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices, naming the nearest."""
    if value not in choices:
        raise RecipeError(unknown_choice(name, value, choices))


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value of the annotated type, an int as a float where that is the type.

    NumPy's scalars become plain values, and so do numbers of classes of their own, as an IntEnum's.

    Raises:
        RecipeError: it is of another type; values come from JSON and from Python.
    """
    value = value.item() if isinstance(value, np.generic) else value  # as those of np.logspace
    _check_type(name, value, hint)
    if not isinstance(value, (int, float)):
        return value
    # A float first: no int of JAX's holds 2**31.
    kinds = (kind for kind in (float, int) if kind in (hint, *get_args(hint)))
    return next((kind(value) for kind in kinds), value)


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        check_choice(name, value, get_args(hint))
        return
    kinds = tuple(get_args(hint)) or (hint,)
    if value is None and type(None) in kinds:
        return
    if isinstance(value, bool) and bool not in kinds:
        raise RecipeError(f"{name} must be a number, not {value}")
    if float in kinds and isinstance(value, (int, float)):
        if abs(value) <= _LARGEST:
            return
        raise RecipeError(f"{name} must be finite as a float32, not {shown(value)}")
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise RecipeError(f"{name} must be of type {expected}, not {shown(value)}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise RecipeError(f"{name} must be under 2**63, not {shown(value)}")
    if isinstance(value, str):
        check_text(name, value)


_LONGEST = {"freeze": LONGEST_TEXT, "weights": LONGEST_TEXT, "dataset": LONGEST_PATH}


def check_text(name: str, text: str) -> None:
    """Refuse control characters, which no path, name or rule has; rules may fill several lines."""
    most = _LONGEST.get(name, LONGEST_NAME)
    if len(text) > most:
        raise RecipeError(f"{name} has {len(text):,} characters, more than {most:,}")
    if any(ord(c) < 32 and not c.isspace() for c in text):
        raise RecipeError(f"{name} must be a line of text, not {shown(text)}")


Recipe = Any  # recipes.recipe.Recipe, which imports this file


class Check(NamedTuple):
    """What holds for the value of each of some fields."""

    fields: tuple[str, ...]
    holds: Callable[[Any, Recipe], bool]  # (value, recipe)
    text: str  # what the value must be, for the message


def _at_most(most: int) -> Callable[[Any, Recipe], bool]:
    return lambda value, recipe: (value or 0) <= most


CHECKS = (
    Check(
        ("width", "epochs", "batch_size", "eval_batch_size", "validate_every", "batch_norm_groups"),
        lambda value, recipe: value >= 1,
        "must be at least 1",
    ),
    Check(
        (
            "translate_pixels",
            "cutout_pixels",
            "test_shift_pixels",
            "weight_decay",
            "warmup_epochs",
            "final_scale",
            "patience_min_delta",
        ),
        lambda value, recipe: value >= 0,
        "must not be negative",
    ),
    Check(
        ("seed", "split_seed"),
        lambda value, recipe: 0 <= value < 2**31,
        "must be at least 0 and under 2**31",
    ),
    Check(
        ("dropout_rate", "batch_norm_decay", "momentum", "label_smoothing"),
        lambda value, recipe: 0 <= value < 1,
        "must be at least 0 and under 1",
    ),
    Check(
        ("flip_rate", "start_scale"),
        lambda value, recipe: 0 <= value <= 1,
        "must lie between 0 and 1",
    ),
    Check(
        ("start_scale",),
        lambda value, recipe: value == 0 or recipe.warmup_epochs > 0,
        "is where a warm-up starts: with no --warmup-epochs it must be 0",
    ),
    Check(
        ("lookahead_share",),
        lambda value, recipe: value == LOOKAHEAD_SHARE or recipe.lookahead_steps is not None,
        f"is for --lookahead-steps: without them it must be {LOOKAHEAD_SHARE}",
    ),
    Check(("rotate_degrees",), lambda value, recipe: 0 <= value <= 180, "must lie in 0 to 180"),
    Check(
        ("after_schedule",),
        lambda value, recipe: value == "formula" or recipe.schedule != "constant",
        "is for a schedule that ends: with --schedule constant it must be formula",
    ),
    Check(
        ("restart_epochs",),
        lambda value, recipe: value is None or recipe.after_schedule == "restart",
        "is for --after-schedule restart: without it it must not be set",
    ),
    Check(
        ("patience_metric",),
        lambda value, recipe: value == "validation_accuracy" or recipe.patience is not None,
        "is for --patience: without it it must be validation_accuracy",
    ),
    Check(
        ("patience_mode",),
        lambda value, recipe: value == "auto" or recipe.patience is not None,
        "is for --patience: without it it must be auto",
    ),
    Check(
        ("patience_min_delta",),
        lambda value, recipe: value == 0 or recipe.patience is not None,
        "is for --patience: without it it must be 0",
    ),
    Check(("learning_rate", "bias_scale"), lambda value, recipe: value > 0, "must be positive"),
    Check(
        ("lookahead_share",),
        lambda value, recipe: 0 < value <= 1,
        "must be above 0 and at most 1",
    ),
    Check(
        (
            "clip_norm",
            "views",
            "t_max",
            "resize",
            "lookahead_steps",
            "restart_epochs",
            "patience",
            "limit_batches",
        ),
        lambda value, recipe: value is None or value > 0,
        "must be positive",
    ),
    Check(("width",), _at_most(MOST_WIDTH), f"must be at most {MOST_WIDTH:,}"),
    Check(("resize",), _at_most(MOST_PIXELS), f"must be at most {MOST_PIXELS:,}"),
    Check(("epochs",), _at_most(MOST_EPOCHS), f"must be at most {MOST_EPOCHS:,}"),
    Check(
        ("weight_decay",),
        lambda value, recipe: recipe.optimizer != "adam" or value == 0,
        "needs --optimizer adamw (or sgd)",
    ),
)


def check_values(recipe: Recipe) -> None:
    """Refuse values out of their range."""
    check_choice("normalization", recipe.normalization, NORMALIZATIONS)
    if not recipe.patience_metric.startswith("validation_"):
        check_choice("patience_metric", recipe.patience_metric, PATIENCE_METRICS)
    check_choice("architecture", recipe.architecture, (*ARCHITECTURES, OWN))
    for fields, holds, text in CHECKS:
        for name in fields:
            _check(recipe, name, bool(holds(getattr(recipe, name), recipe)), text)
    side = recipe.image_size
    for name in ("translate_pixels", "cutout_pixels", "test_shift_pixels"):
        _check(recipe, name, getattr(recipe, name) < side, f"must be under {side} pixels")


def check_batches(recipe: Recipe) -> None:
    """Refuse batches that the data or BatchNorm cannot give."""
    size, train_size = recipe.batch_size, recipe.train_images
    if size > train_size:
        raise RecipeError(
            f"batch_size {size} is larger than the train split of {train_size} images: lower "
            "--batch-size or raise --train-size"
        )
    groups, rest = recipe.batch_norm_groups, train_size % size
    if size % groups or rest % groups:
        raise RecipeError(
            f"batch_norm_groups {groups} must divide batch_size {size} and the last batch of an "
            f"epoch ({rest or size} images)"
        )
    if recipe.epochs * recipe.steps_per_epoch >= 2**31:  # the state's step is an int32
        raise RecipeError(
            f"epochs {recipe.epochs} of {recipe.steps_per_epoch:,} steps each are 2**31 or more: "
            "lower --epochs or raise --batch-size"
        )
    halvings = 5 if recipe.stem == "imagenet" else 3
    one_image = groups in (size, rest) and recipe.architecture != OWN
    if one_image and smallest_side(recipe) <= 2**halvings:  # torch refuses this batch, too
        raise RecipeError(
            f"batch_size {size} leaves a batch of one image among {train_size}, which BatchNorm "
            "has no variance for: choose another --batch-size"
            + (" or fewer --batch-norm-groups" if groups > 1 else "")
        )


def check_weights(recipe: Recipe) -> None:
    """Refuse settings of starting weights, and of random ones, that contradict each other."""
    for name, views, way_out in (
        ("test_mirror", "their mirror images", "--no-test-mirror"),
        ("test_shift_pixels", "shifted ones", "--test-shift-pixels 0"),
    ):
        if getattr(recipe, name) and recipe.cache_features:
            raise RecipeError(
                f"{name}: cached features are of the images as they are, not of {views}; use "
                f"{way_out} or --no-cache-features"
            )
    for name in ("new_head", "adapt_stem"):
        if getattr(recipe, name) and recipe.weights is None:
            raise RecipeError(f"{name} says what to do with weights: name them by --weights")
    _check(
        recipe,
        "adapt_stem",
        not recipe.adapt_stem or recipe.stem == "cifar",
        "is for --stem cifar, which 7x7 kernels do not fit",
    )
    if recipe.weights is not None and (recipe.whiten or recipe.init != "kaiming"):
        raise RecipeError(
            f"init {recipe.init}, whiten {recipe.whiten} change random weights, and these come "
            f"from {shown(recipe.weights)}: use --init kaiming --no-whiten"
        )
    if recipe.whiten and recipe.stem != "cifar":
        raise RecipeError(
            f"whiten is for 3x3 patches, not for the stem {recipe.stem}: use --stem cifar or "
            "--no-whiten"
        )
    _check(recipe, "resize", not recipe.whiten or recipe.image_size >= 3, "must be 3 for --whiten")


# What only the built-in networks, or the recipe's own optimizers, have.
OF_BUILT_IN_NETWORKS = {
    "weights": "only the built-in networks have torchvision's names, which weights are read by",
    "new_head": "only the built-in networks have torchvision's names",
    "adapt_stem": "only the built-in networks have torchvision's names",
    "cache_features": "only the built-in networks can be cut where they are frozen",
    "bn": "only the BatchNorms of the built-in networks can be frozen; yours follow your module",
    **dict.fromkeys(
        (
            "width",
            "stem",
            "head",
            "dropout_rate",
            "init",
            "whiten",
            "batch_norm_groups",
            "batch_norm_decay",
            "dtype",
        ),
        "it is of the built-in networks; set it in your module",
    ),
}
SCHEDULE_SETTINGS = (
    "learning_rate",
    "schedule",
    "t_max",
    "schedule_unit",
    "warmup_epochs",
    "start_scale",
    "final_scale",
    "after_schedule",
    "restart_epochs",
)
_OPTIMIZER_SETTINGS = (
    *SCHEDULE_SETTINGS,
    "momentum",
    "weight_decay",
    "bias_scale",
    "lookahead_steps",
    "lookahead_share",
    "clip_norm",
)


def changed_settings(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Those of some settings that are not at their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(recipe)}
    return [name for name in names if getattr(recipe, name) != defaults[name]]


def check_own(recipe: Recipe) -> None:
    """Refuse settings that would be ignored because a part of the run is the user's own."""
    if recipe.architecture == OWN:
        for name in changed_settings(recipe, OF_BUILT_IN_NETWORKS):
            raise RecipeError(
                f"{name} {shown(getattr(recipe, name))} does not go with a network of your own: "
                f"{OF_BUILT_IN_NETWORKS[name]}"
            )
    if recipe.optimizer == OWN:
        for name in changed_settings(recipe, _OPTIMIZER_SETTINGS):
            raise RecipeError(
                f"{name} {shown(getattr(recipe, name))} does not go with an optimizer of your own, "
                "which would ignore it: leave it at its default, and set it in your transformation"
            )


def check_freezing(recipe: Recipe) -> None:
    """Refuse freeze rules, and cached features, that the run cannot follow.

    The rules for an own network are checked when it is known, see `own.with_parts`.
    """
    augmented = recipe.make_augment() is not None
    if recipe.views is not None and not augmented:
        raise RecipeError(f"views {recipe.views} needs an augmentation, such as --flip-rate 0.5")
    if recipe.freeze == "none" and recipe.bn == "batch" and not recipe.cache_features:
        return  # presets are made at import: without a trace where there is nothing to check
    if recipe.architecture == OWN:
        return
    labels = recipe.make_labels()
    check_late_labels(recipe, labels)
    first = labels_at(labels, 1)
    if recipe.bn == "frozen" and not frozen_batch_norms(first):
        raise RecipeError("bn frozen changes nothing where no BatchNorm is: see --freeze")
    if recipe.cache_features:
        _check_caching(recipe, first, augmented)


def check_late_labels(recipe: Recipe, labels: Any) -> None:
    """Refuse labels that start after the run's end."""
    late = [start for start in stage_starts(labels) if start > recipe.epochs]
    if late:
        raise RecipeError(
            f"freeze {shown(recipe.freeze)} begins to train something in epoch {late[-1]}, and "
            f"the run ends with epoch {recipe.epochs}"
        )


def _check_caching(recipe: Recipe, labels: Any, augmented: bool) -> None:
    if recipe.bn != "frozen" and frozen_batch_norms(labels):
        raise RecipeError(
            "cache_features: frozen BatchNorms that normalise with each batch's statistics "
            "(bn batch) never give the same output twice; use --bn frozen"
        )
    if not frozen_prefix(labels):
        raise RecipeError(
            f"cache_features: with freeze {shown(recipe.freeze)} the first layer is trained, so "
            "there is nothing to cache; freeze from the stem on, as up_to:layer1 does"
        )
    if augmented and recipe.views is None:
        raise RecipeError(
            "cache_features: with a new augmentation each epoch no two inputs are the same; "
            "choose a number of stored ones (--views 4) or none (--flip-rate 0, "
            "--rotate-degrees 0, --translate-pixels 0, --cutout-pixels 0)"
        )


def _check(recipe: Recipe, name: str, holds: bool, text: str) -> None:
    if not holds:
        raise RecipeError(f"{name} {text}, not {getattr(recipe, name)}")
