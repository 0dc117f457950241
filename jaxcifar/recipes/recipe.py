"""A recipe: every setting of a run, checked before anything is compiled or written."""

import copy
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Literal, get_type_hints

import jax
import jax.numpy as jnp
import optax

from jaxcifar.common.errors import FreezeError, RecipeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.data import DatasetInfo, check_split, dataset_info, located
from jaxcifar.models.resnet import ARCHITECTURES, Head, ResNet, Stem, make_resnet
from jaxcifar.recipes.checks import (
    LOOKAHEAD_SHARE,
    check_batches,
    check_freezing,
    check_values,
    check_weights,
    checked,
)
from jaxcifar.recipes.setting import setting
from jaxcifar.step.augment import (
    NORMALIZATIONS,
    Augment,
    Interpolation,
    make_augment,
    make_preprocess,
)
from jaxcifar.step.freeze import (
    Labels,
    frozen_batch_norms,
    label_params,
    labels_at,
)
from jaxcifar.step.freeze_text import parse_rules
from jaxcifar.step.optimizer import OptimizerName, make_optimizer
from jaxcifar.step.schedules import ScheduleName, ScheduleUnit, make_schedule, steps_per_epoch
from jaxcifar.step.state import param_shapes

Init = Literal["kaiming", "dirac"]
BatchNormMode = Literal["batch", "frozen"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run. Together with the data it determines the run's numbers.

    Args:
        info: what is known of the data, for a recipe whose data may be gone (see `from_dict`); by
            default they are looked up when needed. Recipes made by `replace` keep it, unless they
            name other data.

    Example:
        >>> from jaxcifar import Recipe
        >>> recipe = Recipe(dataset="digits", normalization="half", train_size=1_216, epochs=3)
        >>> recipe.steps_per_epoch  # of 128 images; the last one is smaller
        10
    """

    dataset: str = setting(
        "data",
        "cifar10",
        "cifar10, digits (small, shipped), folder:PATH (pictures in PATH/train/CLASS and "
        "PATH/test/CLASS; needs a resize), or tfds:NAME[/CONFIG] (prepared by TFDS as "
        "array_record); see normalization, too",
    )
    train_size: int | None = setting("data", None, "images trained on", unset="the dataset's split")
    validation_size: int | None = setting("data", None, "images validated on, disjoint from those")
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
    flip_rate: float = setting("data", 0.0, "augmentation: probability of a horizontal flip")
    rotate_degrees: float = setting("data", 0.0, "augmentation: largest rotation either way")
    interpolation: Interpolation = setting(
        "data", "nearest", "of the rotation: nearest (torchvision's default) or bilinear"
    )
    translate_pixels: int = setting(
        "data", 0, "augmentation: largest random shift, pixels after resizing"
    )
    cutout_pixels: int = setting(
        "data", 0, "augmentation: side of a square covered at random, pixels after resizing"
    )
    views: int | None = setting(
        "data", None, "augmentations of each image, taken in turn", unset="a new one each epoch"
    )

    architecture: str = setting("model", "resnet18", ", ".join(ARCHITECTURES))
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
    dtype: Literal["float32", "bfloat16"] = setting(
        "model", "float32", "compute dtype; parameters and statistics are float32"
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
        "layer_decay:0.7, or rules in order such as 'layer1=frozen layer4=0.1@5 *=trained'",
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
    optimizer: OptimizerName = setting(
        "training",
        "adam",
        "adam, adamw, sgd (Nesterov), or muon (for convolution kernels; sgd for the rest)",
    )
    learning_rate: float = setting("training", 0.01, "at the start, or the peak after a warm-up")
    momentum: float = setting("training", 0.9, "of sgd and muon")
    weight_decay: float = setting("training", 0.0, "on kernels, for adamw, sgd and muon")
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
        "that part at the run's end; it falls from 1 with the cube of the time",
    )
    label_smoothing: float = setting("training", 0.0, "as in torch's CrossEntropyLoss")
    clip_norm: float | None = setting(
        "training", None, "largest global norm of the trained gradients", unset="no clipping"
    )
    log_gradient_norm: bool = setting("training", False, "record that norm for every epoch")
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
    seed: int = setting("training", 0, "initial weights, order, augmentation and dropout")
    info: InitVar[DatasetInfo | None] = None

    def __post_init__(self, info: DatasetInfo | None) -> None:
        """Check every field.

        Raises:
            RecipeError: naming the field, its value and what it may be.
            DataError: unknown dataset or a split it cannot give.
        """
        same_data = info is not None and info.name == self.dataset
        object.__setattr__(self, "info", info if same_data else None)
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = checked(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        check_values(self)
        check_batches(self)
        check_weights(self)
        check_freezing(self)

    @property
    def dataset_info(self) -> DatasetInfo:
        """What is known of the data without loading them; "tfds:" ones lie in $TFDS_DATA_DIR."""
        known: DatasetInfo | None = vars(self)["info"]
        return known or dataset_info(self.dataset, follow_links=self.follow_links)

    @property
    def split_sizes(self) -> tuple[int, int]:
        """(train, validation) images, the dataset's own where they are not set."""
        info = self.dataset_info
        train, validation = info.default_split
        sizes = (
            train if self.train_size is None else self.train_size,
            validation if self.validation_size is None else self.validation_size,
        )
        return check_split(info, sizes, stratified=self.stratified)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return steps_per_epoch(self.split_sizes[0], self.batch_size)

    @property
    def image_size(self) -> int:
        """Height and width the network sees, pixels."""
        side = self.resize or self.dataset_info.side
        if side is None:
            raise RecipeError(
                f"the images of {self.dataset} have several sizes: set the height and width of the "
                "network's input with --resize"
            )
        return side

    def validates(self, epoch: int) -> bool:
        """Whether a validation follows this epoch."""
        return epoch % self.validate_every == 0 or epoch == self.epochs

    def make_model(self, epoch: int | None = None) -> ResNet:
        """The network; with `epoch`, its BatchNorms frozen as in that epoch."""
        model = make_resnet(
            self.architecture,
            self.dataset_info.num_classes,
            width=self.width,
            stem=self.stem,
            head=self.head,
            dropout_rate=self.dropout_rate,
            dtype=jnp.dtype(self.dtype),
            batch_norm_groups=self.batch_norm_groups,
        )
        if epoch is None or self.bn == "batch":
            return model
        return model.clone(frozen=frozen_batch_norms(self.make_labels(epoch)))

    def make_labels(self, epoch: int | None = None) -> Labels:
        """The label of each parameter; with `epoch`, the label that applies in that epoch.

        Raises:
            RecipeError: `freeze` cannot be read or does not fit the network.
        """
        # Of any rate: a traced one cannot be looked up.
        params = param_shapes(self.make_model().clone(dropout_rate=0.0))
        try:
            labels = label_params(params, parse_rules(self.freeze, params))
        except FreezeError as error:
            raise RecipeError(f"freeze {shown(self.freeze)}: {error}") from None
        return labels if epoch is None else labels_at(labels, epoch)

    def make_schedule(self) -> optax.Schedule:
        """The learning rate by step."""
        return make_schedule(
            self.schedule,
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            t_max=self.t_max,
            unit=self.schedule_unit,
            warmup_epochs=self.warmup_epochs,
            final_scale=self.final_scale,
            start_scale=self.start_scale,
        )

    def make_optimizer(self, epoch: int = 1) -> optax.GradientTransformation:
        """The optimizer with its schedule, for what is trained in an epoch."""
        return make_optimizer(
            self.optimizer,
            self.make_schedule(),
            labels=self.make_labels(epoch),
            steps_per_epoch=self.steps_per_epoch,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            bias_scale=self.bias_scale,
            lookahead_steps=self.lookahead_steps,
            lookahead_share=self.lookahead_share,
            total_steps=self.epochs * self.steps_per_epoch,
        )

    def make_preprocess(self) -> Callable[[jax.Array], jax.Array]:
        """uint8 or [0, 1] images to what the network sees: resized and normalised."""
        return make_preprocess(self.normalization, self.resize)

    def make_augment(self) -> Augment | None:
        """``(keys [n], images [n, h, w, 3]) -> images``, or None where nothing is asked for."""
        return make_augment(
            side=self.resize,
            flip_rate=self.flip_rate,
            rotate_degrees=self.rotate_degrees,
            interpolation=self.interpolation,
            translate_pixels=self.translate_pixels,
            cutout_pixels=self.cutout_pixels,
            cutout_fill=NORMALIZATIONS[self.normalization][0],
            dtype=jnp.dtype(self.dtype),
        )

    def with_traced(self, field: str, value: jax.Array) -> "Recipe":
        """The recipe with a number that is known only inside a program, which is not checked.

        Everything built from the returned recipe uses the traced value: the model's dropout, the
        optimizer, the schedule, the augmentation. Sweeps check the numbers first.
        """
        recipe = copy.copy(self)
        object.__setattr__(recipe, field, value)
        return recipe

    def located(self) -> "Recipe":
        """The same recipe with absolute paths of data and weights, for any working directory."""
        weights, dataset = self.weights, located(self.dataset)
        if weights is not None and os.path.exists(weights):
            weights = os.path.abspath(weights)
        # Neither checked again nor looked up.
        recipe = copy.copy(self)
        info = vars(self)["info"]
        info = info and dataclasses.replace(info, name=dataset)
        for name, value in (("dataset", dataset), ("weights", weights), ("info", info)):
            object.__setattr__(recipe, name, value)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], info: DatasetInfo | None = None) -> "Recipe":
        """The recipe of a config.json; with `info`, of data that need not be there.

        Raises:
            RecipeError: an unknown field (with the nearest name) or an invalid value.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise RecipeError(f"unknown field {shown(name)}{did_you_mean(name, names)}")
        return cls(**values, info=info)

    def differences(self, other: "Recipe") -> list[str]:
        """The fields in which two recipes differ, as "name: mine, not theirs"; a path may be
        relative in one and absolute in the other.
        """
        mine, theirs = self.located().to_dict(), other.located().to_dict()
        return [
            f"{name}: {mine[name]}, not {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]
