"""The parts of a run, built once from its recipe for the epochs in which they stay the same.

Parts of the user's own, see `parts.Parts`, take the place of those that the recipe would make.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import optax

from jaxcifar.recipes.numbers import without_numbers
from jaxcifar.recipes.parts import NO_PARTS, Parts, own_variables
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.sides import side_starts
from jaxcifar.step.augment import Augment
from jaxcifar.step.freeze import Labels, labels_at, stage_starts
from jaxcifar.step.precision import computed_at
from jaxcifar.step.steps import BatchAugment, EvalStep, TrainStep, make_eval_step, make_train_step


class StageRecipe(NamedTuple):
    """What a recipe builds for a stage: the epochs in which the same program trains.

    That is, the same parameters, on images of one side, and the schedule on one side of its end.

    Attributes:
        recipe: that of the run.
        parts: the user's own, see there.
        first_epoch: of the stage, from 1.
        last_epoch: of the stage.
        model: the network; its BatchNorms of frozen modules are frozen if `bn` is "frozen".
        labels: what is trained, and how.
        tx: the optimizer.
        preprocess: uint8 images to the network's input, in evaluation.
        train_preprocess: the same in training, see `train_resize`.
        augment: the recipe's: ``(keys [n], images) -> images``, or None.
    """

    recipe: Recipe
    parts: Parts
    first_epoch: int
    last_epoch: int
    model: nn.Module
    labels: Labels
    tx: optax.GradientTransformation
    preprocess: Callable[[jax.Array], jax.Array]
    train_preprocess: Callable[[jax.Array], jax.Array]
    augment: Augment | None

    def make_train_step(self, cut: str | None = None, *, axis_name: str | None = None) -> TrainStep:
        """The stage's train step.

        Args:
            cut: the batches are the features after this child of the network, not images.
            axis_name: the mapped axis over which a batch is divided, under pmap.
        """
        model = self.model if axis_name is None else self.model.clone(axis_name=axis_name)
        step = make_train_step(
            model,
            self.tx,
            normalize=self.train_preprocess,
            label_smoothing=self.recipe.label_smoothing,
            labels=self.labels,
            start=cut,
            log_gradient_norm=self.recipe.log_gradient_norm,
            skip_nonfinite=self.recipe.on_nonfinite == "skip",
            axis_name=axis_name,
            loss=self.parts.loss,
            own_metrics=self.parts.metrics,
        )
        return computed_at(self.recipe.precision)(step)

    def make_eval_step(self, cut: str | None = None) -> EvalStep:
        """The scoring of a batch, with mirror and shifted images where the recipe says so."""
        step = make_eval_step(
            self.model,
            normalize=self.preprocess,
            start=cut,
            mirror=self.recipe.test_mirror,
            shift=self.recipe.test_shift_pixels,
            loss=self.parts.loss,
            own_metrics=self.parts.metrics,
            one_hot=self.parts.mixes,
        )
        return computed_at(self.recipe.precision)(step)

    @property
    def augment_batch(self) -> BatchAugment | None:
        """The recipe's augmentation of a batch, and then the user's; None without both."""
        first, own = self.augment, self.parts.augment
        if first is None:
            return own and computed_at(self.recipe.precision)(own)

        @computed_at(self.recipe.precision)
        def augment(
            keys: jax.Array, images: jax.Array, labels: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            images = first(keys, images)
            # Other draws than those of the recipe's.
            return (images, labels) if own is None else own(_other(keys), images, labels)

        return augment


def _other(keys: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, 4))(keys)


def make_stage(recipe: Recipe, epoch: int = 1, parts: Parts = NO_PARTS) -> StageRecipe:
    """Build the parts of the stage that `epoch` lies in."""
    all_labels = make_labels(recipe, parts)
    first_epoch, last_epoch = _around(epoch, all_labels, recipe)
    end = schedule_end(recipe)
    if end is None or last_epoch <= end:
        # One program before the schedule's end, whether the run goes on after it, will be extended
        # or not: XLA rounds a rate that has more terms in another way, in the last bit and before
        # the end, too.
        recipe = recipe.with_traced(after_schedule="formula", restart_epochs=None)
    labels = labels_at(all_labels, epoch)
    return StageRecipe(
        recipe=recipe,
        parts=parts,
        first_epoch=first_epoch,
        last_epoch=last_epoch,
        # Not by its truth: a module may have a length.
        model=recipe.make_model(epoch) if parts.model is None else parts.model,
        labels=labels,
        tx=parts.make_transformation(labels)
        or recipe.make_optimizer(epoch, labels=labels, schedule=parts.schedule),
        preprocess=recipe.make_preprocess(),
        train_preprocess=recipe.make_preprocess(epoch),
        augment=recipe.make_augment(),
    )


def make_labels(recipe: Recipe, parts: Parts = NO_PARTS) -> Labels:
    """The label of each parameter, also of those that are trained later.

    Raises:
        RecipeError: `freeze` cannot be read or does not fit the network.
    """
    if parts.model is None:
        return recipe.make_labels()
    return recipe.make_labels(params=own_variables(parts.model, recipe.image_size)["params"])


def stage_epochs(recipe: Recipe, epoch: int, parts: Parts = NO_PARTS) -> tuple[int, int]:
    """(first, last): the epochs around this one in which the same program trains."""
    return _around(epoch, make_labels(recipe, parts), recipe)


def _around(epoch: int, labels: Labels, recipe: Recipe) -> tuple[int, int]:
    end = schedule_end(recipe)
    ends = [] if end is None else [end + 1]
    starts = [*stage_starts(labels), *side_starts(recipe), *ends]
    first = max(start for start in starts if start <= max(epoch, 1))
    return first, min([start - 1 for start in starts if start > first], default=recipe.epochs)


class ProgramKey(NamedTuple):
    """What the programs of a run depend on.

    A name such as "arrays" or a folder may stand for other data from one run to the next, so that
    the recipe alone does not tell.
    """

    recipe: Recipe  # without numbers
    parts: Parts
    num_classes: int
    side: int | None


def program_key(recipe: Recipe, parts: Parts = NO_PARTS) -> ProgramKey:
    """The key under which compiled programs are shared, see `numbers.without_numbers`."""
    info = recipe.dataset_info
    return ProgramKey(without_numbers(recipe), parts, info.num_classes, info.side)


def schedule_end(recipe: Recipe) -> int | None:
    """The last whole epoch before the schedule's end, if something else than its formula follows.

    From 0; None where the end is not reached.
    """
    end = recipe.t_max
    if recipe.after_schedule == "formula" or end is None or end >= recipe.epochs:
        return None
    return int(end)
