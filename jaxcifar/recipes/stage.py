"""The parts of a run, built once from its recipe for the epochs in which they stay the same."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import optax

from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.augment import Augment
from jaxcifar.step.freeze import Labels, stage_starts
from jaxcifar.step.steps import EvalStep, TrainStep, make_eval_step, make_train_step


class StageRecipe(NamedTuple):
    """What a recipe builds for a stage: the epochs in which the same program trains.

    That is, the same parameters, and the schedule on one side of its end.

    Attributes:
        recipe: that of the run.
        first_epoch: of the stage, from 1.
        last_epoch: of the stage.
        model: the network; its BatchNorms of frozen modules are frozen if `bn` is "frozen".
        labels: what is trained, and how.
        tx: the optimizer.
        preprocess: uint8 images to the network's input.
        augment: ``(keys [n], images) -> images``, or None.
    """

    recipe: Recipe
    first_epoch: int
    last_epoch: int
    model: ResNet
    labels: Labels
    tx: optax.GradientTransformation
    preprocess: Callable[[jax.Array], jax.Array]
    augment: Augment | None

    def make_train_step(self, cut: str | None = None, *, axis_name: str | None = None) -> TrainStep:
        """The stage's train step.

        Args:
            cut: the batches are the features after this child of the network, not images.
            axis_name: the mapped axis over which a batch is divided, under pmap.
        """
        return make_train_step(
            self.model.clone(axis_name=axis_name),
            self.tx,
            normalize=self.preprocess,
            label_smoothing=self.recipe.label_smoothing,
            labels=self.labels,
            start=cut,
            log_gradient_norm=self.recipe.log_gradient_norm,
            skip_nonfinite=self.recipe.on_nonfinite == "skip",
            axis_name=axis_name,
        )

    def make_eval_step(self, cut: str | None = None) -> EvalStep:
        """The scoring of a batch, with mirror images where the recipe says so."""
        return make_eval_step(
            self.model, normalize=self.preprocess, start=cut, mirror=self.recipe.test_mirror
        )


def make_stage(recipe: Recipe, epoch: int = 1) -> StageRecipe:
    """Build the parts of the stage that `epoch` lies in."""
    first_epoch, last_epoch = stage_epochs(recipe, epoch)
    end = schedule_end(recipe)
    if end is not None and last_epoch <= end:
        # The program of a run that ends there, which may be extended: XLA rounds a rate that has
        # more terms in another way, in the last bit and before the end, too.
        recipe = replace(recipe, after_schedule="formula", restart_epochs=None)
    return StageRecipe(
        recipe=recipe,
        first_epoch=first_epoch,
        last_epoch=last_epoch,
        model=recipe.make_model(epoch),
        labels=recipe.make_labels(epoch),
        tx=recipe.make_optimizer(epoch),
        preprocess=recipe.make_preprocess(),
        augment=recipe.make_augment(),
    )


def stage_epochs(recipe: Recipe, epoch: int) -> tuple[int, int]:
    """(first, last): the epochs around this one in which the same program trains."""
    end = schedule_end(recipe)
    starts = [*stage_starts(recipe.make_labels()), *([] if end is None else [end + 1])]
    first = max(start for start in starts if start <= max(epoch, 1))
    return first, min([start - 1 for start in starts if start > first], default=recipe.epochs)


def schedule_end(recipe: Recipe) -> int | None:
    """The last whole epoch before the schedule's end, if something else than its formula follows.

    From 0; None where the end is not reached.
    """
    end = recipe.t_max
    if recipe.after_schedule == "formula" or end is None or end >= recipe.epochs:
        return None
    return int(end)
