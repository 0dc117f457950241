"""From labels and a schedule to an optax transformation."""

from typing import Literal, get_args

import jax
import optax

from jaxcifar.partition import FROZEN, Labels, kernel_mask, trainable_mask, treatment
from jaxcifar.traced import is_zero

OptimizerName = Literal["adam", "adamw", "sgd"]


def make_optimizer(
    name: OptimizerName,
    schedule: optax.Schedule,
    *,
    labels: Labels | None = None,
    steps_per_epoch: int | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Build the optimizer.

    * adam: torch's `Adam` (b1 0.9, b2 0.999, eps 1e-8), no decay.
    * adamw: the same with decoupled decay, multiplied by the learning rate as in torch's `AdamW`.
    * sgd: Nesterov momentum; decay is added to the gradient, as in torch's `SGD`.

    Decay acts on kernels alone, not on biases and BatchNorm's parameters (He et al. 2019,
    arXiv:1812.01187, section 3.1); torch's optimizers decay everything they are given.

    Args:
        schedule: step of the run -> learning rate.
        labels: one for each parameter, see `partition.label_params`. Leaves labelled "frozen" have
            no optimizer state, get an update of zero and count for nothing in the clipping; each
            other label is a group with its own share of the rate. None trains everything. Labels
            that start in a later epoch are taken as started: see `partition.labels_at`.
        steps_per_epoch: where a label starts in a later epoch; its group then counts its steps
            from there, and keeps to the schedule of the run.
        clip_norm: scales the gradients of all trainable leaves together to at most this global norm
            (torch's `clip_grad_norm_`), before anything else.

    Raises:
        ValueError: unknown name, a decay given to adam, a clipping norm that is not positive, or a
            label with a start but no `steps_per_epoch`.
    """
    if name not in get_args(OptimizerName):
        raise ValueError(
            f"unknown optimizer {name!r}; choose from {', '.join(get_args(OptimizerName))}"
        )
    if name == "adam" and not is_zero(weight_decay):
        raise ValueError("adam has no weight decay here; use the optimizer adamw")
    if isinstance(clip_norm, (int, float)) and not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, not {clip_norm}")

    kinds = [treatment("trained")] if labels is None else map(treatment, jax.tree.leaves(labels))
    if all(kind == (1.0, 1) for kind in kinds):  # one group needs no partition
        clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
        only = _one_group(name, schedule, momentum, weight_decay)
        return optax.chain(*clip, only) if clip else only

    groups = {
        label: _one_group(
            name, _group_schedule(schedule, label, steps_per_epoch), momentum, weight_decay
        )
        for label in sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    }
    groups[FROZEN] = optax.set_to_zero()
    parts = optax.multi_transform(groups, labels)
    if clip_norm is None:
        return parts
    # Outside a mask the norm would be over the frozen gradients, too.
    clip_trainable = optax.masked(optax.clip_by_global_norm(clip_norm), trainable_mask(labels))
    return optax.chain(clip_trainable, parts)


def carry_over(old: optax.OptState, new: optax.OptState) -> optax.OptState:
    """The state of an optimizer whose labels thawed: the groups that were trained before go on with
    their moments and step counts, and the others begin with those in `new`.

    Args:
        old: state under the labels so far.
        new: fresh state of the optimizer built for the labels from now on.
    """
    kept = dict(jax.tree_util.tree_leaves_with_path(old))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: kept.get(path, leaf), new)


def _one_group(
    name: OptimizerName, schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    if name == "adam":
        return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay, mask=kernel_mask)
    moving = not is_zero(momentum)
    sgd = optax.sgd(schedule, momentum=momentum if moving else None, nesterov=moving)
    if is_zero(weight_decay):
        return sgd
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=kernel_mask), sgd)


def _group_schedule(
    schedule: optax.Schedule, label: str, steps_per_epoch: int | None
) -> optax.Schedule:
    """A group's rate by its own step count, which begins when the group does."""
    scale, start_epoch = treatment(label)
    if start_epoch > 1 and steps_per_epoch is None:
        raise ValueError(
            f"the label {label!r} starts in a later epoch: before it give labels_at(labels, epoch),"
            " from then on steps_per_epoch, too"
        )
    first_step = (start_epoch - 1) * (steps_per_epoch or 0)
    return lambda count: scale * schedule(count + first_step)
