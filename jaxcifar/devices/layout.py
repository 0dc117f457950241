"""Devices: the one file that knows how many there are and what is where.

A `Layout` says how a run is spread: jit over a mesh with the axis "data" (the default), pmap over
the same devices, or one device. Everything else asks it to put arrays in place and to compile, and
is written as for one device. The numbers do not depend on the layout beyond rounding: batches are
those of the whole run, each device computing its rows of them, and whatever is random is keyed by
example or drawn for the whole batch.

The state is replicated, never stacked. Datasets are shared out by rows, so that each process reads
only its own; a batch is brought together from them inside the program.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from numpy.typing import NDArray

from jaxcifar.common.errors import DeviceError

PyTree = Any
Form = Literal["jit", "pmap"]
Input = Literal["auto", "resident", "stream"]
T = TypeVar("T")
AXIS = "data"
_LONGEST_MESSAGE = 4096


@dataclass(frozen=True)
class Layout:
    """Where arrays are and over what a program runs. Hashable; `make_layout` makes one.

    Attributes:
        form: of programs on several devices: "jit" leaves the division to XLA, "pmap" names the
            axis for the program to use.
        mesh: one axis, "data"; None is the default device alone.
    """

    form: Form = "jit"
    mesh: Mesh | None = None

    @property
    def size(self) -> int:
        """How many devices there are."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def axis_name(self) -> str | None:
        """The axis that a step must reduce over by itself: under pmap only."""
        return AXIS if self.form == "pmap" and self.mesh is not None else None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.mesh is None or jax.process_index() == 0

    @property
    def replicated(self) -> Sharding | None:
        """Of the state: the whole of it on every device. None is the default device."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def divides(self, images: int) -> bool:
        """Whether each device can take an equal share of a batch; else each computes all of it."""
        return images % self.size == 0

    def describe(self) -> str:
        """In words, for the opening lines of a run."""
        if self.mesh is None:
            return "one device"
        processes = jax.process_count()
        among = f" of {processes} processes" if processes > 1 else ""
        return f"{self.size} devices{among}, {self.form}"

    # Putting arrays in place.

    def replicate(self, tree: PyTree) -> PyTree:
        """A tree of arrays or plain values, equal in all processes, on every device."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        return jax.jit(_same, out_shardings=self.replicated)(tree)

    def share_rows(
        self, read: Callable[[NDArray[np.int64]], Mapping[str, NDArray[Any]]], rows: int
    ) -> dict[str, jax.Array]:
        """Rows 0 to `rows` of a dataset, shared out in order; the last is repeated to fill up.

        Args:
            read: gives rows by number, arrays [n, ...]; it is asked only for those of this
                process's devices.

        Returns:
            Arrays [rows, ...] on one device; under jit [size * share, ...] and under pmap
            [size, share, ...], with `share` as of that method.
        """
        if self.mesh is None:
            return {name: jnp.asarray(value) for name, value in read(np.arange(rows)).items()}
        share = self.share(rows)
        stacked = (1,) if self.axis_name is not None else ()
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        parts: dict[str, list[jax.Array]] = {}
        for place, device in enumerate(self.mesh.devices.flat):
            if device.process_index != jax.process_index():
                continue
            own = np.minimum(np.arange(place * share, (place + 1) * share), rows - 1)
            for name, value in read(own).items():
                shaped = value.reshape(*stacked, *value.shape)
                parts.setdefault(name, []).append(jax.device_put(shaped, device))
        found: dict[str, jax.Array] = {}
        for name, held in parts.items():
            first, *rest = held[0].shape
            shape = (first * self.size, *rest)
            found[name] = jax.make_array_from_single_device_arrays(shape, sharding, held)
        return found

    def share(self, rows: int) -> int:
        """How many of so many rows a device holds."""
        return -(-rows // self.size)

    def own_rows(self, batch: NDArray[T]) -> NDArray[T]:  # type: ignore[type-var]
        """The rows [..., n] of a batch that the devices of this process compute."""
        if self.mesh is None or not self.divides(batch.shape[-1]):
            return batch
        processes, this = jax.process_count(), jax.process_index()
        return np.split(batch, processes, axis=-1)[this]

    def place_batches(self, own: Mapping[str, NDArray[Any]], images: int) -> dict[str, jax.Array]:
        """Batches [k, n, ...] on the devices.

        Args:
            own: those rows of each that `own_rows` names.
            images: n of the whole batch, all processes counted.
        """
        if self.mesh is None:
            return {name: jnp.asarray(value) for name, value in own.items()}
        if not self.divides(images):
            return self.replicate(dict(own))
        found = {}
        for name, value in own.items():
            if self.form == "pmap":
                # pmap wants its axis in front: [devices, k, share, ...].
                steps, _, *rest = value.shape
                value = value.reshape(steps, self.size, -1, *rest).swapaxes(0, 1)
                sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
                found[name] = jax.device_put(value, sharding)
                continue
            sharding = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
            shape = (value.shape[0], images, *value.shape[2:])
            found[name] = jax.make_array_from_process_local_data(sharding, value, shape)
        return found

    # Inside a program.

    def take(
        self, shared: jax.Array, rows: jax.Array, *, view: Any = 0, views: int = 1
    ) -> jax.Array:
        """Rows [n] of what `share_rows` shared out: each device has its share of them afterwards,
        or all where they do not divide.

        Args:
            shared: the array as the program sees it. Of several views of the rows each device holds
                one after the other, for its own rows.
            rows: int [n], by number in the whole dataset.
            view: which of the views, int [].
            views: how many there are.
        """
        if self.mesh is None:
            return shared[view * (len(shared) // views) + rows]
        spread = self.divides(len(rows))
        gather = partial(_gather, views=views, spread=spread)
        if self.form == "jit":
            everywhere, apart = PartitionSpec(), PartitionSpec(AXIS)
            gather = jax.shard_map(
                gather,
                mesh=self.mesh,
                in_specs=(apart, everywhere, everywhere),
                out_specs=apart if spread else everywhere,
            )
        return gather(shared, rows, jnp.asarray(view))

    def part(self, values: jax.Array) -> jax.Array:
        """A replicated array [n, ...] of the batch as each device sees it, see `take`."""
        if self.mesh is None or not self.divides(len(values)):
            return values
        if self.form == "pmap":
            share = len(values) // self.size
            return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(AXIS) * share, share)
        return jax.lax.with_sharding_constraint(
            values, NamedSharding(self.mesh, PartitionSpec(AXIS))
        )

    def compile(
        self,
        f: Callable[..., T],
        *,
        shared: tuple[int, ...] = (),
        donate: tuple[int, ...] = (),
    ) -> Callable[..., T]:
        """Compile a program whose results are the same on every device.

        Args:
            f: takes arrays by position.
            shared: positions of the arguments that are shared out; the others are replicated.
            donate: positions of the arguments whose memory the program may take.
        """
        if self.axis_name is None or not shared:
            return jax.jit(f, donate_argnums=donate)
        assert self.mesh is not None
        return jax.pmap(
            f,
            axis_name=AXIS,
            in_axes=tuple(0 if i in shared else None for i in range(_arity(f))),
            out_axes=None,
            donate_argnums=donate,
            devices=list(self.mesh.devices.flat),
        )

    def on_each(
        self, f: Callable[..., T], *, shared: tuple[int, ...], shares: bool = False
    ) -> Callable[..., T]:
        """Compile a program that every device runs for itself on its part of what is shared out,
        under jit, too.

        Args:
            f, shared: as of `compile`.
            shares: the results are parts of what is shared out; else `f` makes them the same
                everywhere, by `total`.
        """
        if self.mesh is None or (self.axis_name is not None and not shares):
            return self.compile(f, shared=shared)
        everywhere, apart = PartitionSpec(), PartitionSpec(AXIS)
        spread = jax.shard_map(
            f if self.axis_name is None else _without_first_axis(f, shared),
            mesh=self.mesh,
            in_specs=tuple(apart if i in shared else everywhere for i in range(_arity(f))),
            out_specs=apart if shares else everywhere,
            check_vma=False,
        )
        return jax.jit(spread)

    def total(self, tree: PyTree) -> PyTree:
        """Sums over the devices, inside `on_each`."""
        return tree if self.mesh is None else jax.lax.psum(tree, AXIS)

    def position(self) -> Any:
        """Which device this is, inside `on_each`: 0 to size - 1."""
        return 0 if self.mesh is None else jax.lax.axis_index(AXIS)

    # Between processes.

    def agree(self, *values: int) -> list[tuple[int, ...]]:
        """What every process says, in their order. All must call it."""
        if self.mesh is None or jax.process_count() == 1:
            return [values]
        from jax.experimental import multihost_utils

        said = multihost_utils.process_allgather(np.asarray(values, np.int64))
        return [tuple(int(value) for value in row) for row in said]

    def on_main(self, f: Callable[[], object]) -> None:
        """Run `f` in the main process while the others wait; if it fails, all of them fail.

        Raises:
            Exception: what `f` raised; in the other processes a DeviceError of its text.
        """
        if self.mesh is None or jax.process_count() == 1:
            f()
            return
        from jax.experimental import multihost_utils

        error: Exception | None = None
        if self.is_main:
            try:
                f()
            except Exception as raised:
                error = raised
        message = np.zeros(_LONGEST_MESSAGE, np.uint8)
        text = b"" if error is None else f"error: {error}".encode()[:_LONGEST_MESSAGE]
        message[: len(text)] = np.frombuffer(text, np.uint8)
        heard = bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0")
        if error is not None:
            raise error
        if heard:
            said = heard.decode(errors="ignore")
            raise DeviceError(f"the first process could not go on: {said}")


ONE_DEVICE = Layout()


def _arity(f: Callable[..., Any]) -> int:
    return len(inspect.signature(f).parameters)


def _without_first_axis(f: Callable[..., Any], shared: tuple[int, ...]) -> Callable[..., Any]:
    """`f` on parts that pmap's arrays give to shard_map: [1, share, ...]."""

    def inner(*given: Any) -> Any:
        parts = [
            jax.tree.map(lambda leaf: leaf[0], value) if i in shared else value
            for i, value in enumerate(given)
        ]
        return jax.tree.map(lambda leaf: leaf[None], f(*parts))

    return inner


def _same(tree: PyTree) -> PyTree:
    return tree


def _gather(part: jax.Array, rows: jax.Array, view: Any, *, views: int, spread: bool) -> jax.Array:
    """Each device gives those of the rows that it holds, and zero for the others: the sum is the
    batch, of which it keeps its share.
    """
    share = len(part) // views
    local = rows - jax.lax.axis_index(AXIS) * share
    held = (local >= 0) & (local < share)
    found = part[view * share + jnp.clip(local, 0, share - 1)]
    found = jnp.where(held.reshape(-1, *[1] * (found.ndim - 1)), found, jnp.zeros_like(found))
    if spread:
        return jax.lax.psum_scatter(found, AXIS, scatter_dimension=0, tiled=True)
    return jax.lax.psum(found, AXIS)
