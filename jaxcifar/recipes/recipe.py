"""A recipe: every setting of a run, checked before anything is compiled or written."""

import copy
import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import optax

from jaxcifar.common.errors import FreezeError, RecipeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.common.summaries import literal, packed
from jaxcifar.data import DatasetInfo, Splits, check_split, dataset_info, located
from jaxcifar.models.resnet import ResNet, make_resnet
from jaxcifar.recipes.checks import (
    check_batches,
    check_freezing,
    check_own,
    check_values,
    check_weights,
    checked,
)
from jaxcifar.recipes.settings import OWN, Settings
from jaxcifar.recipes.sides import check_sides, train_side
from jaxcifar.step.augment import (
    NORMALIZATIONS,
    Augment,
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
from jaxcifar.step.optimizer import make_optimizer
from jaxcifar.step.schedules import make_schedule, steps_per_epoch
from jaxcifar.step.state import param_shapes


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
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
        check_sides(self)
        check_batches(self)
        check_own(self)
        check_weights(self)
        check_freezing(self)

    def __repr__(self) -> str:
        """The settings that are not the default; it can be evaluated unless it ends in "..."."""
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            plain = value is None or isinstance(value, str | int | float)
            if not plain or value != field.default:  # a traced number cannot be compared
                first, *others = [f"{piece} " for piece in literal(value)]
                pieces = [f"{field.name}={first}", *others]
                parts += [*pieces[:-1], f"{pieces[-1].rstrip()}, "]
        return packed("Recipe(", parts)

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

    def limited(self, images: int) -> int:
        """How many of a split's images are used, by `limit_batches`."""
        if self.limit_batches is None:
            return images
        return min(images, self.limit_batches * self.batch_size)

    @property
    def train_images(self) -> int:
        """Images trained on in an epoch."""
        return self.limited(self.split_sizes[0])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return steps_per_epoch(self.train_images, self.batch_size)

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
        """The network; with `epoch`, its BatchNorms frozen as in that epoch.

        Raises:
            RecipeError: the network is an own one.
        """
        if self.architecture == OWN:
            raise RecipeError(
                "architecture own is a network of your own: give it as the argument model"
            )
        model = make_resnet(
            self.architecture,
            self.dataset_info.num_classes,
            width=self.width,
            stem=self.stem,
            head=self.head,
            dropout_rate=self.dropout_rate,
            dtype=jnp.dtype(self.dtype),
            batch_norm_groups=self.batch_norm_groups,
            batch_norm_decay=self.batch_norm_decay,
        )
        if epoch is None or self.bn == "batch":
            return model
        return model.clone(frozen=frozen_batch_norms(self.make_labels(epoch)))

    def make_labels(self, epoch: int | None = None, *, params: Any = None) -> Labels:
        """The label of each parameter; with `epoch`, the label that applies in that epoch.

        Args:
            epoch: from 1.
            params: those of an own network, arrays or shapes.

        Raises:
            RecipeError: `freeze` cannot be read or does not fit the network.
        """
        if params is None:
            # Of any rate: a traced one cannot be looked up.
            params = param_shapes(self.make_model().clone(dropout_rate=0.0))
        try:
            labels = label_params(params, parse_rules(self.freeze, params))
        except FreezeError as error:
            hint = ""
            if self.architecture != OWN and re.search(r"[A-Z]", self.freeze):
                hint = "; rules for a network of your own go with architecture='own'"
            raise RecipeError(f"freeze {shown(self.freeze)}: {error}" + hint) from None
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
            after=self.after_schedule,
            restart_epochs=self.restart_epochs,
        )

    def make_optimizer(
        self,
        epoch: int = 1,
        *,
        labels: Labels | None = None,
        schedule: optax.Schedule | None = None,
    ) -> optax.GradientTransformation:
        """The optimizer with its schedule, for what is trained in an epoch.

        Args:
            epoch: from 1.
            labels: of that epoch, if they are known already.
            schedule: an own one instead of the recipe's.
        """
        if self.optimizer == "own":
            raise RecipeError("optimizer own is a transformation of your own: give it to fit as tx")
        return make_optimizer(
            self.optimizer,
            schedule or self.make_schedule(),
            labels=self.make_labels(epoch) if labels is None else labels,
            steps_per_epoch=self.steps_per_epoch,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            bias_scale=self.bias_scale,
            lookahead_steps=self.lookahead_steps,
            lookahead_share=self.lookahead_share,
            total_steps=self.epochs * self.steps_per_epoch,
        )

    def make_preprocess(self, epoch: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """uint8 or [0, 1] images to what the network sees: resized and normalised.

        Args:
            epoch: images to train on in this epoch, from 1; see `train_resize`. By default images
                to evaluate on.
        """
        side = self.image_size if epoch is None else train_side(self, epoch)
        shrink_to = None if side == self.image_size else side
        return make_preprocess(self.normalization, self.resize, shrink_to)

    def make_augment(self) -> Augment | None:
        """``(keys [n], images [n, h, w, 3]) -> images``, or None where nothing is asked for."""
        return make_augment(
            side=self.resize,
            flip_rate=self.flip_rate,
            rotate_degrees=self.rotate_degrees,
            interpolation=self.interpolation,
            translate_pixels=self.translate_pixels,
            translate_fill=self.translate_fill,
            cutout_pixels=self.cutout_pixels,
            cutout_fill=NORMALIZATIONS[self.normalization][0],
            dtype=jnp.dtype(self.dtype),
        )

    def with_traced(self, **values: Any) -> "Recipe":
        """The recipe with numbers that are known only inside a program, which are not checked.

        Everything built from the returned recipe uses the traced values: the model's dropout, the
        optimizer, the schedule, the augmentation. The recipe they come from was checked.
        """
        recipe = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(recipe, name, value)
        return recipe

    def on(self, splits: Splits) -> "Recipe":
        """The recipe for data that are arrays in memory, see `Splits.from_arrays`.

        They have no name under which a recipe could find them, so that they say themselves what
        the recipe has to know: number and names of the classes, sizes, side. For data that are
        loaded by name it is the same recipe.

        Raises:
            RecipeError: the recipe names other data than the default ones, other sizes, or another
                split.
        """
        if not isinstance(splits, Splits):
            raise RecipeError(
                f"the data must be Splits, not {type(splits).__name__}: make them of arrays by "
                "Splits.from_arrays, or load them by load_splits"
            )
        info = splits.info
        if info is None or info == vars(self)["info"]:
            return self
        sizes = (len(splits.train), len(splits.validation))
        asked = (self.train_size, self.validation_size)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if self.dataset not in (defaults["dataset"], splits.name):
            raise RecipeError(
                f"the recipe is for {self.dataset}, and the data are {splits.name}: leave the "
                "recipe's dataset at its default"
            )
        if any(size not in (None, own) for size, own in zip(asked, sizes, strict=True)):
            raise RecipeError(
                f"the recipe is for {asked[0]} train and {asked[1]} validation images, and the "
                f"arrays have {sizes[0]} and {sizes[1]}: leave its sizes unset"
            )
        for name, own in (("split_seed", splits.seed), ("stratified", splits.stratified)):
            if getattr(self, name) not in (defaults[name], own):
                raise RecipeError(
                    f"the recipe has {name} {getattr(self, name)}, and the arrays were split with "
                    f"{own}: give it to Splits.from_arrays, and leave it unset here"
                )
        return dataclasses.replace(
            self,
            dataset=splits.name,
            info=info,
            train_size=None,
            validation_size=None,
            split_seed=splits.seed,
            stratified=splits.stratified,
        )

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
        """The fields in which two recipes differ, as "name: mine, not theirs".

        A path may be relative in one and absolute in the other; that of weights which are gone, in
        this one.
        """
        mine, theirs = self.located().to_dict(), other.located().to_dict()
        if _is_path_of(self.weights, theirs["weights"]):
            mine["weights"] = theirs["weights"]
        return [
            f"{name}: {mine[name]}, not {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def check_is_recipe(value: object) -> None:
    """Refuse a preset's name, or the arguments of a call in another order.

    Raises:
        RecipeError: it is no `Recipe`.
    """
    if isinstance(value, Recipe):
        return
    way_out = "make one by Recipe(...), or get_experiment(NAME).recipe"
    if isinstance(value, str):
        way_out = f"get_experiment({shown(value)}).recipe is that of a preset"
    kind = shown(value) if isinstance(value, str) else type(value).__name__
    raise RecipeError(f"the recipe must be a Recipe, not {kind}: {way_out}")


def _is_path_of(given: str | None, absolute: str | None) -> bool:
    """Whether a path leads to an absolute one, whose file may be gone."""
    if given is None or absolute is None or not os.path.isabs(absolute):
        return False
    return os.path.abspath(given) == absolute
