"""The settings of a recipe: each with its default, its group and its help.

The command line has an option for each. What the values must satisfy is in `checks`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxcifar.models.resnet import ARCHITECTURES, Head, Stem
from jaxcifar.step.augment import NORMALIZATIONS, Interpolation, TranslateFill
from jaxcifar.step.optimizer import OptimizerName
from jaxcifar.step.precision import Precision
from jaxcifar.step.schedules import AfterSchedule, ScheduleName, ScheduleUnit

Init = Literal["kaiming", "dirac"]
BatchNormMode = Literal["batch", "frozen"]
PATIENCE_METRICS = ("validation_accuracy", "validation_loss")
PatienceMode = Literal["auto", "max", "min"]
LOOKAHEAD_SHARE = 0.25  # the default
OWN = "own"  # a network or an optimizer that is given to `fit`


def setting(group: str, default: Any, text: str, unset: str | None = None) -> Any:
    """A field with the group and text that `jaxcifar train --help` shows.

    Args:
        unset: what None means, shown as the default.
    """
    metadata = {"group": group, "help": text, "unset": unset}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of a run, unchecked: `Recipe` checks them and builds from them."""

    dataset: str = setting(
        "data",
        "cifar10",
        "cifar10, cifar100, cifar100:coarse (20 classes), digits (small, shipped), folder:PATH "
        "(pictures in PATH/train/CLASS and PATH/test/CLASS; needs a resize), tfds:NAME[/CONFIG] "
        "(prepared by TFDS as array_record), parquet:PATH or hf:OWNER/NAME[/CONFIG][@REVISION] "
        "(Parquet files in PATH or on the Hugging Face hub; need a resize); see normalization, too",
    )
    train_size: int | None = setting("data", None, "images trained on", unset="the dataset's split")
    validation_size: int | None = setting(
        "data", None, "images validated on, never trained on", unset="the dataset's split"
    )
    follow_links: bool = setting("data", False, "follow links in a folder, also out of it")
    stratified: bool = setting("data", False, "keep the class proportions in the split")
    split_seed: int = setting("data", 0, "chooses the images of the split")
    normalization: str = setting("data", "cifar10", f"mean and std: {', '.join(NORMALIZATIONS)}")
    resize: int | None = setting(
        "data",
        None,
        "height and width of the network's input, pixels; images of several sizes are scaled by "
        "their shorter side and cropped to the centre",
        unset="the dataset's",
    )
    train_resize: str | None = setting(
        "data",
        None,
        "side of the training images by epoch, pixels: '16 24@7 32@13' trains on 16 from epoch 1, "
        "on 24 from epoch 7, on 32 from epoch 13; they are augmented first, at the network's input "
        "size, which evaluation keeps",
        unset="the network's input size",
    )
    flip_rate: float = setting("data", 0.0, "augmentation: probability of a horizontal flip")
    rotate_degrees: float = setting("data", 0.0, "augmentation: largest rotation either way")
    interpolation: Interpolation = setting(
        "data", "nearest", "of the rotation: nearest (torchvision's default) or bilinear"
    )
    translate_pixels: int = setting(
        "data", 0, "augmentation: largest random shift, pixels after resizing"
    )
    translate_fill: TranslateFill = setting(
        "data", "zero", "what a shift brings in at the border: zero, or the image reflected"
    )
    cutout_pixels: int = setting(
        "data", 0, "augmentation: side of a square covered at random, pixels after resizing"
    )
    views: int | None = setting(
        "data", None, "augmentations of each image, taken in turn", unset="a new one each epoch"
    )

    architecture: str = setting(
        "model", "resnet18", f"{', '.join(ARCHITECTURES)}; from Python also own, see fit"
    )
    width: int = setting("model", 64, "channels of the first stage")
    stem: Stem = setting("model", "imagenet", "7x7 stride 2 with max-pool, or 3x3 (cifar)")
    head: Head = setting(
        "model", "linear", "dropout and a linear layer, or two layers (sequential)"
    )
    dropout_rate: float = setting("model", 0.0, "in the head, at least 0 and under 1")
    init: Init = setting(
        "model",
        "kaiming",
        "random weights: torchvision's (kaiming), or identity (Dirac) initialisation in the stages "
        "where shapes allow (dirac)",
    )
    whiten: bool = setting(
        "model",
        False,
        "start with a first layer that whitens the patches of the training images (3x3 stem)",
    )
    batch_norm_groups: int = setting(
        "model",
        1,
        "normalise a training batch in this many equal parts (1: the whole batch, across all "
        "devices; the number of devices: each its own share, without communication)",
    )
    batch_norm_decay: float = setting(
        "model", 0.9, "of the running statistics in each step (torch's momentum is 1 less this)"
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "model", "float32", "compute dtype; parameters and statistics are float32"
    )
    precision: Precision = setting(
        "model",
        "default",
        "of float32 products and convolutions: default is the device's fastest (TF32, about three "
        "decimal digits, on an NVIDIA GPU; bfloat16 on a TPU), highest is full float32; changes "
        "nothing on a CPU and for bfloat16",
    )

    weights: str | None = setting(
        "transfer",
        None,
        "start from a .safetensors or .pth file, OWNER/NAME on the Hugging Face hub, or a run",
    )
    new_head: bool = setting(
        "transfer", False, "start with a new random fc, whatever head the weights have"
    )
    adapt_stem: bool = setting(
        "transfer", False, "use the centre of 7x7 stem weights for a 3x3 stem"
    )
    freeze: str = setting(
        "transfer",
        "none",
        "what is trained, and how: none, freeze_a, freeze_b, up_to:layer2, all_but:fc, "
        "layer_decay:0.7, or rules in order such as 'layer1=frozen layer4=0.1@5 *=trained'; "
        "'fc=2 *=trained' trains the head at twice the others' rate",
    )
    bn: BatchNormMode = setting(
        "transfer",
        "batch",
        "frozen BatchNorms follow each batch's statistics (batch), or keep theirs (frozen)",
    )
    cache_features: bool = setting(
        "transfer", False, "run the frozen layers once and train on their output (needs bn frozen)"
    )

    epochs: int = setting("training", 20, "passes over the train split")
    batch_size: int = setting(
        "training", 128, "images per step; the last batch of an epoch may be smaller"
    )
    optimizer: Literal[OptimizerName, "own"] = setting(
        "training",
        "adam",
        "adam, adamw, sgd (Nesterov), or muon (for convolution kernels, which it normalises; sgd "
        "for the rest); from Python also own, see fit",
    )
    learning_rate: float = setting("training", 0.01, "at the start, or the peak after a warm-up")
    momentum: float = setting("training", 0.9, "of sgd and muon")
    weight_decay: float = setting(
        "training",
        0.0,
        "on kernels, for adamw and sgd; with muon only on those that sgd trains, as the head's",
    )
    bias_scale: float = setting(
        "training", 1.0, "learning rate of BatchNorm's biases, as a multiple of the others'"
    )
    lookahead_steps: int | None = setting(
        "training",
        None,
        "Lookahead: synchronise with the slow weights every N steps; they follow by a part of the "
        "way",
        unset="none",
    )
    lookahead_share: float = setting(
        "training",
        LOOKAHEAD_SHARE,
        "the part of the way that the slow weights move at the run's end; it falls from 1 with the "
        "cube of the time",
    )
    label_smoothing: float = setting("training", 0.0, "as in torch's CrossEntropyLoss")
    clip_norm: float | None = setting(
        "training", None, "largest global norm of the trained gradients", unset="no clipping"
    )
    log_gradient_norm: bool = setting(
        "training", False, "record the global norm of the trained gradients for every epoch"
    )
    on_nonfinite: Literal["stop", "skip"] = setting(
        "training",
        "stop",
        "if a step's logits, gradients or statistics are not finite: stop, or skip its update and "
        "count it",
    )
    schedule: ScheduleName = setting("training", "cosine", "the learning rate's schedule")
    t_max: float | None = setting("training", None, "epochs to the schedule's end", unset="epochs")
    schedule_unit: ScheduleUnit = setting(
        "training", "step", "whether the rate moves every step or every epoch"
    )
    warmup_epochs: float = setting("training", 0.0, "linear warm-up, epochs")
    start_scale: float = setting(
        "training", 0.0, "rate at the warm-up's start, as a share of the peak"
    )
    final_scale: float = setting(
        "training", 0.0, "rate at the schedule's end, as a share of the peak"
    )
    after_schedule: AfterSchedule = setting(
        "training",
        "formula",
        "the rate after the schedule's end: its formula goes on (cosine rises again, as torch's; "
        "triangular stays), it stays at the final rate (final), or it begins again at the peak "
        "(restart)",
    )
    restart_epochs: float | None = setting(
        "training", None, "epochs from one restart to the next", unset="t_max"
    )

    patience: int | None = setting(
        "training",
        None,
        "stop when N validations in a row have not improved the best one",
        unset="train all epochs",
    )
    patience_metric: str = setting(
        "training",
        "validation_accuracy",
        "what patience watches; it chooses the best checkpoint: validation_accuracy, "
        "validation_loss, or from Python validation_NAME of a metric given to fit",
    )
    patience_mode: PatienceMode = setting(
        "training", "auto", "whether more (max) or less (min) of it is better; auto: by its name"
    )
    patience_min_delta: float = setting(
        "training", 0.0, "an improvement is more than this, in the metric's unit"
    )
    limit_batches: int | None = setting(
        "training",
        None,
        "smoke run: at most N batches of batch_size images of each split, evenly chosen",
        unset="all images",
    )
    validate_every: int = setting("training", 1, "validate every N epochs, and after the last one")
    eval_batch_size: int = setting(
        "training", 500, "images per step in evaluation; changes no result"
    )
    test_mirror: bool = setting(
        "training",
        False,
        "validate and test with the mean logits of an image and its mirror image; costs twice as "
        "much",
    )
    test_shift_pixels: int = setting(
        "training",
        0,
        "validate and test with the mean logits of an image (half the weight) and of itself "
        "shifted by N pixels up and left, and down and right; costs three times as much",
    )
    seed: int = setting("training", 0, "initial weights, order, augmentation and dropout")
