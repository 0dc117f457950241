"""From labels and a schedule to an optax transformation."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxcifar.common.numbers import is_zero
from jaxcifar.models.names import batch_norm_bias_mask, kernel_mask
from jaxcifar.step.freeze import FROZEN, Labels, trainable_mask, treatment

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
    """Build the optimizer.

    * adam: torch's `Adam` (b1 0.9, b2 0.999, eps 1e-8), no decay.
    * adamw: the same with decoupled decay, multiplied by the learning rate as in torch's `AdamW`.
    * sgd: Nesterov momentum; decay is added to the gradient, as in torch's `SGD`.
    * muon: on convolution kernels optax's `contrib.muon` (Jordan et al. 2024,
      kellerjordan.github.io/posts/muon): the Nesterov momentum of a kernel, as a matrix
      [k k c_in, c_out], is replaced by one of the same singular vectors whose singular values are
      all alike (about 1; more for a wide one, by optax's scale), and decay is decoupled as in
      adamw. On everything else it is sgd, at the same rate and momentum: their usual rates (0.02
      to 0.4) are alike, Adam's are not.

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
        bias_scale: the biases of BatchNorms learn at so many times the rate of their group, as in
            airbench (Jordan 2024, arXiv:2404.00498: 64).
        lookahead_steps: average the weights once in so many steps, see `lookahead`.
        lookahead_share: see there.
        total_steps: of the run; for lookahead.

    Raises:
        ValueError: unknown name, a decay given to adam, a clipping norm or a bias scale that is not
            positive, a label with a start but no `steps_per_epoch`, or lookahead without
            `total_steps`.
    """
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
        raise ValueError("lookahead_steps needs total_steps: its last average is at the run's end")

    kinds = [treatment("trained")] if labels is None else map(treatment, jax.tree.leaves(labels))
    if all(kind == (1.0, 1) for kind in kinds):  # one group needs no partition
        chain = [_one_group(name, schedule, momentum, weight_decay)]
        trained = True
    else:
        groups = {
            label: _one_group(
                name, _group_schedule(schedule, label, steps_per_epoch), momentum, weight_decay
            )
            for label in sorted(set(jax.tree.leaves(labels)) - {FROZEN})
        }
        groups[FROZEN] = optax.set_to_zero()
        chain = [optax.multi_transform(groups, labels)]
        trained = trainable_mask(labels)
    if clip_norm is not None:
        # Outside a mask the norm would be over the frozen gradients, too.
        chain.insert(0, _on(trained, optax.clip_by_global_norm(clip_norm)))
    if bias_scale != 1:
        # Behind the groups: what one of them holds of a module does not tell a BatchNorm.
        chain.append(optax.masked(optax.scale(bias_scale), batch_norm_bias_mask))
    if lookahead_steps is not None and total_steps is not None:
        chain.append(_on(trained, lookahead(lookahead_steps, lookahead_share, total_steps)))
    return optax.chain(*chain) if len(chain) > 1 else chain[0]


class LookaheadState(NamedTuple):
    """The state of `lookahead`."""

    step: jax.Array  # int32 [], of those it has seen
    slow: optax.Params  # the average


def lookahead(steps: int, share: float, total_steps: int) -> optax.GradientTransformation:
    """Every so many steps the weights return to an average that follows them.

    Zhang et al. 2019 (arXiv:1907.08610), in airbench's form (Jordan 2024, arXiv:2404.00498): the
    slow weights go a part of the way to where the steps have led, and the steps begin again from
    there. The part falls from 1 at the run's beginning to `share` at its end, as 1 minus the cube
    of the time. It is the last link of a chain: it turns the updates of the others into ones that
    end at the slow weights. (optax's own `lookahead` wants the weights in pairs, which the model
    would have to know of.)

    The periods are counted from the run's end, so that its last step leaves the slow weights, to
    rounding; the first period may be shorter. Between two averages, so also at the end of most
    epochs, the weights are the fast ones. Steps skipped for not being finite are not seen here: the
    last average is then as many steps before the end. BatchNorm's statistics are not averaged.

    Args:
        steps: from one average to the next.
        share: at the end, above 0 and at most 1 (which changes nothing).
        total_steps: of the run.

    Raises:
        ValueError: `steps` under 1 or a `share` that cannot be.
    """
    if steps < 1 or not 0 < share <= 1:
        raise ValueError(
            f"lookahead takes 1 step or more, not {steps}, and a share above 0 and at most 1, "
            f"not {share}"
        )

    def init(params: optax.Params) -> LookaheadState:
        # Copied: a program that is given its state for good cannot be given one buffer twice.
        return LookaheadState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: LookaheadState, params: optax.Params
    ) -> tuple[optax.Updates, LookaheadState]:
        count = state.step + 1
        now = (total_steps - count) % steps == 0
        part = 1 - (1 - share) * (count / total_steps) ** 3
        slow = jax.tree.map(
            lambda slow, fast, move: jnp.where(now, slow + part * (fast + move - slow), slow),
            state.slow,
            params,
            updates,
        )
        updates = jax.tree.map(
            lambda move, slow, fast: jnp.where(now, slow - fast, move), updates, slow, params
        )
        return updates, LookaheadState(count, slow)

    return optax.GradientTransformation(init, update)


def carry_over(old: optax.OptState, new: optax.OptState) -> optax.OptState:
    """The state of an optimizer whose labels thawed: the groups that were trained before go on with
    their moments and step counts, and the others begin with those in `new`.

    Args:
        old: state under the labels so far.
        new: fresh state of the optimizer built for the labels from now on.
    """
    kept = dict(jax.tree_util.tree_leaves_with_path(old))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: kept.get(path, leaf), new)


def _on(trained: Any, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation of the trained leaves: all (True), or those of a mask."""
    return tx if trained is True else optax.masked(tx, trained)


def _one_group(
    name: OptimizerName, schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    if name == "adam":
        return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay, mask=kernel_mask)
    if name == "muon":
        convolutions = contrib.muon(
            schedule,
            beta=momentum,
            weight_decay=weight_decay,
            # Of the group's leaves, this optimizer gets those alone.
            muon_weight_dimension_numbers=lambda kernels: jax.tree.map(
                lambda _: contrib.MuonDimensionNumbers((0, 1, 2), 3), kernels
            ),
        )
        rest = _one_group("sgd", schedule, momentum, weight_decay)
        return optax.multi_transform({"muon": convolutions, "sgd": rest}, _muon_or_sgd)
    moving = not is_zero(momentum)
    sgd = optax.sgd(schedule, momentum=momentum if moving else None, nesterov=moving)
    if is_zero(weight_decay):
        return sgd
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=kernel_mask), sgd)


def _muon_or_sgd(params: optax.Params) -> Any:
    """Which of the two moves each leaf: "muon" convolution kernels, "sgd" everything else."""
    return jax.tree.map(lambda leaf: "muon" if leaf.ndim == 4 else "sgd", params)


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
