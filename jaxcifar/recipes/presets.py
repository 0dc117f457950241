"""The presets: recipes with names."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean
from jaxcifar.recipes.recipe import Recipe


@dataclass(frozen=True)
class Experiment:
    """A named recipe and its description."""

    settings: dict[str, Any]  # fields of the recipe that differ from its defaults
    text: str  # one line for --help: what it trains, and the result where one is known

    @cached_property
    def recipe(self) -> Recipe:
        """Built on first use, because checking a recipe with frozen layers traces the network."""
        return Recipe(**self.settings)


# torchvision's ImageNet weights, as stored on the hub by timm.
IMAGENET_WEIGHTS = "timm/resnet18.tv_in1k"
# The course report's recipe; the remaining settings are the defaults of `Recipe`.
FAITHFUL = {
    "dataset": "cifar10",
    "normalization": "cifar10",
    "epochs": 20,
    "batch_size": 128,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "schedule": "cosine",
    "t_max": 200.0,
    "schedule_unit": "epoch",
}
FINETUNE = FAITHFUL | {
    "normalization": "imagenet",
    "weights": IMAGENET_WEIGHTS,
    "new_head": True,
    "learning_rate": 0.001,
}
FREEZE_A = FINETUNE | {"freeze": "freeze_a"}
FREEZE_B = FINETUNE | {"freeze": "freeze_b", "head": "sequential"}
FROZEN_WHOLE = {"bn": "frozen", "cache_features": True}
MINI = FAITHFUL | {
    "train_size": 5_000,
    "validation_size": 45_000,
    "stratified": True,
    "normalization": "imagenet",
    "resize": 224,
    "flip_rate": 0.4,
    "rotate_degrees": 30.0,
    "dropout_rate": 0.3,
    "learning_rate": 0.001,
    "epochs": 50,
    # Scoring the 45,000 validation images costs three times an epoch on the 5,000 train images.
    "validate_every": 5,
}
# Better use of the same images and epochs: warm-up, cosine to zero by step, light augmentation.
MODERN = {
    "schedule": "cosine",
    "schedule_unit": "step",
    "t_max": None,
    "warmup_epochs": 1.0,
    "label_smoothing": 0.1,
    "flip_rate": 0.5,
}
# docs/results.md says what cutout and mirror images change.
MODERN_SGD = MODERN | {
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "weight_decay": 5e-4,
    "translate_pixels": 4,
    "cutout_pixels": 8,
    "test_mirror": True,
}
# The best of five heads on frozen features, tried with older code: validation 0.748. The others:
# SGD at 0.1, also 0.748; no dropout and smoothing, 0.743; decay and dropout 0.5, 0.734; a linear
# head, 0.723.
MODERN_HEAD = MODERN | {
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.05,
    "dropout_rate": 0.3,
    "translate_pixels": 2,
    "views": 4,
}
# With the CIFAR stem: the ImageNet stem discards three quarters of a 32x32 image twice.
MODERN_SCRATCH = MODERN_SGD | {"learning_rate": 0.1, "stem": "cifar"}
MODERN_MINI = MODERN_SGD | {
    # At 64 pixels and 15 epochs: test 0.557; 0.474 with batches of 128 at a rate of 0.1, which are
    # only 600 steps.
    "batch_size": 32,
    "learning_rate": 0.05,
    "rotate_degrees": 15.0,
    "translate_pixels": 28,
    "cutout_pixels": 80,
    # Scoring 45,000 validation images twice would cost more than the training.
    "test_mirror": False,
}
# Fast training on CIFAR-10, of all images at full size.
SHORT = {
    "dataset": "cifar10",
    "normalization": "cifar10",
    # 500 validation images are enough to see whether a run went well.
    "train_size": 49_500,
    "validation_size": 500,
    "flip_rate": 0.5,
    "translate_fill": "reflect",
    "stem": "cifar",
    "dtype": "bfloat16",
    "batch_size": 500,  # 99 full batches
    "weight_decay": 5e-4,
    "schedule": "triangular",
}
# After Page 2019 ("How to train your ResNet") and airbench94_muon (Jordan 2024, arXiv:2404.00498),
# whose rate, momentum, BatchNorm decay and test views these are; its network is another.
SPEEDRUN = SHORT | {
    "init": "dirac",
    "whiten": True,
    "freeze": "conv1=frozen *=trained",
    "batch_norm_decay": 0.6,
    # At width 8 and 16x16 pixels, 8 epochs, one seed (benchmarks.ablation): test 0.746 with muon
    # at a rate of 0.3 and a momentum of 0.9, 0.728 with sgd at a rate of 0.6, 0.702 at 0.3.
    "optimizer": "muon",
    "learning_rate": 0.24,
    "momentum": 0.6,
    # In the same setting sgd had 0.692 with 1, 0.702 with 4 and 0.704 with 16 (the last two are
    # within the noise). Airbench's 64 spoiled the running statistics on digits (validation 0.05 in
    # one run).
    "bias_scale": 16.0,
    "lookahead_steps": 5,
    "start_scale": 0.2,
    "final_scale": 0.0,
    # Six views of each test image.
    "test_mirror": True,
    "test_shift_pixels": 1,
}
# Nothing unusual, to compare the others with.
SPEEDRUN_SGD = SHORT | {
    "optimizer": "sgd",
    "learning_rate": 0.2,
    "momentum": 0.9,
    "translate_pixels": 4,
    "cutout_pixels": 12,
}


def _speedrun(base: dict[str, Any], epochs: int, **settings: Any) -> dict[str, Any]:
    """The settings of a speedrun of `epochs` epochs, validated once at the end."""
    length = {"epochs": epochs, "validate_every": epochs, "warmup_epochs": 0.2 * epochs}
    return base | length | settings


LONG = {"label_smoothing": 0.1, "translate_pixels": 4, "cutout_pixels": 12}
EXPERIMENTS: dict[str, Experiment] = {
    "demo": Experiment(
        {
            "dataset": "digits",
            # 19 full batches of 64: a smaller last batch would need one more program.
            "train_size": 1_216,
            "validation_size": 200,
            "normalization": "half",
            "epochs": 12,
            "batch_size": 64,
            "learning_rate": 0.001,
            "translate_pixels": 2,
            "schedule": "cosine",
        },
        "ResNet-18 on 8x8 handwritten digits, enlarged to 32x32; minutes on two CPU cores",
    ),
    "scratch": Experiment(
        FAITHFUL,
        "ResNet-18 on CIFAR-10 from random weights, with the course report's recipe (its test "
        "accuracy: 0.730)",
    ),
    "finetune": Experiment(
        FINETUNE,
        "scratch from pretrained weights with a new head; everything is trained (report: 0.805)",
    ),
    "freeze_a": Experiment(
        FREEZE_A,
        "finetune with conv1, bn1 and layer1 frozen, but BatchNorm statistics of the batch "
        "(report: 0.791)",
    ),
    "freeze_b": Experiment(
        FREEZE_B,
        "finetune with only a new two-layer head trained, and BatchNorm statistics of the batch "
        "(report: 0.491)",
    ),
    "freeze_a_bn_frozen": Experiment(
        FREEZE_A | FROZEN_WHOLE,
        "freeze_a with stored BatchNorm statistics in the frozen layers, which run only once",
    ),
    "freeze_b_bn_frozen": Experiment(
        FREEZE_B | FROZEN_WHOLE,
        "freeze_b with stored BatchNorm statistics; epochs after the first take a second on two "
        "CPU cores",
    ),
    "mini": Experiment(
        MINI,
        "5,000 CIFAR-10 images at 224x224 from random weights, with flips, rotations and dropout "
        "(report: 0.728)",
    ),
    "scratch_modern": Experiment(
        FAITHFUL | MODERN_SCRATCH,
        "scratch with the 3x3 stem, SGD, augmentation, a schedule to zero and the mean over mirror "
        "images (test 0.924)",
    ),
    "finetune_modern": Experiment(
        FINETUNE | MODERN_SGD,
        "finetune with SGD, augmentation, a schedule to zero and the mean over mirror images (test "
        "0.864 from Tiny ImageNet weights)",
    ),
    "freeze_a_modern": Experiment(
        FREEZE_A | MODERN_SGD | {"bn": "frozen"},
        "finetune_modern with conv1, bn1 and layer1 frozen, and stored BatchNorm statistics in "
        "them (test 0.851 from Tiny ImageNet weights)",
    ),
    "freeze_b_modern": Experiment(
        FREEZE_B | FROZEN_WHOLE | MODERN_HEAD,
        "freeze_b with AdamW, dropout and the cached features of four views of each image",
    ),
    "mini_modern": Experiment(
        MINI | MODERN_MINI,
        "mini with SGD in batches of 32, stronger augmentation and a schedule to zero (only "
        "measured smaller; at 112 pixels: test 0.737)",
    ),
    "speedrun": Experiment(
        _speedrun(SPEEDRUN, 16, label_smoothing=0.2, translate_pixels=2),
        "ResNet-18 on CIFAR-10 for the shortest time to an accuracy, 16 epochs (nine, on "
        "smaller images first, were measured: test 0.920 by six views)",
    ),
    "speedrun_95": Experiment(
        _speedrun(SPEEDRUN, 40, **LONG),
        "speedrun with 40 epochs and more augmentation; not measured yet at full width",
    ),
    "speedrun_96": Experiment(
        _speedrun(SPEEDRUN, 80, **LONG),
        "speedrun with 80 epochs and more augmentation; not measured yet at full width",
    ),
    "speedrun_sgd": Experiment(
        _speedrun(SPEEDRUN_SGD, 26),
        "ResNet-18 on CIFAR-10 with Nesterov SGD, 26 epochs, to compare speedrun with (only nine, "
        "on smaller images first, were measured: test 0.852)",
    ),
}
# Parts of the course report that are not a single training run, and the commands for them.
ELSEWHERE = {
    "dropout_sweep": "jaxcifar sweep mini --field dropout_rate --values 0.1 0.2 0.3 0.4",
    "activations": "jaxcifar visualize RUN --image ship",
    "compare": "jaxcifar reproduce --only compare",
}


def get_experiment(name: str) -> Experiment:
    """The preset with that name; `-` and `_` are equivalent.

    Raises:
        RecipeError: the name is unknown, or stands for a part of the course report that is not a
            single run; the message gives the nearest name, or the command.

    Example:
        >>> from jaxcifar import get_experiment
        >>> recipe = get_experiment("freeze-b").recipe
        >>> recipe.dataset, recipe.head, recipe.freeze
        ('cifar10', 'sequential', 'freeze_b')
    """
    key = name.replace("-", "_")
    if key in ELSEWHERE:
        raise RecipeError(f"{name} is not a single run; use: {ELSEWHERE[key]}")
    if key not in EXPERIMENTS:
        raise RecipeError(f"unknown experiment {name!r}{did_you_mean(key, EXPERIMENTS)}")
    return EXPERIMENTS[key]
