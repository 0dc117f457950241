"""One training step and one evaluation step: pure functions, ignorant of devices and of epochs."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcifar.metrics import Metrics, cross_entropy, measure
from jaxcifar.partition import TRAINED, Labels, merge_params, split_params
from jaxcifar.state import Stream, TrainState, draw_key

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
                rngs={"dropout": draw_key(state.key, Stream.DROPOUT, state.step)},
                **cut,
            )
            loss = cross_entropy(logits, label, label_smoothing)
            return jnp.mean(loss), (loss, logits, updates["batch_stats"])

        gradients, (loss, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(trainable)
        norm = optax.tree.norm(gradients) if log_gradient_norm else 0.0
        # The optimizer is built for the whole tree. Frozen leaves are not added to, not even zero:
        # that would turn a -0.0 into 0.0.
        zeros = jax.tree.map(jnp.zeros_like, frozen)
        updates, opt_state = tx.update(
            merge_params(gradients, zeros), state.opt_state, state.params
        )
        updates, _ = split_params(updates, treatments)
        state = TrainState(
            key=state.key,
            step=state.step + 1,
            params=merge_params(optax.apply_updates(trainable, updates), frozen),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        mask = jnp.ones(label.shape, bool)
        return state, measure(loss, logits, label, mask, gradient_norm=norm)

    return train_step


def make_eval_step(model: nn.Module, *, normalize: Normalize, start: str | None = None) -> EvalStep:
    """Build ``(variables, batch) -> metrics`` in evaluation mode, over the images in the mask.

    With `start` the batch's "image" is what that child of the network put out.
    """

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> Metrics:
        if start is None:
            logits = jnp.asarray(model.apply(variables, normalize(batch["image"]), train=False))
        else:
            logits = jnp.asarray(model.apply(variables, batch["image"], train=False, start=start))
        loss = cross_entropy(logits, batch["label"])
        return measure(loss, logits, batch["label"], batch["mask"])

    return eval_step
