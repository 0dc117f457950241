"""Epochs over images that stay on the host and are read ahead: one of two ways, see `epoch`.

The batches are those of images on the device. The run's key and step decide here what is read, not
the reader: any step can be the first one, so a resumed run needs no state of the stream. Several
batches go to the device at once, as one chunk, and one program loops over them.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from jaxcifar.data import Source
from jaxcifar.data.reading import open_stream
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
    Numbers,
    Scoring,
    Steps,
    constant,
    make_draw_order,
    make_steps,
)
from jaxcifar.training.pieces import Allow, OnPiece, always, in_pieces

CHUNK_BYTES = 32 * 2**20  # on the device, where there are two or three at a time
CHUNKS_AHEAD = 4  # read on the host meanwhile, each by a thread


def make_streamed_epoch(
    train_step: TrainStep,
    source: Source,
    *,
    batch_size: int,
    augment: Augment | None = None,
    views: int | None = None,
    layout: Layout = ONE_DEVICE,
    axis_step: TrainStep | None = None,
    stop_at_nonfinite: bool = True,
) -> Epoch:
    """Build `resident.make_train_epoch`'s epoch over a source that is read while it trains.

    Each process reads the images that its devices train on.

    Raises:
        ValueError: `batch_size` is not between 1 and the number of images, or `axis_step` is not
            there under pmap.

    Example:
        >>> import optax
        >>> from jaxcifar import load_dataset, make_streamed_epoch, start_state
        >>> from jaxcifar.step import metrics
        >>> def count_steps(state, batch):
        ...     return state.replace(step=state.step + 1), metrics.zeros()
        >>> images = load_dataset("digits", split=(120, 40)).train
        >>> epoch = make_streamed_epoch(count_steps, images, batch_size=50)
        >>> state = start_state({"params": {}, "batch_stats": {}}, optax.identity(), seed=0)
        >>> state, sums = epoch.run(state)
        >>> int(state.step)
        3
    """
    build = constant(train_step, augment, axis_step, layout)
    programs = make_streamed_programs(
        build,
        size=len(source),
        batch_size=batch_size,
        views=views,
        layout=layout,
        stop_at_nonfinite=stop_at_nonfinite,
    )
    return stream(programs, source, {}, layout=layout)


class StreamedPrograms(NamedTuple):
    """The compiled programs of an epoch whose chunks come from the host."""

    plan: EpochPlan
    draw_order: Callable[[TrainState], jax.Array]
    whole: Steps
    last: Steps | None
    stop_at_nonfinite: bool


def make_streamed_programs(
    build: Build,
    *,
    size: int,
    batch_size: int,
    views: int | None,
    layout: Layout,
    stop_at_nonfinite: bool,
) -> StreamedPrograms:
    """Build the programs without the images; see `resident.make_built_epoch`."""
    plan = EpochPlan(size, batch_size, views)

    def compile_steps(length: int) -> Steps:
        shared = layout.divides(length)
        axis_name = layout.axis_name if shared else None
        steps = make_steps(plan, build, lambda _: _from_chunk, axis_name, stop_at_nonfinite)
        return layout.compile(steps, shared=(1,) if shared else (), donate=(0,))

    last = compile_steps(plan.rest) if plan.rest else None
    draw_order = jax.jit(make_draw_order(plan))
    return StreamedPrograms(plan, draw_order, compile_steps(batch_size), last, stop_at_nonfinite)


def stream(
    programs: StreamedPrograms,
    source: Source,
    numbers: Numbers,
    *,
    layout: Layout = ONE_DEVICE,
    own: tuple[str, ...] = (),
) -> Epoch:
    """The epoch of these programs over a source; for the arguments, see `resident`."""
    plan, draw_order, whole, last, stop_at_nonfinite = programs
    batch_size, zeros = plan.batch_size, partial(metrics.zeros, own=own)
    chunk_steps = _chunk_steps(source, batch_size, plan.whole_steps)

    def compile(state: TrainState) -> TrainState:
        for steps, length, count in ((whole, batch_size, chunk_steps), (last, plan.rest, 1)):
            if steps is not None:
                empty = _empty_chunk(source, layout, count, length)
                state, _ = steps(state, empty, 0, zeros(), 0, numbers)
        return jax.block_until_ready(state)

    def run(
        state: TrainState,
        on_piece: OnPiece | None = None,
        *,
        sums: Metrics | None = None,
        allow: Allow = always,
    ) -> tuple[TrainState, Metrics]:
        order = np.asarray(draw_order(state), np.int64)
        carry = (state, zeros() if sums is None else sums)
        done = int(state.step) % plan.epoch_steps
        index = order[done * batch_size : plan.whole_steps * batch_size].reshape(-1, batch_size)

        def train(steps: Steps, index: NDArray[np.int64], first: int, chunk_steps: int) -> bool:
            def advance(chunk: Data, begin: int, at: int, count: int) -> Metrics:
                nonlocal carry
                carry = steps(carry[0], chunk, first + begin, carry[1], count, numbers)
                return carry[1]

            return _over_chunks(
                advance, source, layout, index, chunk_steps, on_piece, allow, spoiled=spoiled
            )

        if train(whole, index, done, chunk_steps) and last is not None:
            train(last, order[None, plan.whole_steps * batch_size :], plan.whole_steps, 1)
        return carry

    def spoiled(sums: Metrics) -> bool:
        """Where the program does nothing more, nothing more is read."""
        return stop_at_nonfinite and int(sums["nonfinite"]) > 0

    def lower(state: TrainState) -> jax.stages.Lowered:
        empty = _empty_chunk(source, layout, chunk_steps, batch_size)
        return whole.lower(  # type: ignore[attr-defined]
            state, empty, 0, zeros(), 0, numbers
        )

    return Epoch(compile, run, lower)


class StreamedScoring(NamedTuple):
    """The compiled program that scores `size` images whose chunks come from the host."""

    program: Callable[..., Metrics]  # (variables, chunk, sums, start, count) -> sums
    size: int
    batch_size: int
    layout: Layout
    own: Sequence[str]


def make_streamed_evaluation(
    eval_step: EvalStep,
    source: Source,
    *,
    batch_size: int,
    layout: Layout = ONE_DEVICE,
    own: Sequence[str] = (),
) -> Scoring:
    """Build `resident.make_evaluation`'s scoring of a source that is read while it runs."""
    programs = make_streamed_scoring(
        eval_step, size=len(source), batch_size=batch_size, layout=layout, own=own
    )
    return score_stream(programs, source)


def make_streamed_scoring(
    eval_step: EvalStep, *, size: int, batch_size: int, layout: Layout, own: Sequence[str]
) -> StreamedScoring:
    """Build the program without the images."""
    batch_size = layout.share(min(batch_size, size)) * layout.size

    def steps(
        variables: Mapping[str, Any], chunk: Data, sums: Metrics, start: jax.Array, count: jax.Array
    ) -> Metrics:
        def body(i: jax.Array, sums: Metrics) -> Metrics:
            batch = {name: chunk[name][start + i] for name in ("image", "label")}
            return metrics.add(
                sums, eval_step(variables, batch | {"mask": chunk["index"][start + i] < size})
            )

        if layout.axis_name is None:
            return jax.lax.fori_loop(0, count, body, sums)
        zeros = metrics.zeros(own=own)
        return metrics.add(sums, layout.total(jax.lax.fori_loop(0, count, body, zeros)))

    return StreamedScoring(layout.compile(steps, shared=(1,)), size, batch_size, layout, own)


def score_stream(programs: StreamedScoring, source: Source) -> Scoring:
    """The scoring by this program over a source of its size."""
    program, size, batch_size, layout, own = programs
    zeros = partial(metrics.zeros, own=own)
    batches = steps_per_epoch(size, batch_size)
    chunk_steps = _chunk_steps(source, batch_size, batches)

    def compile(variables: Mapping[str, Any]) -> None:
        chunk = _empty_chunk(source, layout, chunk_steps, batch_size)
        jax.block_until_ready(program(variables, chunk, zeros(), 0, 0))

    def run(
        variables: Mapping[str, Any],
        on_piece: OnPiece | None = None,
        *,
        allow: Allow = always,
    ) -> Metrics:
        index = np.arange(batches * batch_size).reshape(-1, batch_size)
        sums = zeros()

        def advance(chunk: Data, begin: int, at: int, count: int) -> Metrics:
            nonlocal sums
            sums = program(variables, chunk, sums, at - begin, count)
            return sums

        _over_chunks(advance, source, layout, index, chunk_steps, on_piece, allow)
        return sums

    return Scoring(compile, run)


def _over_chunks(
    advance: Callable[[Data, int, int, int], Metrics],
    source: Source,
    layout: Layout,
    index: NDArray[np.int64],
    chunk_steps: int,
    on_piece: OnPiece | None,
    allow: Allow,
    *,
    spoiled: Callable[[Metrics], bool] | None = None,
) -> bool:
    """`in_pieces` over the batches of `index` [steps, n]; no piece reaches into two chunks.

    Args:
        advance: ``(chunk, its first step, step to begin at, steps to do) -> sums so far``.
    """
    with closing(_chunks(source, layout, index, chunk_steps)) as chunks:
        at = 0
        chunk: Data = {}

        def advance_in_chunk(count: int) -> Metrics:
            nonlocal at, chunk
            if at % chunk_steps == 0:
                chunk = next(chunks)
            sums = advance(chunk, at - at % chunk_steps, at, count)
            at += count
            return sums

        return in_pieces(
            advance_in_chunk,
            len(index),
            index.shape[1],
            on_piece,
            allow=allow,
            limit=lambda done: chunk_steps - done % chunk_steps,
            spoiled=spoiled,
        )


def _chunk_steps(source: Source, batch_size: int, steps: int) -> int:
    """Batches in a chunk: as many as its bytes allow, at least one."""
    batch_bytes = batch_size * source.side**2 * 3
    return max(1, min(steps, CHUNK_BYTES // batch_bytes))


def _from_chunk(
    chunk: Data, first: jax.Array, place: jax.Array, view: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A step's batch in a chunk whose first batch is that of the step `first`."""
    i = place - first
    return chunk["image"][i], chunk["label"][i], chunk["index"][i]


def _chunks(
    source: Source, layout: Layout, index: NDArray[np.int64], chunk_steps: int
) -> Generator[Data, None, None]:
    """The batches of `index` [steps, n] on the device, a chunk at a time; the last one is padded.

    Rows beyond the source's end read its last image.
    """
    own = layout.own_rows(index)
    n = own.shape[1]
    rows = np.minimum(own, len(source) - 1)
    parts: Sequence[NDArray[np.int64]] = [
        rows[i : i + chunk_steps].ravel() for i in range(0, len(rows), chunk_steps)
    ]
    with closing(open_stream(source, parts, prefetch=CHUNKS_AHEAD)) as stream:
        for i, read in enumerate(stream):
            part = own[i * chunk_steps : (i + 1) * chunk_steps]
            filled = (chunk_steps - len(part)) * n
            yield layout.place_batches(
                {
                    "image": _shaped(read.images, filled, n),
                    "label": _shaped(read.labels, filled, n),
                    "index": _shaped(part.ravel().astype(np.int32), filled, n),
                },
                index.shape[1],
            )


def _shaped(rows: NDArray[Any], filled: int, n: int) -> NDArray[Any]:
    """[steps * n, ...] and `filled` rows of zeros, as [steps, n, ...]."""
    if filled:
        rows = np.concatenate([rows, np.zeros((filled, *rows.shape[1:]), rows.dtype)])
    return rows.reshape(-1, n, *rows.shape[1:])


def _empty_chunk(source: Source, layout: Layout, steps: int, images: int) -> Data:
    """A chunk of zeros to compile with."""
    own = layout.own_rows(np.zeros((steps, images), np.int32))
    side = source.side
    return layout.place_batches(
        {"image": np.zeros((*own.shape, side, side, 3), np.uint8), "label": own, "index": own},
        images,
    )
