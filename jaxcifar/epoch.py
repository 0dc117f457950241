"""A whole epoch as one program: the dataset on the device as uint8, a loop over steps inside.

The loop's length is an argument, so one compiled program serves a whole epoch in one call, or a
piece of it where a progress bar wants to move: the state's step counter says where the epoch
stands, and the numbers do not depend on the pieces.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar import metrics
from jaxcifar.augment import Augment
from jaxcifar.metrics import Metrics
from jaxcifar.schedules import steps_per_epoch
from jaxcifar.state import Stream, TrainState, draw_key
from jaxcifar.steps import EvalStep, TrainStep

Data = Mapping[str, jax.Array]  # image [n h w 3] uint8, label [n] int32, on the device
Progress = Callable[[int, Metrics], None]  # (examples just done, sums so far)
Steps = Callable[..., tuple[TrainState, Metrics]]  # (state, data, order, sums, count)

# A piece of an epoch between two looks at the progress bar. Each call takes its temporary memory
# from the system anew: on the CPU ResNet-18 paid 0.1 s of page faults for it, so that pieces of one
# or two steps (0.5 s) trained 30 % slower than the whole epoch in one call.
SECONDS_PER_PIECE = 3.0


class TrainEpoch(NamedTuple):
    """``compile`` before the clock starts, then ``run``. Both donate the state they are given."""

    compile: Callable[[TrainState, Data], TrainState]
    run: Callable[..., tuple[TrainState, Metrics]]  # (state, data, on_progress=None)
    lower: Callable[[TrainState, Data], jax.stages.Lowered]  # the steps over full batches, to study


class Evaluation(NamedTuple):
    """``compile`` before the clock starts, then ``run``."""

    compile: Callable[[Mapping[str, Any], Data], None]
    run: Callable[..., Metrics]  # (variables, data, on_progress=None)


def make_train_epoch(
    train_step: TrainStep,
    *,
    size: int,
    batch_size: int,
    augment: Augment | None = None,
    views: int | None = None,
) -> TrainEpoch:
    """Build the program that takes a state to the end of the epoch its step counter lies in.

    Every image is used once, in an order drawn from (run key, epoch); the last batch is smaller if
    the size says so. Image i is augmented with a key drawn from (run key, epoch, i), or from (run
    key, epoch modulo `views`, i). The state is donated: use the returned one.

    Args:
        size: images in the data.
        batch_size: at most `size`.
        augment: ``(keys [n], images) -> images``, see `augment.make_augment`.
        views: how many different augmentations of an image there are, taken in turn epoch by epoch.
            Without `augment` the data holds them all, one view of every image after the other.

    Raises:
        ValueError: a batch size that is not.
    """
    plan = _Plan(size, batch_size, views)

    def make_steps(length: int) -> Steps:
        return _make_steps(plan, length, train_step, augment)

    return _compiled_epoch(plan, make_steps, _make_draw_order(plan))


def make_epoch_of_members(
    build: Callable[[jax.Array], tuple[TrainStep, Augment | None]],
    values: jax.Array,
    *,
    size: int,
    batch_size: int,
    views: int | None = None,
) -> TrainEpoch:
    """Build `make_train_epoch`'s program for several runs side by side, that differ in a number.

    Every leaf of the state and of the sums has the members in front, [m, ...]; all of them stand at
    the same step. The data are shared. Each member's order, augmentation and dropout are its own,
    those of its key.

    Args:
        build: a member's train step and augmentation, from its value (traced, []).
        values: [m].
    """
    plan = _Plan(size, batch_size, views)

    def make_steps(length: int) -> Steps:
        def of_member(value: jax.Array, *arguments: Any) -> tuple[TrainState, Metrics]:
            return _make_steps(plan, length, *build(value))(*arguments)

        return partial(jax.vmap(of_member, in_axes=(0, 0, None, 0, 0, None)), values)

    return _compiled_epoch(plan, make_steps, jax.vmap(_make_draw_order(plan)))


class _Plan:
    """How an epoch divides into steps."""

    def __init__(self, size: int, batch_size: int, views: int | None) -> None:
        if not 1 <= batch_size <= size:
            raise ValueError(
                f"batch_size must lie between 1 and the {size} images, not {batch_size}"
            )
        self.size, self.batch_size, self.views = size, batch_size, views
        self.whole_steps, self.rest = divmod(size, batch_size)
        self.epoch_steps = steps_per_epoch(size, batch_size)


def _make_draw_order(plan: _Plan) -> Callable[[TrainState], jax.Array]:
    def draw_order(state: TrainState) -> jax.Array:
        epoch = state.step // plan.epoch_steps
        return jax.random.permutation(draw_key(state.key, Stream.ORDER, epoch), plan.size)

    return draw_order


def _make_steps(plan: _Plan, length: int, train_step: TrainStep, augment: Augment | None) -> Steps:
    """Steps over batches of `length` images (static: it is a shape in the program)."""

    def steps(
        state: TrainState, data: Data, order: jax.Array, sums: Metrics, count: jax.Array
    ) -> tuple[TrainState, Metrics]:
        epoch = state.step // plan.epoch_steps
        view = epoch if plan.views is None else epoch % plan.views
        augment_key = draw_key(state.key, Stream.AUGMENT, view)
        stored = view * plan.size if augment is None and plan.views is not None else 0

        def body(_: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, sums = carry
            first = (state.step % plan.epoch_steps) * plan.batch_size
            index = jax.lax.dynamic_slice(order, (first,), (length,))
            images = data["image"][stored + index]
            if augment is not None:
                keys = jax.vmap(lambda i: jax.random.fold_in(augment_key, i))(index)
                images = augment(keys, images)
            batch = {"image": images, "label": data["label"][index]}
            state, measured = train_step(state, batch)
            return state, metrics.add(sums, measured)

        return jax.lax.fori_loop(0, count, body, (state, sums))

    return steps


def _compiled_epoch(
    plan: _Plan,
    make_steps: Callable[[int], Steps],
    draw_order: Callable[[TrainState], jax.Array],
) -> TrainEpoch:
    # Apart from the steps: it took 25 ms for 40,000 images on the CPU, for each piece anew.
    draw_order = jax.jit(draw_order)
    whole = jax.jit(make_steps(plan.batch_size), donate_argnums=(0,))
    last = jax.jit(make_steps(plan.rest), donate_argnums=(0,)) if plan.rest else None

    def lower(state: TrainState, data: Data) -> jax.stages.Lowered:
        order = jax.eval_shape(draw_order, state)
        return whole.lower(state, data, order, metrics.zeros(state.step.shape), 0)

    def compile(state: TrainState, data: Data) -> TrainState:
        order = draw_order(state)
        for steps in (whole, last):
            if steps is not None:
                state, _ = steps(state, data, order, metrics.zeros(state.step.shape), 0)
        return jax.block_until_ready(state)

    def run(
        state: TrainState, data: Data, on_progress: Progress | None = None
    ) -> tuple[TrainState, Metrics]:
        order = draw_order(state)
        carry = (state, metrics.zeros(state.step.shape))

        def advance(count: int, steps: Steps = whole) -> Metrics:
            nonlocal carry
            carry = steps(carry[0], data, order, carry[1], count)
            return carry[1]

        done = int(np.max(state.step)) % plan.epoch_steps
        in_pieces(advance, plan.whole_steps - done, plan.batch_size, on_progress)
        if last is not None:
            in_pieces(lambda count: advance(count, last), 1, plan.rest, on_progress)
        return carry

    return TrainEpoch(compile, run, lower)


def make_evaluation(eval_step: EvalStep, *, size: int, batch_size: int) -> Evaluation:
    """Build the program that evaluates variables on every image exactly once.

    The last batch is padded by repeating the last image, masked out of the sums.
    """
    batch_size = min(batch_size, size)
    batches = steps_per_epoch(size, batch_size)

    @jax.jit
    def steps(
        variables: Mapping[str, Any], data: Data, sums: Metrics, start: jax.Array, count: jax.Array
    ) -> Metrics:
        def body(i: jax.Array, sums: Metrics) -> Metrics:
            index = (start + i) * batch_size + jnp.arange(batch_size)
            inside = jnp.minimum(index, size - 1)
            batch = {
                "image": data["image"][inside],
                "label": data["label"][inside],
                "mask": index < size,
            }
            return metrics.add(sums, eval_step(variables, batch))

        return jax.lax.fori_loop(0, count, body, sums)

    def compile(variables: Mapping[str, Any], data: Data) -> None:
        jax.block_until_ready(steps(variables, data, metrics.zeros(), 0, 0))

    def run(
        variables: Mapping[str, Any], data: Data, on_progress: Progress | None = None
    ) -> Metrics:
        sums = metrics.zeros()
        start = 0

        def advance(count: int) -> Metrics:
            nonlocal sums, start
            sums = steps(variables, data, sums, start, count)
            start += count
            return sums

        in_pieces(advance, batches, batch_size, on_progress)
        return sums

    return Evaluation(compile, run)


def in_pieces(
    advance: Callable[[int], Metrics],
    total: int,
    batch_size: int,
    on_progress: Progress | None,
) -> None:
    """Call `advance` in pieces that add up to `total` steps, reporting each when it is done.

    The next piece is handed to the device before the last one's numbers are waited for, so the
    device never idles. Without `on_progress` it is one piece.
    """
    if on_progress is None:
        advance(total)
        return
    piece, done = 1, 0
    pending: tuple[int, Metrics] | None = None
    last = time.perf_counter()
    while done < total:
        count = min(piece, total - done)
        current = (count * batch_size, advance(count))
        done += count
        if pending is not None:
            jax.block_until_ready(pending[1])
            on_progress(*pending)
            now = time.perf_counter()
            fitting = round(pending[0] / batch_size * SECONDS_PER_PIECE / max(now - last, 1e-6))
            piece, last = max(1, min(2 * piece, fitting)), now
        pending = current
    if pending is not None:
        jax.block_until_ready(pending[1])
        on_progress(*pending)
