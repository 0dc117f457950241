"""One training step and one evaluation step: pure functions, ignorant of devices and of epochs."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcifar.step.freeze import TRAINED, Labels, merge_params, split_params
from jaxcifar.step.metrics import Metrics, cross_entropy, find_nonfinite, measure, total
from jaxcifar.step.state import Draw, TrainState, draw_key

Batch = Mapping[str, jax.Array]  # image [n h w 3] uint8 or float32, label [n] int32, mask [n] bool
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Mapping[str, Any], Batch], Metrics]
Normalize = Callable[[jax.Array], jax.Array]


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    normalize: Normalize,
    label_smoothing: float = 0.0,
    labels: Labels | None = None,
    start: str | None = None,
    log_gradient_norm: bool = False,
    skip_nonfinite: bool = False,
    axis_name: str | None = None,
) -> TrainStep:
    """Build ``(state, batch) -> (state, metrics)``: mean cross-entropy, one update.

    Every image of a training batch counts (BatchNorm's statistics are over all of them): a train
    batch has no padding and needs no mask. The metrics are of the batch as the step saw it, before
    the update. Dropout draws from (run key, step).

    Args:
        labels: as given to `make_optimizer`. They decide what is trained, not how frozen BatchNorms
            normalise: that is `model.frozen`, see `partition.frozen_batch_norms`. Only trainable
            leaves are differentiated: XLA would drop the backward pass of the others by itself only
            until something, such as a norm, reads their gradients.
        start: the batch's "image" is not an image but what this child of the network put out.
        log_gradient_norm: measure the global norm of the trainable leaves' gradients, too, before
            any clipping.
        skip_nonfinite: a step whose logits, gradients or statistics are not finite changes nothing
            but the step's number. (optax's `apply_if_finite` guards neither the statistics nor that
            number.) They are counted in the metrics either way.
        axis_name: mapped axis over which the batch is divided, under pmap; the model's likewise.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        images = batch["image"] if start is not None else normalize(batch["image"])
        label = batch["label"]
        all_trained = jax.tree.map(lambda _: TRAINED, state.params)
        treatments = all_trained if labels is None else labels
        trainable, frozen = split_params(state.params, treatments)
        cut: dict[str, Any] = {} if start is None else {"start": start}

        def loss_fn(trainable: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            logits, updates = model.apply(
                {"params": merge_params(trainable, frozen), "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": draw_key(state.key, Draw.DROPOUT, state.step)},
                **cut,
            )
            loss = cross_entropy(logits, label, label_smoothing)
            return jnp.mean(loss), (loss, logits, updates["batch_stats"])

        gradients, (loss, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(trainable)
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
        nonfinite = find_nonfinite(logits, gradients, batch_stats, axis_name=axis_name)
        norm = optax.tree.norm(gradients) if log_gradient_norm else 0.0
        # The optimizer is built for the whole tree. Frozen leaves are not added to, not even zero:
        # that would turn a -0.0 into 0.0.
        unmoved = jax.tree.map(jnp.zeros_like, frozen)
        updates, opt_state = tx.update(
            merge_params(gradients, unmoved), state.opt_state, state.params
        )
        updates, _ = split_params(updates, treatments)
        changed = (
            merge_params(optax.apply_updates(trainable, updates), frozen),
            batch_stats,
            opt_state,
        )
        if skip_nonfinite:
            unchanged = (state.params, state.batch_stats, state.opt_state)
            changed = jax.tree.map(partial(jnp.where, nonfinite == 0), changed, unchanged)
        params, batch_stats, opt_state = changed
        mask = jnp.ones(label.shape, bool)
        sums = measure(loss, logits, label, mask, gradient_norm=norm, nonfinite_kinds=nonfinite)
        if skip_nonfinite:
            # Or the epoch's loss would not be finite, either.
            nothing = measure(loss, logits, label, ~mask, nonfinite_kinds=nonfinite)
            sums = jax.tree.map(partial(jnp.where, nonfinite == 0), sums, nothing)
        state = TrainState(
            key=state.key,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, sums if axis_name is None else total(sums, axis_name)

    return train_step


def make_eval_step(
    model: nn.Module, *, normalize: Normalize, start: str | None = None, mirror: bool = False
) -> EvalStep:
    """Build ``(variables, batch) -> metrics`` in evaluation mode, over the images in the mask.

    With `start` the batch's "image" is what that child of the network put out. With `mirror` the
    logits are the mean over an image and its mirror image, as in airbench (Jordan 2024,
    arXiv:2404.00498), whose shifted crops are left out.

    Raises:
        ValueError: `mirror` with `start`: what a child put out has no mirror image.
    """
    if mirror and start is not None:
        raise ValueError(f"mirror needs images, and the batch is what {start} put out")

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> Metrics:
        images = batch["image"] if start is not None else normalize(batch["image"])
        logits = evaluation_logits(model, variables, images, start=start, mirror=mirror)
        loss = cross_entropy(logits, batch["label"])
        return measure(loss, logits, batch["label"], batch["mask"])

    return eval_step


def evaluation_logits(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    start: str | None = None,
    mirror: bool = False,
) -> jax.Array:
    """Logits [n, classes] in evaluation mode; `images` are normalised, `start` and `mirror` as in
    `make_eval_step`.
    """
    cut: dict[str, Any] = {} if start is None else {"start": start}

    def score(images: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply(variables, images, train=False, **cut))

    logits = score(images)
    return (logits + score(images[:, :, ::-1])) / 2 if mirror else logits
