"""A whole epoch as one program: the dataset on the device as uint8, a loop over steps inside.

The loop's length is an argument, so one compiled program serves a whole epoch in one call, or a
piece of it where a progress bar wants to move: the state's step counter says where the epoch
stands, and the numbers do not depend on the pieces.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcifar import metrics
from jaxcifar.augment import Augment
from jaxcifar.metrics import Metrics
from jaxcifar.schedules import steps_per_epoch
from jaxcifar.state import Stream, TrainState, draw_key
from jaxcifar.steps import EvalStep, TrainStep

Data = Mapping[str, jax.Array]  # image [n h w 3] uint8, label [n] int32, on the device
Progress = Callable[[int, Metrics], None]  # (examples just done, sums so far)
Steps = Callable[[TrainState, Data, jax.Array, Metrics, int], tuple[TrainState, Metrics]]

# A piece of an epoch between two looks at the progress bar. Each call takes its temporary memory
# from the system anew: on the CPU ResNet-18 paid 0.1 s of page faults for it, so that pieces of one
# or two steps (0.5 s) trained 30 % slower than the whole epoch in one call.
SECONDS_PER_PIECE = 3.0


class TrainEpoch(NamedTuple):
    """``compile`` before the clock starts, then ``run``. Both donate the state they are given."""

    compile: Callable[[TrainState, Data], TrainState]
    run: Callable[..., tuple[TrainState, Metrics]]  # (state, data, on_progress=None)


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
    if not 1 <= batch_size <= size:
        raise ValueError(f"batch_size must lie between 1 and the {size} images, not {batch_size}")
    whole_steps, rest = divmod(size, batch_size)
    epoch_steps = steps_per_epoch(size, batch_size)

    @jax.jit
    def draw_order(state: TrainState) -> jax.Array:
        # Apart from the steps: it took 25 ms for 40,000 images on the CPU, for each piece anew.
        epoch = state.step // epoch_steps
        return jax.random.permutation(draw_key(state.key, Stream.ORDER, epoch), size)

    def make_steps(length: int) -> Steps:
        """Steps over batches of `length` images (static: it is a shape in the program)."""

        def steps(
            state: TrainState, data: Data, order: jax.Array, sums: Metrics, count: jax.Array
        ) -> tuple[TrainState, Metrics]:
            epoch = state.step // epoch_steps
            view = epoch if views is None else epoch % views
            augment_key = draw_key(state.key, Stream.AUGMENT, view)
            stored = view * size if augment is None and views is not None else 0

            def body(_: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
                state, sums = carry
                first = (state.step % epoch_steps) * batch_size
                index = jax.lax.dynamic_slice(order, (first,), (length,))
                images = data["image"][stored + index]
                if augment is not None:
                    keys = jax.vmap(lambda i: jax.random.fold_in(augment_key, i))(index)
                    images = augment(keys, images)
                batch = {"image": images, "label": data["label"][index]}
                state, measured = train_step(state, batch)
                return state, metrics.add(sums, measured)

            return jax.lax.fori_loop(0, count, body, (state, sums))

        return jax.jit(steps, donate_argnums=(0,))

    whole = make_steps(batch_size)
    partial = make_steps(rest) if rest else None

    def compile(state: TrainState, data: Data) -> TrainState:
        order = draw_order(state)
        for steps in (whole, partial):
            if steps is not None:
                state, _ = steps(state, data, order, metrics.zeros(), 0)
        return jax.block_until_ready(state)

    def run(
        state: TrainState, data: Data, on_progress: Progress | None = None
    ) -> tuple[TrainState, Metrics]:
        order = draw_order(state)
        carry = (state, metrics.zeros())

        def advance(count: int, steps: Steps = whole) -> Metrics:
            nonlocal carry
            carry = steps(carry[0], data, order, carry[1], count)
            return carry[1]

        done = int(state.step) % epoch_steps
        in_pieces(advance, whole_steps - done, batch_size, on_progress)
        if partial is not None:
            in_pieces(lambda count: advance(count, partial), 1, rest, on_progress)
        return carry

    return TrainEpoch(compile, run)


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
