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
from jaxcifar.parallel import ONE_DEVICE, Layout
from jaxcifar.schedules import steps_per_epoch
from jaxcifar.state import Stream, TrainState, draw_key
from jaxcifar.steps import EvalStep, TrainStep

# image [n h w 3] uint8, label [n] int32; shared out over the devices by rows, see `parallel`.
Data = Mapping[str, jax.Array]
Progress = Callable[[int, Metrics], None]  # (examples just done, sums so far)
Steps = Callable[..., tuple[TrainState, Metrics]]  # (state, data, order, sums, count)
# (data, order, step within the epoch, view) -> a device's part of the images, labels and indices
Fetch = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
# Asked before each piece of so many steps: how many to do now, 0 to stop. See `in_pieces`.
Pace = Callable[[int], int]

# A piece of an epoch between two looks at the progress bar. Each call takes its temporary memory
# from the system anew: on the CPU ResNet-18 paid 0.1 s of page faults for it, so that pieces of one
# or two steps (0.5 s) trained 30 % slower than the whole epoch in one call.
SECONDS_PER_PIECE = 3.0


def steadily(count: int) -> int:
    """The pace that never stops."""
    return count


class TrainEpoch(NamedTuple):
    """``compile`` before the clock starts, then ``run``. Both donate the state they are given.

    ``run(state, data, on_progress=None, *, sums=None, pace=steadily)`` trains from where the state
    stands to the end of its epoch, or to where `pace` stops it, adding to the `sums` of the part
    done before. It ends early where a step's numbers were not finite (unless the steps are those
    of several members): the state is then the one behind that step.
    """

    compile: Callable[[TrainState, Data], TrainState]
    run: Callable[..., tuple[TrainState, Metrics]]
    lower: Callable[[TrainState, Data], jax.stages.Lowered]  # the steps over full batches, to study


class Evaluation(NamedTuple):
    """``compile`` before the clock starts, then ``run``, which a `pace` can end only by raising."""

    compile: Callable[[Mapping[str, Any], Data], None]
    run: Callable[..., Metrics]  # (variables, data, on_progress=None, *, pace=steadily)


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

    Every image is used once, in an order drawn from (run key, epoch); the last batch is smaller if
    the size says so. Image i is augmented with a key drawn from (run key, epoch, i), or from (run
    key, epoch modulo `views`, i). The state is donated: use the returned one.

    Args:
        size: images in the data.
        batch_size: at most `size`; of all devices together.
        augment: ``(keys [n], images) -> images``, see `augment.make_augment`.
        views: how many different augmentations of an image there are, taken in turn epoch by epoch.
            Without `augment` the data holds them all, one view of every image after the other.
        layout: the devices. A last batch that they cannot share evenly is computed by each.
        axis_step: under pmap, the same step with its axis named, see `layout.axis_name`.
        stop_at_nonfinite: end the epoch behind a step whose numbers were not finite.

    Raises:
        ValueError: a batch size that is not.
    """
    plan = Plan(size, batch_size, views)

    def compile_steps(length: int) -> Steps:
        shared = layout.axis_name is not None and layout.divides(length)
        step = axis_step if shared and axis_step is not None else train_step
        fetch = _make_fetch(plan, length, augment, layout)
        return layout.compile(
            make_steps(plan, step, augment, fetch, stop_at_nonfinite),
            (False, True, False, False, False),
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
    """Build `make_train_epoch`'s program for several runs side by side, that differ in a number.

    Every leaf of the state and of the sums has the members in front, [m, ...]; all of them stand at
    the same step. The data are shared. Each member's order, augmentation and dropout are its own,
    those of its key. A member whose numbers are no longer finite goes on, like the others.

    Args:
        build: a member's train step and augmentation, from its value (traced, []).
        values: [m].
    """
    plan = Plan(size, batch_size, views)

    def compile_steps(length: int) -> Steps:
        def of_member(value: jax.Array, *arguments: Any) -> tuple[TrainState, Metrics]:
            step, augment = build(value)
            fetch = _make_fetch(plan, length, augment, ONE_DEVICE)
            return make_steps(plan, step, augment, fetch, False)(*arguments)

        program = partial(jax.vmap(of_member, in_axes=(0, 0, None, 0, 0, None)), values)
        return jax.jit(program, donate_argnums=(0,))

    return _compiled_epoch(plan, compile_steps, jax.vmap(make_draw_order(plan)))


class Plan:
    """How an epoch divides into steps."""

    def __init__(self, size: int, batch_size: int, views: int | None) -> None:
        """Divide an epoch over `size` images.

        Raises:
            ValueError: a batch size that is not.
        """
        if not 1 <= batch_size <= size:
            raise ValueError(
                f"batch_size must lie between 1 and the {size} images, not {batch_size}"
            )
        self.size, self.batch_size, self.views = size, batch_size, views
        self.whole_steps, self.rest = divmod(size, batch_size)
        self.epoch_steps = steps_per_epoch(size, batch_size)


def make_draw_order(plan: Plan) -> Callable[[TrainState], jax.Array]:
    """Build ``state -> int32 [size]``: the order of the images in the epoch the state lies in."""

    def draw_order(state: TrainState) -> jax.Array:
        epoch = state.step // plan.epoch_steps
        return jax.random.permutation(draw_key(state.key, Stream.ORDER, epoch), plan.size)

    return draw_order


def _make_fetch(plan: Plan, length: int, augment: Augment | None, layout: Layout) -> Fetch:
    """Batches of `length` images out of data on the devices, by the epoch's order."""
    stored = plan.views if augment is None and plan.views is not None else 1

    def fetch(
        data: Data, order: jax.Array, place: jax.Array, view: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        index = jax.lax.dynamic_slice(order, (place * plan.batch_size,), (length,))
        of_view = view if stored > 1 else 0
        images = layout.take(data["image"], index, view=of_view, views=stored)
        return images, layout.take(data["label"], index), layout.part(index)

    return fetch


def make_steps(
    plan: Plan,
    train_step: TrainStep,
    augment: Augment | None,
    fetch: Fetch,
    stop_at_nonfinite: bool,
) -> Steps:
    """Build the loop over steps, whose batches `fetch` brings; their size is that of the program.

    ``(state, data, order, sums, count) -> (state, sums)``; `data` and `order` are passed on.
    """

    def steps(
        state: TrainState, data: Data, order: jax.Array, sums: Metrics, count: jax.Array
    ) -> tuple[TrainState, Metrics]:
        epoch = state.step // plan.epoch_steps
        view = epoch if plan.views is None else epoch % plan.views
        augment_key = draw_key(state.key, Stream.AUGMENT, view)

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
                images = augment(keys, images)
            state, measured = train_step(state, {"image": images, "label": label})
            return i + 1, state, metrics.add(sums, measured)

        _, state, sums = jax.lax.while_loop(unfinished, body, (jnp.int32(0), state, sums))
        return state, sums

    return steps


def _compiled_epoch(
    plan: Plan,
    compile_steps: Callable[[int], Steps],
    draw_order: Callable[[TrainState], jax.Array],
) -> TrainEpoch:
    # Apart from the steps: it took 25 ms for 40,000 images on the CPU, for each piece anew.
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
        on_progress: Progress | None = None,
        *,
        sums: Metrics | None = None,
        pace: Pace = steadily,
    ) -> tuple[TrainState, Metrics]:
        order = draw_order(state)
        carry = (state, metrics.zeros(state.step.shape) if sums is None else sums)

        def advance(count: int, steps: Steps = whole) -> Metrics:
            nonlocal carry
            carry = steps(carry[0], data, order, carry[1], count)
            return carry[1]

        done = int(np.max(state.step)) % plan.epoch_steps
        ended = in_pieces(advance, plan.whole_steps - done, plan.batch_size, on_progress, pace=pace)
        if last is not None and ended:
            in_pieces(lambda n: advance(n, last), 1, plan.rest, on_progress, pace=pace)
        return carry

    return TrainEpoch(compile, run, lower)


def make_evaluation(
    eval_step: EvalStep, *, size: int, batch_size: int, layout: Layout = ONE_DEVICE
) -> Evaluation:
    """Build the program that evaluates variables on every image exactly once.

    Each device scores the images it holds. Its last batch is padded by repeating the last image,
    masked out of the sums.
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

    program = layout.on_each(steps, (False, True, False, False, False))

    def compile(variables: Mapping[str, Any], data: Data) -> None:
        jax.block_until_ready(program(variables, data, metrics.zeros(), 0, 0))

    def run(
        variables: Mapping[str, Any],
        data: Data,
        on_progress: Progress | None = None,
        *,
        pace: Pace = steadily,
    ) -> Metrics:
        sums = metrics.zeros()
        start = 0

        def advance(count: int) -> Metrics:
            nonlocal sums, start
            sums = program(variables, data, sums, start, count)
            start += count
            return sums

        in_pieces(advance, batches, own_batch * layout.size, on_progress, pace=pace)
        return sums

    return Evaluation(compile, run)


def in_pieces(
    advance: Callable[[int], Metrics],
    total: int,
    batch_size: int,
    on_progress: Progress | None,
    *,
    pace: Pace = steadily,
    limit: Callable[[int], int] | None = None,
) -> bool:
    """Call `advance` in pieces that add up to `total` steps, reporting each when it is done.

    The next piece is handed to the device before the last one's numbers are waited for, so the
    device never idles. Without `on_progress` it is one piece.

    Args:
        pace: is told the size of the next piece and gives the size it is to have, 0 to stop.
        limit: the largest piece there can be after so many steps.

    Returns:
        Whether all steps were done.
    """
    piece, done = 1, 0
    pending: tuple[int, Metrics] | None = None
    last = time.perf_counter()
    while done < total:
        count = total - done if on_progress is None else min(piece, total - done)
        count = pace(count if limit is None else min(count, limit(done)))
        if count == 0:
            break
        current = (count * batch_size, advance(count))
        done += count
        if on_progress is None:
            continue
        if pending is not None:
            jax.block_until_ready(pending[1])
            on_progress(*pending)
            now = time.perf_counter()
            fitting = round(pending[0] / batch_size * SECONDS_PER_PIECE / max(now - last, 1e-6))
            piece, last = max(1, min(2 * piece, fitting)), now
        pending = current
    if pending is not None and on_progress is not None:
        jax.block_until_ready(pending[1])
        on_progress(*pending)
    return done == total
