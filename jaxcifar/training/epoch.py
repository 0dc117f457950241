"""An epoch as one program: a loop over steps, whatever brings their batches.

The loop's length is an argument, so one compiled program serves a whole epoch in one call, or the
pieces of it between which a progress bar moves: the state's step counter says where the epoch
stands, and the numbers do not depend on the pieces. `resident` and `streamed` are the two ways to
bring batches; both give an `Epoch` and a `Scoring`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcifar.devices.layout import Layout
from jaxcifar.step import metrics
from jaxcifar.step.augment import Augment
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.schedules import steps_per_epoch
from jaxcifar.step.state import Draw, TrainState, draw_key
from jaxcifar.step.steps import BatchAugment, TrainStep

# image [n h w 3] uint8, label [n] int32; shared out over the devices by rows, see `devices.layout`.
Data = Mapping[str, jax.Array]
Steps = Callable[..., tuple[TrainState, Metrics]]  # (state, data, order, sums, count, numbers)
# Settings that a program takes as arguments, by name; see `recipes.numbers`.
Numbers = Mapping[str, Any]
# (numbers, mapped axis or None) -> the train step, and the augmentation of a batch or None
Build = Callable[[Numbers, str | None], tuple[TrainStep, BatchAugment | None]]
# (data, order, step within the epoch, view) -> a device's images, labels and indices
Fetch = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


class Epoch(NamedTuple):
    """Training over data that it holds. All three functions donate the state they are given.

    ``compile`` comes before the clock starts. ``run(state, on_piece=None, *, sums=None,
    allow=always)`` trains from where the state stands to the end of its epoch, or to where `allow`
    stops it, and adds to `sums`, those of the part trained before. It ends early after a step whose
    numbers were not finite (unless the steps are those of several members).
    """

    compile: Callable[[TrainState], TrainState]
    run: Callable[..., tuple[TrainState, Metrics]]
    lower: Callable[[TrainState], jax.stages.Lowered]  # the loop over full batches, to study


class Scoring(NamedTuple):
    """Evaluation over data that it holds: ``compile`` before the clock starts, then ``run``.

    ``run(variables, on_piece=None, *, allow=always)`` returns the sums over every image, or over
    those scored before `allow` stopped it.
    """

    compile: Callable[[Mapping[str, Any]], None]
    run: Callable[..., Metrics]


class EpochPlan:
    """How an epoch divides into steps."""

    def __init__(self, size: int, batch_size: int, views: int | None) -> None:
        """Divide an epoch over `size` images.

        Raises:
            ValueError: `batch_size` is not between 1 and the number of images.
        """
        if not 1 <= batch_size <= size:
            raise ValueError(
                f"batch_size must lie between 1 and the {size} images, not {batch_size}"
            )
        self.size, self.batch_size, self.views = size, batch_size, views
        self.whole_steps, self.rest = divmod(size, batch_size)
        self.epoch_steps = steps_per_epoch(size, batch_size)


def make_draw_order(plan: EpochPlan) -> Callable[[TrainState], jax.Array]:
    """Build ``state -> int32 [size]``: the order of the images in the epoch the state lies in."""

    def draw_order(state: TrainState) -> jax.Array:
        epoch = state.step // plan.epoch_steps
        return jax.random.permutation(draw_key(state.key, Draw.ORDER, epoch), plan.size)

    return draw_order


def constant(
    train_step: TrainStep, augment: Augment | None, axis_step: TrainStep | None, layout: Layout
) -> Build:
    """The `Build` of a step without numbers; `axis_step` is the same step with its axis named.

    Raises:
        ValueError: the layout needs it, and it is not there.
    """
    if layout.axis_name is not None and axis_step is None:
        raise ValueError(
            "under pmap train_step alone would train on the first device's share of each batch: "
            f"pass axis_step, the same step made with axis_name={layout.axis_name!r}"
        )

    def augment_batch(
        keys: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        assert augment is not None
        return augment(keys, images), labels

    def build(numbers: Numbers, axis_name: str | None) -> tuple[TrainStep, BatchAugment | None]:
        del numbers
        step = train_step if axis_name is None else axis_step
        assert step is not None
        return step, None if augment is None else augment_batch

    return build


def make_steps(
    plan: EpochPlan,
    build: Build,
    make_fetch: Callable[[bool], Fetch],
    axis_name: str | None,
    stop_at_nonfinite: bool,
) -> Steps:
    """Build the loop over steps: ``(state, data, order, sums, count, numbers) -> (state, sums)``.

    Args:
        make_fetch: makes the function that brings the batches from `data` and `order`; it is told
            whether they are augmented. All batches of a program have one size.
    """

    def steps(
        state: TrainState,
        data: Data,
        order: jax.Array,
        sums: Metrics,
        count: jax.Array,
        numbers: Numbers,
    ) -> tuple[TrainState, Metrics]:
        train_step, augment = build(numbers, axis_name)
        fetch = make_fetch(augment is not None)
        epoch = state.step // plan.epoch_steps
        view = epoch if plan.views is None else epoch % plan.views
        augment_key = draw_key(state.key, Draw.AUGMENT, view)

        def unfinished(carry: tuple[jax.Array, TrainState, Metrics]) -> jax.Array:
            i, _, sums = carry
            left = i < count
            return left & (sums["nonfinite"] == 0) if stop_at_nonfinite else left

        def body(
            carry: tuple[jax.Array, TrainState, Metrics],
        ) -> tuple[jax.Array, TrainState, Metrics]:
            i, state, sums = carry
            images, label, index = fetch(data, order, state.step % plan.epoch_steps, view)
            if augment is not None:
                keys = jax.vmap(lambda i: jax.random.fold_in(augment_key, i))(index)
                images, label = augment(keys, images, label)
            state, measured = train_step(state, {"image": images, "label": label})
            return i + 1, state, metrics.add(sums, measured)

        _, state, sums = jax.lax.while_loop(unfinished, body, (jnp.int32(0), state, sums))
        return state, sums

    return steps
