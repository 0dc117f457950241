"""Epochs over images, or cached features, that stay on the device: one of two ways, see `epoch`.

The programs are built without data, so that runs over other data share them; `over` binds them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.devices.layout import ONE_DEVICE, Layout
from jaxcifar.step import metrics
from jaxcifar.step.augment import Augment
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.schedules import steps_per_epoch
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import EvalStep, TrainStep
from jaxcifar.training.epoch import (
    Data,
    Epoch,
    EpochPlan,
    Fetch,
    Scoring,
    Steps,
    make_draw_order,
    make_steps,
)
from jaxcifar.training.pieces import Allow, OnPiece, always, in_pieces


class TrainEpoch(NamedTuple):
    """The functions of an `epoch.Epoch`, with the data as their second argument."""

    compile: Callable[[TrainState, Data], TrainState]
    run: Callable[..., tuple[TrainState, Metrics]]
    lower: Callable[[TrainState, Data], jax.stages.Lowered]

    def over(self, data: Data) -> Epoch:
        """The epoch over these data."""

        def run(
            state: TrainState, on_piece: OnPiece | None = None, **more: Any
        ) -> tuple[TrainState, Metrics]:
            return self.run(state, data, on_piece, **more)

        return Epoch(
            lambda state: self.compile(state, data), run, lambda state: self.lower(state, data)
        )


class Evaluation(NamedTuple):
    """The functions of an `epoch.Scoring`, with the data as their second argument."""

    compile: Callable[[Mapping[str, Any], Data], None]
    run: Callable[..., Metrics]

    def over(self, data: Data) -> Scoring:
        """The scoring of these data."""

        def run(
            variables: Mapping[str, Any], on_piece: OnPiece | None = None, **more: Any
        ) -> Metrics:
            return self.run(variables, data, on_piece, **more)

        return Scoring(lambda variables: self.compile(variables, data), run)


def make_train_epoch(
    train_step: TrainStep,
    *,
    size: int,
    batch_size: int,
    augment: Augment | None = None,
    views: int | None = None,
    layout: Layout = ONE_DEVICE,
    axis_step: TrainStep | None = None,
    stop_at_nonfinite: bool = True,
) -> TrainEpoch:
    """Build the program that takes a state to the end of the epoch its step counter lies in.

    Every image is used once, in an order drawn from (run key, epoch); the last batch may be
    smaller. Image i is augmented with a key drawn from (run key, epoch, i), or from (run
    key, epoch modulo `views`, i). The state is donated: use the returned one.

    Args:
        size: images in the data.
        batch_size: at most `size`; of all devices together.
        augment: ``(keys [n], images) -> images``, see `augment.make_augment`.
        views: how many different augmentations of an image there are, one an epoch in turn. Without
            `augment` the data hold them all: the first view of every image, then the second, ...
        layout: the devices. Each computes the whole of a last batch that they cannot share evenly.
        axis_step: under pmap, the same step with its axis named, see `Layout.axis_name`.
        stop_at_nonfinite: end the epoch after a step whose numbers were not finite.

    Raises:
        ValueError: `batch_size` is not between 1 and the number of images.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from jaxcifar import make_train_epoch, start_state
        >>> from jaxcifar.step import metrics
        >>> def count_steps(state, batch):
        ...     return state.replace(step=state.step + 1), metrics.zeros()
        >>> epoch = make_train_epoch(count_steps, size=10, batch_size=4)
        >>> state = start_state({"params": {}, "batch_stats": {}}, optax.identity(), seed=0)
        >>> data = {"image": jnp.zeros((10, 8, 8, 3), jnp.uint8), "label": jnp.zeros(10, jnp.int32)}
        >>> state, sums = epoch.run(state, data)
        >>> int(state.step)
        3
    """
    plan = EpochPlan(size, batch_size, views)

    def compile_steps(length: int) -> Steps:
        shared = layout.axis_name is not None and layout.divides(length)
        step = axis_step if shared and axis_step is not None else train_step
        fetch = _make_fetch(plan, length, augment, layout)
        return layout.compile(
            make_steps(plan, step, augment, fetch, stop_at_nonfinite),
            shared=(1,),
            donate=(0,),
        )

    return _compiled_epoch(plan, compile_steps, make_draw_order(plan))


def make_epoch_of_members(
    build: Callable[[jax.Array], tuple[TrainStep, Augment | None]],
    values: jax.Array,
    *,
    size: int,
    batch_size: int,
    views: int | None = None,
) -> TrainEpoch:
    """Build `make_train_epoch`'s program for several runs that differ in one number.

    Every leaf of the state and of the sums has the members in front, [m, ...]; all members are at
    the same step. They share the data; each draws its own order, augmentation and dropout, from its
    own key. A member whose numbers are no longer finite continues, like the others.

    Args:
        build: a member's train step and augmentation, from its value (traced, []).
        values: [m].
    """
    plan = EpochPlan(size, batch_size, views)

    def compile_steps(length: int) -> Steps:
        def of_member(value: jax.Array, *arguments: Any) -> tuple[TrainState, Metrics]:
            step, augment = build(value)
            fetch = _make_fetch(plan, length, augment, ONE_DEVICE)
            return make_steps(plan, step, augment, fetch, False)(*arguments)

        program = partial(jax.vmap(of_member, in_axes=(0, 0, None, 0, 0, None)), values)
        return jax.jit(program, donate_argnums=(0,))

    return _compiled_epoch(plan, compile_steps, jax.vmap(make_draw_order(plan)))


def _make_fetch(plan: EpochPlan, length: int, augment: Augment | None, layout: Layout) -> Fetch:
    """Batches of `length` images of the data on the devices, in the epoch's order."""
    stored = plan.views if augment is None and plan.views is not None else 1

    def fetch(
        data: Data, order: jax.Array, position: jax.Array, view: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        index = jax.lax.dynamic_slice(order, (position * plan.batch_size,), (length,))
        of_view = view if stored > 1 else 0
        images = layout.take(data["image"], index, view=of_view, views=stored)
        return images, layout.take(data["label"], index), layout.own_share(index)

    return fetch


def _compiled_epoch(
    plan: EpochPlan,
    compile_steps: Callable[[int], Steps],
    draw_order: Callable[[TrainState], jax.Array],
) -> TrainEpoch:
    # Not in the steps' program: it took 25 ms for 40,000 images on the CPU, in every piece again.
    draw_order = jax.jit(draw_order)
    whole = compile_steps(plan.batch_size)
    last = compile_steps(plan.rest) if plan.rest else None

    def lower(state: TrainState, data: Data) -> jax.stages.Lowered:
        order = jax.eval_shape(draw_order, state)
        return whole.lower(  # type: ignore[attr-defined]
            state, data, order, metrics.zeros(state.step.shape), 0
        )

    def compile(state: TrainState, data: Data) -> TrainState:
        order = draw_order(state)
        for steps in (whole, last):
            if steps is not None:
                state, _ = steps(state, data, order, metrics.zeros(state.step.shape), 0)
        return jax.block_until_ready(state)

    def run(
        state: TrainState,
        data: Data,
        on_piece: OnPiece | None = None,
        *,
        sums: Metrics | None = None,
        allow: Allow = always,
    ) -> tuple[TrainState, Metrics]:
        order = draw_order(state)
        carry = (state, metrics.zeros(state.step.shape) if sums is None else sums)

        def advance(count: int, steps: Steps = whole) -> Metrics:
            nonlocal carry
            carry = steps(carry[0], data, order, carry[1], count)
            return carry[1]

        done = int(np.max(state.step)) % plan.epoch_steps
        ended = in_pieces(advance, plan.whole_steps - done, plan.batch_size, on_piece, allow=allow)
        if last is not None and ended:
            in_pieces(lambda n: advance(n, last), 1, plan.rest, on_piece, allow=allow)
        return carry

    return TrainEpoch(compile, run, lower)


def make_evaluation(
    eval_step: EvalStep, *, size: int, batch_size: int, layout: Layout = ONE_DEVICE
) -> Evaluation:
    """Build the program that evaluates variables on every image exactly once.

    Each device scores the images it holds. Its last batch is padded with the last image, which is
    masked out of the sums.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxcifar import make_evaluation
        >>> from jaxcifar.step import metrics
        >>> def count_images(variables, batch):
        ...     return metrics.zeros() | {"count": batch["mask"].sum(dtype=jnp.int32)}
        >>> evaluation = make_evaluation(count_images, size=10, batch_size=4)
        >>> data = {"image": jnp.zeros((10, 8, 8, 3), jnp.uint8), "label": jnp.zeros(10, jnp.int32)}
        >>> int(evaluation.run({}, data)["count"])
        10
    """
    share = layout.share(size)
    own_batch = min(layout.share(batch_size), share)
    batches = steps_per_epoch(share, own_batch)

    def steps(
        variables: Mapping[str, Any], data: Data, sums: Metrics, start: jax.Array, count: jax.Array
    ) -> Metrics:
        def body(i: jax.Array, sums: Metrics) -> Metrics:
            index = (start + i) * own_batch + jnp.arange(own_batch)
            inside = jnp.minimum(index, share - 1)
            row = layout.position() * share + index
            batch = {
                "image": data["image"][inside],
                "label": data["label"][inside],
                "mask": (index < share) & (row < size),
            }
            return metrics.add(sums, eval_step(variables, batch))

        if layout.size == 1:
            return jax.lax.fori_loop(0, count, body, sums)
        return metrics.add(sums, layout.total(jax.lax.fori_loop(0, count, body, metrics.zeros())))

    program = layout.on_each(steps, shared=(1,))

    def compile(variables: Mapping[str, Any], data: Data) -> None:
        jax.block_until_ready(program(variables, data, metrics.zeros(), 0, 0))

    def run(
        variables: Mapping[str, Any],
        data: Data,
        on_piece: OnPiece | None = None,
        *,
        allow: Allow = always,
    ) -> Metrics:
        sums = metrics.zeros()
        start = 0

        def advance(count: int) -> Metrics:
            nonlocal sums, start
            sums = program(variables, data, sums, start, count)
            start += count
            return sums

        in_pieces(advance, batches, own_batch * layout.size, on_piece, allow=allow)
        return sums

    return Evaluation(compile, run)
