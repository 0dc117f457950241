"""One program for all members or one run after another: both are measured, the faster is taken."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.data import Splits
from jaxcifar.devices.memory import free_memory, is_exhausted, memory_excess
from jaxcifar.recipes.numbers import numbers_of, without_numbers
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step import metrics
from jaxcifar.step.state import TrainState, state_shapes
from jaxcifar.studies.sweeps.members import Member
from jaxcifar.training import evaluation
from jaxcifar.training.epoch import Data
from jaxcifar.training.features import USABLE_SHARE
from jaxcifar.training.plan import limit_splits, stored_views
from jaxcifar.training.resident import TrainEpoch, make_epoch_of_members
from jaxcifar.training.stage import make_build, resident_epoch, stage_data
from jaxcifar.training.start import first_state

Mode = Literal["auto", "vmap", "sequential"]
Form = Literal["vmap", "sequential"]
# Measuring takes at most this long, and at most this share of the sweep, without compiling.
MEASURING_SECONDS = 20.0
MEASURING_SHARE = 0.05
SECONDS_PER_CALL = (
    0.1  # a shorter call is mostly overhead, which an epoch in one call does not have
)
SAMPLE_BATCHES = 4  # of the data, to measure with


class Choice(NamedTuple):
    """How a sweep runs, and why."""

    mode: Form
    why: str
    measured: dict[str, Any] | None


class Program(NamedTuple):
    """A form of training that can be timed."""

    advance: Callable[
        [int], None
    ]  # trains every member for this many steps; returns when they are done
    compile_seconds: float
    bytes: int  # of memory while it runs, including its arguments


def build_members(
    field: str, members: Sequence[Member], cut: str | None, *, size: int
) -> TrainEpoch:
    """The epoch of all members as one program; see `resident.make_epoch_of_members`."""
    recipe = members[0].recipe
    # The seed is in the state, as its key. A member's zero is a number like the others'.
    varied = () if field == "seed" else (field,)
    each = [numbers_of(member.recipe, varied) for member in members]
    return make_epoch_of_members(
        make_build(without_numbers(recipe), 1, cut),
        {name: np.stack([numbers[name] for numbers in each]) for name in each[0]},
        size=size,
        batch_size=recipe.batch_size,
        views=stored_views(recipe),
    )


def stack(states: Sequence[TrainState]) -> TrainState:
    """States side by side: every leaf [m, ...]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def too_large(members: Sequence[Member]) -> str | None:
    """Why the members' states do not fit in memory together, or None if they do."""
    recipe = members[0].recipe
    shapes = state_shapes(
        recipe.make_model(), recipe.make_optimizer(), image_size=recipe.image_size
    )
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)]
    return _over(len(members) * sum(sizes), f"the states of {len(members)} members take")


def images_too_large(recipe: Recipe, splits: Splits) -> str | None:
    """Why the images, which one program keeps on the device, do not fit there; None if they do.

    `fit` reads such images from the host. Cached features are on the device in both forms.
    """
    if recipe.cache_features:
        return None
    splits = limit_splits(recipe, splits)
    return evaluation.too_large(splits.train, splits.validation)


def choose(field: str, members: Sequence[Member], splits: Splits) -> Choice:
    """Time a few training steps of both forms, in turn, and take the faster one.

    Compiling does not count: it happens once per program, and is cached for the next process. In
    both forms the members are validated one after another, see `vmapped`.
    """
    reason = too_large(members)
    if reason is not None:
        return Choice("sequential", reason, None)
    try:
        return _measured(field, members, splits)
    except Exception as error:
        if not is_exhausted(error):
            raise
    return Choice("sequential", "memory ran out while one program was measured", None)


def _measured(field: str, members: Sequence[Member], splits: Splits) -> Choice:
    programs = make_programs(field, members, splits)
    reason = _over(programs["vmap"].bytes, f"one program of {len(members)} members needs")
    if reason is not None:
        return Choice("sequential", reason, None)
    recipe = members[0].recipe
    seconds = time_programs(programs, steps=recipe.epochs * recipe.steps_per_epoch)
    ratio = seconds["vmap"] / seconds["sequential"]
    return Choice(
        "vmap" if ratio < 1 else "sequential",
        f"a training step of {len(members)} members takes {1e3 * seconds['vmap']:.3g} ms as one "
        f"program and {1e3 * seconds['sequential']:.3g} ms one after another (ratio {ratio:.2f})",
        {
            "members": len(members),
            "vmap_seconds": seconds["vmap"],
            "sequential_seconds": seconds["sequential"],
            "ratio": ratio,
            "vmap_compile_seconds": programs["vmap"].compile_seconds,
            "sequential_compile_seconds": programs["sequential"].compile_seconds,
            "vmap_bytes": programs["vmap"].bytes,
            "sequential_bytes": programs["sequential"].bytes,
        },
    )


def make_programs(field: str, members: Sequence[Member], splits: Splits) -> dict[str, Program]:
    """Both forms, compiled, on a few batches of the data."""
    recipe = members[0].recipe
    splits = limit_splits(recipe, splits)
    size = min(len(splits.train), SAMPLE_BATCHES * recipe.batch_size)
    train, one = splits.train.read(np.arange(size)), splits.validation.read(np.arange(1))
    state, stage = first_state(recipe, splits), make_stage(recipe)
    data = stage_data(stage, dataclasses.replace(splits, train=train, validation=one), state)
    single = resident_epoch(stage, size, cut=data.cut)
    together = build_members(field, members, data.cut, size=size)
    states = stack([state] * len(members))
    return {
        "vmap": _program(together, states, data.train, size, calls=1),
        "sequential": _program(single, state, data.train, size, calls=len(members)),
    }


def time_programs(programs: dict[str, Program], *, steps: int) -> dict[str, float]:
    """Seconds of a step of all members in each form: medians, the forms taking turns.

    Args:
        programs: compiled.
        steps: of the sweep, of which measuring takes only a small share.
    """
    rough = {}
    for name, program in programs.items():
        program.advance(1)  # the first call allocates its memory
        rough[name] = _seconds(program, 1)
    slower, turn = max(rough.values()), sum(rough.values())
    budget = min(MEASURING_SECONDS, MEASURING_SHARE * steps * slower)
    count = max(1, min(round(SECONDS_PER_CALL / slower), int(budget / (3 * turn))))
    repeats = max(3, min(9, int(budget / (count * turn))))
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            seconds[name].append(_seconds(program, count))
    return {name: statistics.median(found) for name, found in seconds.items()}


def _seconds(program: Program, count: int) -> float:
    started = time.perf_counter()
    program.advance(count)
    return (time.perf_counter() - started) / count


def _program(epoch: TrainEpoch, state: TrainState, data: Data, size: int, *, calls: int) -> Program:
    started = time.perf_counter()
    compiled = epoch.lower(state, data).compile()
    compile_seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    needed = 0
    if memory is not None:  # not every backend knows
        needed = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )
    order = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (*state.step.shape, size))
    sums = metrics.zeros(state.step.shape)
    # Each call donates its state.
    holder = [jax.tree.map(jnp.copy, state)]

    def advance(count: int) -> None:
        for _ in range(calls):
            holder[0], _ = compiled(holder[0], data, order, sums, count, epoch.numbers)
        jax.block_until_ready(holder[0])

    return Program(advance, compile_seconds, needed)


def _over(needed: int, text: str) -> str | None:
    excess = memory_excess(needed, free_memory(), USABLE_SHARE)
    return None if excess is None else f"{text} {excess}"
