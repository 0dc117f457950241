"""The optimizers, built from a schedule and from the parameters' labels.

* adam: torch's `Adam` (b1 0.9, b2 0.999, eps 1e-8), without decay.
* adamw: the same with decoupled decay, multiplied by the learning rate as in torch's `AdamW`.
* sgd: Nesterov momentum; decay is added to the gradient, as in torch's `SGD`.
* muon: airbench's Muon for convolution kernels (Jordan 2024, kellerjordan.github.io/posts/muon),
  see `jaxcifar.step.muon`. The Nesterov momentum of a kernel, as a matrix [k k c_in, c_out], is
  replaced by one with the same singular vectors, whose singular values are all about 1. Each step
  also gives a kernel the norm sqrt(c_out), so decay would change nothing there, and there is none.
  Everything else uses sgd at the same rate, momentum and decay: the usual rates of muon and sgd
  (0.02 to 0.4) are alike, those of adam are not.

Decay acts only on kernels, not on biases and BatchNorm's parameters (He et al. 2019,
arXiv:1812.01187, section 3.1); torch's optimizers decay every parameter they are given.
"""

from typing import Any, Literal, get_args

import jax
import optax

from jaxcifar.common.numbers import is_zero
from jaxcifar.models.names import batch_norm_bias_mask, kernel_mask
from jaxcifar.step.freeze import FROZEN, Labels, trainable_mask, treatment
from jaxcifar.step.lookahead import LookaheadState, lookahead
from jaxcifar.step.muon import MuonState, muon

OptimizerName = Literal["adam", "adamw", "sgd", "muon"]


def make_optimizer(
    name: OptimizerName,
    schedule: optax.Schedule,
    *,
    labels: Labels | None = None,
    steps_per_epoch: int | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    bias_scale: float = 1.0,
    lookahead_steps: int | None = None,
    lookahead_share: float = 0.25,
    total_steps: int | None = None,
) -> optax.GradientTransformation:
    """Build adam, adamw, sgd or muon, as described in the module `jaxcifar.step.optimizer`.

    Args:
        schedule: step of the run -> learning rate.
        labels: one per parameter, as from `label_params`; None trains everything. Each label is a
            group with its own share of the rate. Frozen leaves have no optimizer state, an update
            of zero and no part in the clipping. Labels that start in a later epoch are treated as
            started; for an earlier epoch, use `labels_at`. A share may be above 1, as that of the
            head by the rules ``fc=2 *=trained``.
        steps_per_epoch: needed if a label starts in a later epoch; its group counts steps from
            there, but follows the run's schedule.
        weight_decay: on kernels; with muon, only on those that sgd trains, as the head's.
        clip_norm: limit on the global norm of all trainable gradients together (torch's
            `clip_grad_norm_`); clipping comes first.
        bias_scale: factor on the learning rate of BatchNorm biases, as in airbench (Jordan 2024,
            arXiv:2404.00498: 64).
        lookahead_steps: synchronise with the slow weights every N steps, see `lookahead`.
        lookahead_share: see `lookahead`.
        total_steps: of the run; needed for lookahead.

    Raises:
        ValueError: a setting is unknown, out of range, or lacks another that it needs.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxcifar import make_optimizer
        >>> tx = make_optimizer("sgd", lambda step: 0.25, momentum=0.0)
        >>> params, gradients = {"w": jnp.ones(2)}, {"w": jnp.array([2.0, 4.0])}
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> updates["w"].tolist()
        [-0.5, -1.0]
    """
    _check(name, weight_decay, clip_norm, bias_scale, lookahead_steps, total_steps)
    groups, trained = _groups(name, schedule, labels, steps_per_epoch, momentum, weight_decay)
    chain = [groups]
    if clip_norm is not None:
        chain.insert(0, _on(trained, optax.clip_by_global_norm(clip_norm)))
    if bias_scale != 1:
        # After the groups: a group may hold only one leaf of a BatchNorm, and so not recognise it.
        chain.append(optax.masked(optax.scale(bias_scale), batch_norm_bias_mask))
    if lookahead_steps is not None and total_steps is not None:
        chain.append(_on(trained, lookahead(lookahead_steps, lookahead_share, total_steps)))
    return optax.chain(*chain) if len(chain) > 1 else chain[0]


def for_labels(tx: optax.GradientTransformation, labels: Labels) -> optax.GradientTransformation:
    """A transformation of the user's for what the labels train.

    It sees all trained leaves together, as one group; shares of the rate scale its updates. Frozen
    leaves have no state. Labels that start later count as started, see `labels_at`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from jaxcifar.step.optimizer import for_labels
        >>> tx = for_labels(optax.sgd(1.0), {"stem": "frozen", "fc": "0.5"})
        >>> params = {"stem": jnp.ones(2), "fc": jnp.ones(2)}
        >>> tx.update(params, tx.init(params), params)[0]["fc"].tolist()
        [-0.5, -0.5]
    """
    # Also where all are trained by now: the state keeps its form when the last one thaws.
    if all(treatment(label) == (1.0, 1) for label in jax.tree.leaves(labels)):
        return tx
    scales = jax.tree.map(lambda label: treatment(label).scale, labels)
    shares = optax.stateless(
        lambda updates, _: jax.tree.map(lambda update, scale: scale * update, updates, scales)
    )
    return optax.chain(optax.masked(tx, trainable_mask(labels)), shares)


def carry_over(old: optax.OptState, new: optax.OptState) -> optax.OptState:
    """The optimizer's state after more parameters start to be trained.

    Groups that were trained before keep their moments and step counts; the others start with those
    of `new`.

    Args:
        old: the state under the labels so far.
        new: a fresh state of the optimizer for the labels from now on.
    """
    before = dict(jax.tree_util.tree_leaves_with_path(old))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: before.get(path, leaf), new)


def passed_over(before: optax.OptState, after: optax.OptState) -> optax.OptState:
    """The optimizer's state where a step is skipped: as before, but its schedules go on.

    Otherwise each skipped step would shift the rest of the schedule, and the run would end before
    its last rates. Moments, and the counts that correct their bias, stay. In a transformation of
    the user's, `optax.scale_by_schedule` goes on, but not within `optax.MultiSteps`, whose own
    steps are others, nor a schedule of `optax.inject_hyperparams`.

    Args:
        before: the state before the step.
        after: the state that the step would have left.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from jaxcifar.step.optimizer import passed_over
        >>> tx, params = optax.adam(lambda count: 0.1), {"w": jnp.ones(2)}
        >>> before = tx.init(params)
        >>> adam, schedule = passed_over(before, tx.update(params, before, params)[1])
        >>> int(adam.count), int(schedule.count)
        (0, 1)
    """
    own = (LookaheadState, MuonState)
    ends = (optax.ScaleByScheduleState, optax.MultiStepsState, *own)

    def passed(old: Any, new: Any) -> Any:
        if isinstance(old, optax.ScaleByScheduleState):
            return new
        return old._replace(step=new.step) if isinstance(old, own) else old

    return jax.tree.map(passed, before, after, is_leaf=lambda state: isinstance(state, ends))


def _check(
    name: str,
    weight_decay: float,
    clip_norm: float | None,
    bias_scale: float,
    lookahead_steps: int | None,
    total_steps: int | None,
) -> None:
    if name not in get_args(OptimizerName):
        raise ValueError(
            f"unknown optimizer {name!r}; choose from {', '.join(get_args(OptimizerName))}"
        )
    if name == "adam" and not is_zero(weight_decay):
        raise ValueError("adam has no weight decay here; use the optimizer adamw")
    if isinstance(clip_norm, (int, float)) and not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, not {clip_norm}")
    if not bias_scale > 0:
        raise ValueError(f"bias_scale must be positive, not {bias_scale}")
    if lookahead_steps is not None and total_steps is None:
        raise ValueError("lookahead_steps needs total_steps, because it averages at the run's end")


def _groups(
    name: OptimizerName,
    schedule: optax.Schedule,
    labels: Labels | None,
    steps_per_epoch: int | None,
    momentum: float,
    weight_decay: float,
) -> tuple[optax.GradientTransformation, Any]:
    """The optimizer of all groups, and the mask of trained leaves, or True if all are trained."""
    kinds = [treatment("trained")] if labels is None else map(treatment, jax.tree.leaves(labels))
    if all(kind == (1.0, 1) for kind in kinds):  # a single group needs no partition
        return _one_group(name, schedule, momentum, weight_decay), True
    groups = {
        label: _one_group(
            name, _group_schedule(schedule, label, steps_per_epoch), momentum, weight_decay
        )
        for label in sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    }
    groups[FROZEN] = optax.set_to_zero()
    return optax.multi_transform(groups, labels), trainable_mask(labels)


def _on(trained: Any, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation of only the trained leaves: all (True), or those of a mask.

    Without the mask, a norm would include the frozen leaves.
    """
    return tx if trained is True else optax.masked(tx, trained)


def _one_group(
    name: OptimizerName, schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    if name == "adam":
        return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay, mask=kernel_mask)
    if name == "muon":
        rest = _one_group("sgd", schedule, momentum, weight_decay)
        return optax.multi_transform({"muon": muon(schedule, momentum), "sgd": rest}, _muon_or_sgd)
    moving = not is_zero(momentum)
    sgd = optax.sgd(schedule, momentum=momentum if moving else None, nesterov=moving)
    if is_zero(weight_decay):
        return sgd
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=kernel_mask), sgd)


def _muon_or_sgd(params: optax.Params) -> Any:
    """The optimizer of each leaf: "muon" for convolution kernels, "sgd" for everything else."""
    return jax.tree.map(lambda leaf: "muon" if leaf.ndim == 4 else "sgd", params)


def _group_schedule(
    schedule: optax.Schedule, label: str, steps_per_epoch: int | None
) -> optax.Schedule:
    """A group's rate by its own step count, which starts when the group does."""
    scale, start_epoch = treatment(label)
    if start_epoch > 1 and steps_per_epoch is None:
        raise ValueError(
            f"the label {label!r} starts in a later epoch: pass steps_per_epoch, or before that "
            "epoch labels_at(labels, epoch)"
        )
    first_step = (start_epoch - 1) * (steps_per_epoch or 0)
    return lambda count: scale * schedule(count + first_step)
