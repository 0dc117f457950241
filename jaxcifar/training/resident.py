"""Epochs over images, or cached features, that stay on the device: one of two ways, see `epoch`.

The programs are built without data, so that runs over other data share them; `over` binds them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    Build,
    Data,
    Epoch,
    EpochPlan,
    Fetch,
    Numbers,
    Scoring,
    Steps,
    constant,
    make_draw_order,
    make_steps,
)
from jaxcifar.training.pieces import Allow, OnPiece, always, in_pieces


@dataclass(frozen=True)
class TrainEpoch:
    """The functions of an `epoch.Epoch`, with the data as their second argument.

    Attributes:
        plan: how the epoch divides into steps.
        draw_order: compiled, see `epoch.make_draw_order`.
        whole: the compiled loop over full batches.
        last: the same for a smaller last batch, or None.
        numbers: the arguments of the programs, see `recipes.numbers`.
        own: names of the user's metrics.
    """

    plan: EpochPlan
    draw_order: Callable[[TrainState], jax.Array]
    whole: Steps
    last: Steps | None
    numbers: Numbers
    own: tuple[str, ...] = ()

    def _zeros(self, state: TrainState) -> Metrics:
        return metrics.zeros(state.step.shape, self.own)

    def lower(self, state: TrainState, data: Data) -> jax.stages.Lowered:
        """See `epoch.Epoch`."""
        order = jax.eval_shape(self.draw_order, state)
        return self.whole.lower(  # type: ignore[attr-defined]
            state, data, order, self._zeros(state), 0, self.numbers
        )

    def compile(self, state: TrainState, data: Data) -> TrainState:
        """See `epoch.Epoch`."""
        order = self.draw_order(state)
        for steps in (self.whole, self.last):
            if steps is not None:
                state, _ = steps(state, data, order, self._zeros(state), 0, self.numbers)
        return jax.block_until_ready(state)

    def run(
        self,
        state: TrainState,
        data: Data,
        on_piece: OnPiece | None = None,
        *,
        sums: Metrics | None = None,
        allow: Allow = always,
    ) -> tuple[TrainState, Metrics]:
        """See `epoch.Epoch`."""
        plan, last, order = self.plan, self.last, self.draw_order(state)
        carry = (state, self._zeros(state) if sums is None else sums)

        def advance(count: int, steps: Steps = self.whole) -> Metrics:
            nonlocal carry
            carry = steps(carry[0], data, order, carry[1], count, self.numbers)
            return carry[1]

        done = int(np.max(state.step)) % plan.epoch_steps
        ended = in_pieces(advance, plan.whole_steps - done, plan.batch_size, on_piece, allow=allow)
        if last is not None and ended:
            in_pieces(lambda n: advance(n, last), 1, plan.rest, on_piece, allow=allow)
        return carry

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
        ValueError: `batch_size` is not between 1 and the number of images, or `axis_step` is not
            there under pmap.

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
    build = constant(train_step, augment, axis_step, layout)
    return make_built_epoch(
        build,
        {},
        size=size,
        batch_size=batch_size,
        views=views,
        layout=layout,
        stop_at_nonfinite=stop_at_nonfinite,
    )


def make_built_epoch(
    build: Build,
    numbers: Numbers,
    *,
    size: int,
    batch_size: int,
    views: int | None = None,
    layout: Layout = ONE_DEVICE,
    stop_at_nonfinite: bool = True,
    own: tuple[str, ...] = (),
) -> TrainEpoch:
    """Build `make_train_epoch`'s program of a step that depends on numbers.

    `dataclasses.replace(epoch, numbers=...)` is the same program with other numbers.

    Args:
        build: makes the step and the augmentation from numbers, inside the program.
        numbers: the first ones.
        own: names of the user's metrics, which the step measures.
    """
    plan = EpochPlan(size, batch_size, views)

    def compile_steps(length: int) -> Steps:
        axis_name = layout.axis_name if layout.divides(length) else None
        make_fetch = partial(_make_fetch, plan, length, layout)
        return layout.compile(
            make_steps(plan, build, make_fetch, axis_name, stop_at_nonfinite),
            shared=(1,),
            donate=(0,),
        )

    return _compiled_epoch(plan, compile_steps, make_draw_order(plan), numbers, own)


def make_epoch_of_members(
    build: Build,
    numbers: Numbers,
    *,
    size: int,
    batch_size: int,
    views: int | None = None,
) -> TrainEpoch:
    """Build `make_built_epoch`'s program for several runs that differ in numbers.

    Every leaf of the state and of the sums has the members in front, [m, ...]; all members are at
    the same step. They share the data; each draws its own order, augmentation and dropout, from its
    own key. A member whose numbers are no longer finite continues, like the others.

    Args:
        build: a member's train step and augmentation, from its numbers.
        numbers: of all members, [m].
    """
    plan = EpochPlan(size, batch_size, views)

    def compile_steps(length: int) -> Steps:
        make_fetch = partial(_make_fetch, plan, length, ONE_DEVICE)
        steps = make_steps(plan, build, make_fetch, None, False)
        return jax.jit(jax.vmap(steps, in_axes=(0, None, 0, 0, None, 0)), donate_argnums=(0,))

    return _compiled_epoch(plan, compile_steps, jax.vmap(make_draw_order(plan)), numbers)


def _make_fetch(plan: EpochPlan, length: int, layout: Layout, augmented: bool) -> Fetch:
    """Batches of `length` images of the data on the devices, in the epoch's order.

    Where they are not augmented, the data hold all views.
    """
    stored = plan.views if not augmented and plan.views is not None else 1

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
    numbers: Numbers,
    own: tuple[str, ...] = (),
) -> TrainEpoch:
    # The order is not drawn in the steps' program: it took 25 ms for 40,000 images on the CPU, in
    # every piece again.
    whole = compile_steps(plan.batch_size)
    last = compile_steps(plan.rest) if plan.rest else None
    return TrainEpoch(plan, jax.jit(draw_order), whole, last, numbers, own)


def make_evaluation(
    eval_step: EvalStep,
    *,
    size: int,
    batch_size: int,
    layout: Layout = ONE_DEVICE,
    own: Sequence[str] = (),
) -> Evaluation:
    """Build the program that evaluates variables on every image exactly once.

    Each device scores the images it holds. Its last batch is padded with the last image, which is
    masked out of the sums.

    Args:
        eval_step: see `steps.make_eval_step`.
        size: images in the data.
        batch_size: of all devices together.
        layout: the devices.
        own: names of the user's metrics, which the step measures.

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
    zeros = partial(metrics.zeros, own=own)

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
        return metrics.add(sums, layout.total(jax.lax.fori_loop(0, count, body, zeros())))

    program = layout.on_each(steps, shared=(1,))

    def compile(variables: Mapping[str, Any], data: Data) -> None:
        jax.block_until_ready(program(variables, data, zeros(), 0, 0))

    def run(
        variables: Mapping[str, Any],
        data: Data,
        on_piece: OnPiece | None = None,
        *,
        allow: Allow = always,
    ) -> Metrics:
        sums = zeros()
        start = 0

        def advance(count: int) -> Metrics:
            nonlocal sums, start
            sums = program(variables, data, sums, start, count)
            start += count
            return sums

        in_pieces(advance, batches, own_batch * layout.size, on_piece, allow=allow)
        return sums

    return Evaluation(compile, run)
