"""A recipe: every setting of a run, checked before anything is compiled or written."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import jax
import jax.numpy as jnp
import optax

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.data import DatasetInfo, Splits, check_split, dataset_info, load_dataset
from jaxcifar.models.resnet import ARCHITECTURES, Head, ResNet, Stem, make_resnet
from jaxcifar.recipes.checks import _check_choice, _check_type
from jaxcifar.step.augment import (
    NORMALIZATIONS,
    Augment,
    Interpolation,
    make_augment,
    make_preprocess,
)
from jaxcifar.step.freeze import (
    FreezeError,
    Labels,
    frozen_batch_norms,
    frozen_prefix,
    label_params,
    labels_at,
    parse_rules,
    stage_starts,
)
from jaxcifar.step.optimizer import OptimizerName, make_optimizer
from jaxcifar.step.schedules import ScheduleName, ScheduleUnit, make_schedule, steps_per_epoch

Init = Literal["kaiming", "dirac"]
MOST_EPOCHS = 100_000  # so that they fit in there
BatchNormMode = Literal["batch", "frozen"]
# What cannot run on any machine is refused here, before it is compiled or allotted.
MOST_WIDTH = 4_096  # a ResNet-18 of that width has 46 billion parameters, 183 GB
MOST_PIXELS = 16_384  # a side: one such image takes 3 GB as float32, and a layer's maps far more


def setting(group: str, default: Any, text: str) -> Any:
    """A field with the group and text that `scripts/train.py --help` shows."""
    return dataclasses.field(default=default, metadata={"group": group, "help": text})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run. Together with the data it determines the run's numbers."""

    dataset: str = setting(
        "data",
        "cifar10",
        "cifar10, digits (small, shipped), folder:PATH (pictures in PATH/train/CLASS and "
        "PATH/test/CLASS; needs a resize), or tfds:NAME[/CONFIG] (prepared by TFDS as "
        "array_record); see normalization, too",
    )
    train_size: int | None = setting(
        "data", None, "images trained on (default: the dataset's split)"
    )
    validation_size: int | None = setting("data", None, "images validated on, disjoint from those")
    stratified: bool = setting("data", False, "keep the class proportions in the split")
    split_seed: int = setting("data", 0, "chooses the images of the split")
    normalization: str = setting("data", "cifar10", f"mean and std: {', '.join(NORMALIZATIONS)}")
    resize: int | None = setting(
        "data",
        None,
        "height and width the network sees, pixels (default: the dataset's); where its images are "
        "of several sizes, their shorter side is brought to it and the centre cut out",
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
        "data", None, "augmentations of each image, taken in turn (default: a new one each epoch)"
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
        "of random weights: torchvision's (kaiming), or in the stages as much of them as can be "
        "hands on its input (dirac)",
    )
    whiten: bool = setting(
        "model",
        False,
        "begin with a first layer that decorrelates the patches of the train images (3x3 stem)",
    )
    batch_norm_groups: int = setting(
        "model",
        1,
        "equal parts of a batch normalised each by itself in training (1: the whole batch, on all "
        "devices together; the number of devices: each by itself, without communication)",
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "model", "float32", "of the computation; parameters and statistics are float32"
    )

    weights: str | None = setting(
        "transfer",
        None,
        "start from a .safetensors or .pth file, OWNER/NAME on the Hugging Face hub, or a run",
    )
    new_head: bool = setting("transfer", False, "draw fc anew, whatever head the weights have")
    adapt_stem: bool = setting("transfer", False, "let a 3x3 stem take the centre of a 7x7 one")
    freeze: str = setting(
        "transfer",
        "none",
        "what is trained, and how: none, freeze_a, freeze_b, up_to:layer2, all_but:fc, "
        "layer_decay:0.7, or rules in order such as 'layer1=frozen layer4=0.1@5 *=trained'",
    )
    bn: BatchNormMode = setting(
        "transfer",
        "batch",
        "statistics of frozen BatchNorms: of each batch, still moving (batch), or frozen, too",
    )
    cache_features: bool = setting(
        "transfer", False, "run the frozen front once and train on what it puts out (bn frozen)"
    )

    epochs: int = setting("training", 20, "passes over the train split")
    batch_size: int = setting(
        "training", 128, "images a step; the last batch of an epoch may be smaller"
    )
    optimizer: OptimizerName = setting(
        "training", "adam", "adam, adamw, sgd (Nesterov), or muon (sgd but on convolution kernels)"
    )
    learning_rate: float = setting("training", 0.01, "at the start, or the peak after a warm-up")
    momentum: float = setting("training", 0.9, "of sgd and muon")
    weight_decay: float = setting("training", 0.0, "on kernels, for adamw, sgd and muon")
    bias_scale: float = setting(
        "training", 1.0, "learning rate of BatchNorm's biases, times that of the rest"
    )
    lookahead_steps: int | None = setting(
        "training",
        None,
        "steps from one return to the slow weights, which follow by a part of the way, to the next "
        "(Lookahead; default: none)",
    )
    lookahead_share: float = setting(
        "training", 0.25, "that part at the run's end; it falls from 1 with the cube of the time"
    )
    label_smoothing: float = setting("training", 0.0, "as in torch's CrossEntropyLoss")
    clip_norm: float | None = setting(
        "training", None, "largest global norm of the trained gradients (default: no clipping)"
    )
    log_gradient_norm: bool = setting("training", False, "note that norm for every epoch")
    on_nonfinite: Literal["stop", "skip"] = setting(
        "training",
        "stop",
        "at a step whose logits, gradients or statistics are not finite: stop, or skip its update "
        "and count it",
    )
    schedule: ScheduleName = setting("training", "cosine", "of the learning rate")
    t_max: float | None = setting(
        "training", None, "epochs to the schedule's end (default: epochs)"
    )
    schedule_unit: ScheduleUnit = setting(
        "training", "step", "whether the rate moves every step or every epoch"
    )
    warmup_epochs: float = setting("training", 0.0, "linear warm-up, epochs")
    start_scale: float = setting(
        "training", 0.0, "rate at the warm-up's start, share of what it warms up to"
    )
    final_scale: float = setting("training", 0.0, "rate at the schedule's end, share of the peak")

    validate_every: int = setting(
        "training", 1, "epochs from one validation to the next; the last epoch always has one"
    )
    eval_batch_size: int = setting(
        "training", 500, "images a step in evaluation; changes no result"
    )
    test_mirror: bool = setting(
        "training",
        False,
        "validate and test on the mean logits of an image and its mirror image, at twice the cost",
    )
    seed: int = setting("training", 0, "initial weights, order, augmentation and dropout")

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            RecipeError: naming the field, its value and what it may be.
            DataError: unknown dataset or a split it cannot give.
        """
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            _check_type(name, value, hint)
            if type(value) is int and float in (hint, *get_args(hint)):
                object.__setattr__(self, name, float(value))  # no int of JAX's holds 2**31
        _check_choice("normalization", self.normalization, NORMALIZATIONS)
        _check_choice("architecture", self.architecture, ARCHITECTURES)
        counts = ("width", "epochs", "batch_size", "eval_batch_size", "validate_every")
        for name in (*counts, "batch_norm_groups"):
            _check(self, name, getattr(self, name) >= 1, "must be at least 1")
        not_negative = ("translate_pixels", "cutout_pixels", "weight_decay", "warmup_epochs")
        for name in (*not_negative, "final_scale"):
            _check(self, name, getattr(self, name) >= 0, "must not be negative")
        for name in ("seed", "split_seed"):
            value = getattr(self, name)
            _check(self, name, 0 <= value < 2**31, "must be at least 0 and under 2**31")
        for name in ("dropout_rate", "momentum", "label_smoothing"):
            _check(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and under 1")
        for name in ("flip_rate", "start_scale"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "must lie between 0 and 1")
        _check(
            self,
            "start_scale",
            self.start_scale == 0 or self.warmup_epochs > 0,
            "is where a warm-up starts: with no --warmup-epochs it must be 0",
        )
        default = type(self).lookahead_share
        _check(
            self,
            "lookahead_share",
            self.lookahead_share == default or self.lookahead_steps is not None,
            f"is for --lookahead-steps: without them it must be {default}",
        )
        _check(self, "rotate_degrees", 0 <= self.rotate_degrees <= 180, "must lie in 0 to 180")
        for name in ("learning_rate", "bias_scale"):
            _check(self, name, getattr(self, name) > 0, "must be positive")
        _check(
            self,
            "lookahead_share",
            0 < self.lookahead_share <= 1,
            "must be above 0 and at most 1",
        )
        for name in ("clip_norm", "views", "t_max", "resize", "lookahead_steps"):
            value = getattr(self, name)
            _check(self, name, value is None or value > 0, "must be positive")
        for name, most in (
            ("width", MOST_WIDTH),
            ("resize", MOST_PIXELS),
            ("epochs", MOST_EPOCHS),
        ):
            _check(self, name, (getattr(self, name) or 0) <= most, f"must be at most {most:,}")
        _check(
            self,
            "weight_decay",
            self.optimizer != "adam" or self.weight_decay == 0,
            "needs --optimizer adamw (or sgd)",
        )
        side = self.image_size
        for name in ("translate_pixels", "cutout_pixels"):
            _check(self, name, getattr(self, name) < side, f"must be under {side} pixels")
        train_size, _ = self.split_sizes
        if self.batch_size > train_size:
            raise RecipeError(
                f"batch_size {self.batch_size} is larger than the train split of {train_size} "
                "images: lower --batch-size or raise --train-size"
            )
        groups = self.batch_norm_groups
        if self.batch_size % groups or train_size % self.batch_size % groups:
            raise RecipeError(
                f"batch_norm_groups {groups} must divide batch_size {self.batch_size} and the last "
                f"batch of an epoch ({train_size % self.batch_size or self.batch_size} images)"
            )
        if self.epochs * self.steps_per_epoch >= 2**31:  # the state's step is an int32
            raise RecipeError(
                f"epochs {self.epochs} of {self.steps_per_epoch:,} steps each are 2**31 or more: "
                "lower --epochs or raise --batch-size"
            )
        halvings = 5 if self.stem == "imagenet" else 3
        one_image = groups in (self.batch_size, train_size % self.batch_size)
        if one_image and self.image_size <= 2**halvings:  # torch refuses this batch, too
            raise RecipeError(
                f"batch_size {self.batch_size} leaves a batch of one image among {train_size}, "
                "which BatchNorm has no variance for: choose another --batch-size"
                + (" or fewer --batch-norm-groups" if groups > 1 else "")
            )

        if self.test_mirror and self.cache_features:
            raise RecipeError(
                "test_mirror: cached features are of the images as they are, not of their mirror "
                "images; use --no-test-mirror or --no-cache-features"
            )
        self._check_transfer()

    def _check_transfer(self) -> None:
        for name in ("new_head", "adapt_stem"):
            if getattr(self, name) and self.weights is None:
                raise RecipeError(f"{name} says what to do with weights: name them by --weights")
        _check(
            self,
            "adapt_stem",
            not self.adapt_stem or self.stem == "cifar",
            "is for --stem cifar, which 7x7 kernels do not fit",
        )
        if self.weights is not None and (self.whiten or self.init != "kaiming"):
            raise RecipeError(
                f"init {self.init}, whiten {self.whiten} change random weights, and these come "
                f"from {shown(self.weights)}: use --init kaiming --no-whiten"
            )
        if self.whiten and self.stem != "cifar":
            raise RecipeError(
                f"whiten is for 3x3 patches, not for the stem {self.stem}: use --stem cifar or "
                "--no-whiten"
            )
        _check(self, "resize", not self.whiten or self.image_size >= 3, "must be 3 for --whiten")
        augmented = self.make_augment() is not None
        if self.views is not None and not augmented:
            raise RecipeError(f"views {self.views} needs an augmentation, such as --flip-rate 0.5")
        if self.freeze == "none" and self.bn == "batch" and not self.cache_features:
            return  # presets are made at import: without a trace where there is nothing to check
        labels = self.make_labels()
        late = [start for start in stage_starts(labels) if start > self.epochs]
        if late:
            raise RecipeError(
                f"freeze {shown(self.freeze)} begins to train something in epoch {late[-1]}, and "
                f"the run ends with epoch {self.epochs}"
            )
        first = labels_at(labels, 1)
        if self.bn == "frozen" and not frozen_batch_norms(first):
            raise RecipeError("bn frozen changes nothing where no BatchNorm is: see --freeze")
        if not self.cache_features:
            return
        if self.bn != "frozen" and frozen_batch_norms(first):
            raise RecipeError(
                "cache_features: frozen BatchNorms that normalise with each batch's statistics "
                "(bn batch) never put out the same twice; use --bn frozen"
            )
        if not frozen_prefix(first):
            raise RecipeError(
                f"cache_features: with freeze {shown(self.freeze)} the first layer is trained, so "
                "there is nothing to cache; freeze from the stem on, as up_to:layer1 does"
            )
        if augmented and self.views is None:
            raise RecipeError(
                "cache_features: with a new augmentation each epoch no two inputs are the same; "
                "choose a number of stored ones (--views 4) or none (--flip-rate 0, "
                "--rotate-degrees 0, --translate-pixels 0, --cutout-pixels 0)"
            )

    @property
    def dataset_info(self) -> DatasetInfo:
        """What is known of the data without loading them; "tfds:" ones lie in $TFDS_DATA_DIR."""
        return dataset_info(self.dataset)

    @property
    def split_sizes(self) -> tuple[int, int]:
        """(train, validation) images, the dataset's own where they are not set."""
        train, validation = self.dataset_info.default_split
        sizes = (
            train if self.train_size is None else self.train_size,
            validation if self.validation_size is None else self.validation_size,
        )
        return check_split(self.dataset, sizes, stratified=self.stratified)

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
                f"the images of {self.dataset} are of several sizes: say by --resize which height "
                "and width the network sees"
            )
        return side

    def validates(self, epoch: int) -> bool:
        """Whether a validation follows this epoch."""
        return epoch % self.validate_every == 0 or epoch == self.epochs

    def make_model(self, epoch: int | None = None) -> ResNet:
        """The network; with `epoch`, with the BatchNorms frozen that are so in that epoch."""
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
        """The label of each parameter; with `epoch`, as it is in force then.

        Raises:
            RecipeError: `freeze` cannot be read or does not fit the network.
        """
        # Of any rate: a traced one cannot be looked up.
        params = _param_shapes(self.make_model().clone(dropout_rate=0.0))
        try:
            labels = label_params(params, parse_rules(self.freeze, params))
        except FreezeError as error:
            raise RecipeError(f"freeze {shown(self.freeze)}: {error}") from None
        return labels if epoch is None else labels_at(labels, epoch)

    def stage_of(self, epoch: int) -> tuple[int, int]:
        """(first, last): the epochs around this one in which the same leaves are trained."""
        starts = stage_starts(self.make_labels())
        first = max(start for start in starts if start <= max(epoch, 1))
        return first, min([start - 1 for start in starts if start > first], default=self.epochs)

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

        What it makes there is as of the number: the model's dropout, the optimizer, the schedule,
        the augmentation. See `sweeps`, which checks the numbers first.
        """
        recipe = copy.copy(self)
        object.__setattr__(recipe, field, value)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe of a config.json.

        Raises:
            RecipeError: an unknown field (with the nearest name) or a value that cannot be.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise RecipeError(f"unknown field {shown(name)}{did_you_mean(name, names)}")
        return cls(**values)

    def differences(self, other: "Recipe") -> list[str]:
        """The fields in which two recipes differ, as "name: mine, not theirs"."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [
            f"{name}: {mine[name]}, not {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def load_splits(
    recipe: Recipe, data_dir: str | Path | None = None, *, lazy: bool = False
) -> Splits:
    """The data a recipe names, split as it says.

    Args:
        recipe: what is wanted.
        data_dir: where TFDS data lies; else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        lazy: see `data.load_dataset`.

    Raises:
        RecipeError: `data_dir` has other data of the name than what the recipe was checked with.
        DataError: the data cannot be had.
    """
    if data_dir and dataset_info(recipe.dataset, data_dir=data_dir) != recipe.dataset_info:
        raise RecipeError(
            f"{recipe.dataset} in {data_dir} is not what the recipe was checked with: set "
            f"TFDS_DATA_DIR={data_dir}"
        )
    return load_dataset(
        recipe.dataset,
        split=recipe.split_sizes,
        stratified=recipe.stratified,
        seed=recipe.split_seed,
        data_dir=data_dir,
        side=recipe.resize,
        lazy=lazy,
    )


@lru_cache(maxsize=16)
def _param_shapes(model: ResNet) -> Any:
    """The shapes of the parameters; tracing ResNet-18 for them takes 0.4 s."""

    def init() -> Any:
        image = jnp.zeros((1, 32, 32, 3), jnp.float32)
        return model.init(jax.random.key(0), image, train=False)["params"]

    return jax.eval_shape(init)


def _check(recipe: Recipe, name: str, fine: bool, text: str) -> None:
    if not fine:
        raise RecipeError(f"{name} {text}, not {getattr(recipe, name)}")
