"""One training step and one evaluation step, as pure functions without devices and epochs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcifar.common.numbers import at_least_float32
from jaxcifar.step.augment import shifted_views
from jaxcifar.step.freeze import TRAINED, Labels, merge_params, split_params
from jaxcifar.step.metrics import (
    ExampleMetric,
    Metrics,
    cross_entropy,
    find_nonfinite,
    measure,
    per_example,
    total,
)
from jaxcifar.step.optimizer import passed_over
from jaxcifar.step.state import Draw, TrainState, draw_key

Batch = Mapping[str, jax.Array]  # image [n h w 3] uint8 or float32, label [n] int32, mask [n] bool
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Mapping[str, Any], Batch], Metrics]
Normalize = Callable[[jax.Array], jax.Array]
# (logits float32 [n, classes], labels int32 [n] or distributions [n, classes]) -> [n]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
# (keys [n], images [n, h, w, 3], labels int32 [n]) -> (images, labels [n] or [n, classes])
BatchAugment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


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
    loss: Loss | None = None,
    own_metrics: Sequence[tuple[str, ExampleMetric]] = (),
) -> TrainStep:
    """Build ``(state, batch) -> (state, metrics)``: one update on the mean loss.

    A train batch has no padding and needs no mask, because BatchNorm's statistics include all of
    its images. The metrics are sums over the batch before the update: `metrics.compute` makes loss
    and accuracy of them, `metrics.add` joins them. The key for dropout is derived from the run's
    key and the step.

    Args:
        model: ``(images, *, train) -> logits``, with "batch_stats" or without.
        normalize: the batch's images -> the input of the network.
        label_smoothing: of the cross-entropy, see `metrics.cross_entropy`.
        labels: as given to `make_optimizer`. They determine what is trained; for the mode of frozen
            BatchNorms, see `frozen_batch_norms`. Only trainable leaves are differentiated: XLA
            drops the backward pass of the others only if nothing, such as a norm, reads their
            gradients.
        start: the batch's "image" is the output of this child of the network, not an image.
        log_gradient_norm: measure the global norm of the trainable gradients, before clipping.
        skip_nonfinite: a step with logits, gradients or statistics that are not finite changes only
            the step counts: the run's, and those of the schedules. (optax's `apply_if_finite`
            ignores the statistics and these counts.) The metrics count such steps in any case.
        axis_name: mapped axis over which the batch is divided, under pmap; also for the model.
        loss: ``(logits, labels) -> [n]``; None is the cross-entropy.
        own_metrics: further metrics, ``(logits, labels) -> [n]`` by name, summed over the batch. Of
            labels that are distributions they get the most probable class.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxcifar import ResNet, make_train_step, start_state
        >>> model, tx = ResNet(stage_sizes=(), width=4, stem="cifar"), optax.sgd(0.1)
        >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.array([3, 7])}
        >>> variables = model.init(jax.random.key(0), batch["image"], train=False)
        >>> step = make_train_step(model, tx, normalize=lambda images: images)
        >>> state, metrics = jax.jit(step)(start_state(variables, tx, seed=0), batch)
        >>> int(state.step), int(metrics["count"])
        (1, 2)
    """
    settings = _Settings(
        model,
        tx,
        normalize,
        partial(cross_entropy, smoothing=label_smoothing) if loss is None else loss,
        labels,
        start,
        log_gradient_norm,
        skip_nonfinite,
        axis_name,
        tuple(own_metrics),
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return _train_step(settings, state, batch)

    return train_step


class _Settings(NamedTuple):
    """The arguments of `make_train_step`."""

    model: nn.Module
    tx: optax.GradientTransformation
    normalize: Normalize
    loss: Loss
    labels: Labels | None
    start: str | None
    log_gradient_norm: bool
    skip_nonfinite: bool
    axis_name: str | None
    own_metrics: tuple[tuple[str, ExampleMetric], ...]


def _train_step(settings: _Settings, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    images, label = batch["image"], batch["label"]
    if settings.start is None:
        images = settings.normalize(images)
    labels = settings.labels
    if labels is None:
        labels = jax.tree.map(lambda _: TRAINED, state.params)
    trainable, frozen = split_params(state.params, labels)

    def loss_fn(trainable: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
        logits, updates = settings.model.apply(
            {"params": merge_params(trainable, frozen), "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": draw_key(state.key, Draw.DROPOUT, state.step)},
            **_start_of(settings.start),
        )
        logits = at_least_float32(logits)
        loss = per_example(settings.loss, "the loss", logits, label)
        return jnp.mean(loss), (loss, logits, updates.get("batch_stats", {}))

    gradients, (loss, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(trainable)
    if settings.axis_name is not None:
        gradients = jax.lax.pmean(gradients, settings.axis_name)
    nonfinite = find_nonfinite(logits, gradients, batch_stats, axis_name=settings.axis_name)
    norm = optax.tree.norm(gradients) if settings.log_gradient_norm else 0.0
    params, opt_state = _apply_gradients(settings.tx, state, gradients, labels)
    changed = (params, batch_stats, opt_state)
    if settings.skip_nonfinite:
        unchanged = (state.params, state.batch_stats, passed_over(state.opt_state, opt_state))
        changed = jax.tree.map(partial(jnp.where, nonfinite == 0), changed, unchanged)
    params, batch_stats, opt_state = changed
    sums = _measure(settings, loss, logits, label, norm, nonfinite)
    state = TrainState(
        key=state.key,
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return state, sums if settings.axis_name is None else total(sums, settings.axis_name)


def _apply_gradients(
    tx: optax.GradientTransformation, state: TrainState, gradients: Any, labels: Labels
) -> tuple[Any, optax.OptState]:
    """The parameters and the optimizer's state after a step; `gradients` has no frozen leaves."""
    trainable, frozen = split_params(state.params, labels)
    # The optimizer expects the whole tree. But its updates are not added to frozen leaves, not even
    # zero: that would turn -0.0 into 0.0.
    zeros = jax.tree.map(jnp.zeros_like, frozen)
    updates, opt_state = tx.update(merge_params(gradients, zeros), state.opt_state, state.params)
    updates, _ = split_params(updates, labels)
    return merge_params(optax.apply_updates(trainable, updates), frozen), opt_state


def _measure(
    settings: _Settings,
    loss: jax.Array,
    logits: jax.Array,
    label: jax.Array,
    norm: jax.Array | float,
    nonfinite: jax.Array,
) -> Metrics:
    if label.ndim == 2:
        label = jnp.argmax(label, axis=-1).astype(jnp.int32)
    mask, own = jnp.ones(label.shape, bool), settings.own_metrics
    sums = measure(
        loss, logits, label, mask, gradient_norm=norm, nonfinite_kinds=nonfinite, own=own
    )
    if settings.skip_nonfinite:
        # Otherwise the loss of the epoch would not be finite.
        nothing = measure(loss, logits, label, ~mask, nonfinite_kinds=nonfinite, own=own)
        sums = jax.tree.map(partial(jnp.where, nonfinite == 0), sums, nothing)
    return sums


def make_eval_step(
    model: nn.Module,
    *,
    normalize: Normalize,
    start: str | None = None,
    mirror: bool = False,
    shift: int = 0,
    loss: Loss | None = None,
    own_metrics: Sequence[tuple[str, ExampleMetric]] = (),
    one_hot: bool = False,
) -> EvalStep:
    """Build ``(variables, batch) -> metrics`` in evaluation mode, over the images in the mask.

    Args:
        normalize: the batch's images -> the input of the network.
        start: the batch's "image" is the output of this child of the network, not an image.
        mirror: the logits are the mean over an image and its mirror image.
        shift: the logits are half of those of the image, and a quarter each of those of the image
            shifted by so many pixels up and left, and down and right; the border is filled by
            reflection. With `mirror` each of the three is the mean over itself and its mirror
            image: with a shift of 1, the six views of airbench (Jordan 2024, arXiv:2404.00498).
        loss, own_metrics: as in `make_train_step`.
        one_hot: the loss gets the labels as distributions [n, classes].

    Raises:
        ValueError: `mirror` or `shift` together with `start`, or a negative shift.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxcifar import ResNet, make_eval_step
        >>> model = ResNet(stage_sizes=(), width=4, stem="cifar")
        >>> images, mask = jnp.zeros((2, 8, 8, 3)), jnp.array([True, False])
        >>> variables = model.init(jax.random.key(0), images, train=False)
        >>> step = make_eval_step(model, normalize=lambda images: images)
        >>> metrics = step(variables, {"image": images, "label": jnp.array([3, 7]), "mask": mask})
        >>> int(metrics["count"])
        1
    """
    if shift < 0:
        raise ValueError(f"shift must not be negative, not {shift}")
    for name, asked in (("mirror", mirror), ("shift", shift)):
        if asked and start is not None:
            raise ValueError(
                f"{name} needs images, but the batch is the output of {start}; use only one of them"
            )

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> Metrics:
        images = batch["image"] if start is not None else normalize(batch["image"])
        logits = evaluation_logits(
            model, variables, images, start=start, mirror=mirror, shift=shift
        )
        label = batch["label"]
        target = jax.nn.one_hot(label, logits.shape[-1]) if one_hot else label
        losses = per_example(loss or cross_entropy, "the loss", logits, target)
        return measure(losses, logits, label, batch["mask"], top5=True, own=own_metrics)

    return eval_step


def evaluation_logits(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    start: str | None = None,
    mirror: bool = False,
    shift: int = 0,
) -> jax.Array:
    """Logits [n, classes] of normalised images in evaluation mode.

    For `start`, `mirror` and `shift`, see `make_eval_step`.
    """

    def score(images: jax.Array) -> jax.Array:
        return at_least_float32(
            jnp.asarray(model.apply(variables, images, train=False, **_start_of(start)))
        )

    def of_view(images: jax.Array) -> jax.Array:
        logits = score(images)
        return (logits + score(images[:, :, ::-1])) / 2 if mirror else logits

    logits = of_view(images)
    if shift == 0:
        return logits
    shifted = [of_view(view) for view in shifted_views(images, shift)]
    return logits / 2 + sum(shifted) / 4


def _start_of(child: str | None) -> dict[str, Any]:
    """The keyword `start` for `ResNet`, which other modules may not have."""
    return {} if child is None else {"start": child}
