"""One training step and one evaluation step: pure functions, ignorant of devices and of epochs."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcifar.metrics import Metrics, cross_entropy, measure
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
) -> TrainStep:
    """Build ``(state, batch) -> (state, metrics)``: mean cross-entropy, one update.

    Every image of a training batch counts (BatchNorm's statistics are over all of them): a train
    batch has no padding and needs no mask. The metrics are of the batch as the step saw it, before
    the update. Dropout draws from (run key, step).
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        images = normalize(batch["image"])
        label = batch["label"]

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": draw_key(state.key, Stream.DROPOUT, state.step)},
            )
            loss = cross_entropy(logits, label, label_smoothing)
            return jnp.mean(loss), (loss, logits, updates["batch_stats"])

        gradients, (loss, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        state = TrainState(
            key=state.key,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, measure(loss, logits, label, jnp.ones(label.shape, bool))

    return train_step


def make_eval_step(model: nn.Module, *, normalize: Normalize) -> EvalStep:
    """Build ``(variables, batch) -> metrics`` in evaluation mode, over the images in the mask."""

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> Metrics:
        logits = jnp.asarray(model.apply(variables, normalize(batch["image"]), train=False))
        loss = cross_entropy(logits, batch["label"])
        return measure(loss, logits, batch["label"], batch["mask"])

    return eval_step
