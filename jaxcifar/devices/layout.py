"""Where arrays are, and on which devices a program runs.

A `Layout` spreads a run over devices: jit over a mesh with the axis "data" (the default), pmap over
the same devices, or one device. The rest of the code is written for one device and asks the layout
to place arrays and compile. The numbers do not depend on the layout beyond rounding: batches are
those of the whole run, each device computes its rows of them, and random numbers are keyed by
example or drawn for the whole batch.

The state is replicated, never stacked. Datasets are sharded by rows, so that each process reads
only its own; the program gathers each batch from them.
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

from jaxcifar.common.errors import DeviceError, message_lines

PyTree = Any
Form = Literal["jit", "pmap"]
Input = Literal["auto", "resident", "stream"]
T = TypeVar("T")
AXIS = "data"
_MAX_MESSAGE = 4096  # bytes of an error that `on_main` sends to the other processes


@dataclass(frozen=True)
class Layout:
    """Where arrays are and which devices a program runs on. Hashable; see `make_layout`.

    Attributes:
        form: how a program uses several devices: "jit" leaves the division to XLA, "pmap" names
            the axis for the program to use.
        mesh: one axis, "data"; None means the default device only.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxcifar import Layout
        >>> layout = Layout()  # one device
        >>> layout.size, layout.share(10), layout.divides(10)
        (1, 10, True)
        >>> layout.take(jnp.array([0, 10, 20, 30]), jnp.array([3, 0])).tolist()
        [30, 0]
    """

    form: Form = "jit"
    mesh: Mesh | None = None

    @property
    def size(self) -> int:
        """Number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step must reduce explicitly: under pmap only."""
        return AXIS if self.form == "pmap" and self.mesh is not None else None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.mesh is None or jax.process_index() == 0

    @property
    def replicated(self) -> Sharding | None:
        """The sharding of the state: all of it on every device. None means the default device."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def divides(self, images: int) -> bool:
        """Whether the devices share a batch equally; if not, each computes the whole batch."""
        return images % self.size == 0

    def describe(self) -> str:
        """The layout in words, for the first lines of a run."""
        if self.mesh is None:
            return "one device"
        processes = jax.process_count()
        among = f" of {processes} processes" if processes > 1 else ""
        return f"{self.size} devices{among}, {self.form}"

    # Placing arrays.

    def replicate(self, tree: PyTree) -> PyTree:
        """Put a tree of arrays or plain values, equal in all processes, on every device."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        return jax.jit(_same, out_shardings=self.replicated)(tree)

    def share_rows(
        self, read: Callable[[NDArray[np.int64]], Mapping[str, NDArray[Any]]], rows: int
    ) -> dict[str, jax.Array]:
        """Shard the first `rows` rows of a dataset in order; padding repeats the last row.

        Args:
            read: returns arrays [n, ...] for n row numbers; it is called only for the rows of this
                process's devices.
            rows: number of rows in the dataset.

        Returns:
            Arrays [rows, ...] on one device, [size * share, ...] under jit and
            [size, share, ...] under pmap, where `share` is that of `Layout.share`.
        """
        if self.mesh is None:
            return {name: jnp.asarray(value) for name, value in read(np.arange(rows)).items()}
        share = self.share(rows)
        stacked = (1,) if self.axis_name is not None else ()
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        shards: dict[str, list[jax.Array]] = {}
        for position, device in enumerate(self.mesh.devices.flat):
            if device.process_index != jax.process_index():
                continue
            own = np.minimum(np.arange(position * share, (position + 1) * share), rows - 1)
            for name, value in read(own).items():
                shard = jax.device_put(value.reshape(*stacked, *value.shape), device)
                shards.setdefault(name, []).append(shard)
        arrays: dict[str, jax.Array] = {}
        for name, own_shards in shards.items():
            first, *rest = own_shards[0].shape
            shape = (first * self.size, *rest)
            arrays[name] = jax.make_array_from_single_device_arrays(shape, sharding, own_shards)
        return arrays

    def share(self, rows: int) -> int:
        """How many of `rows` rows each device holds, padding included."""
        return -(-rows // self.size)

    def own_rows(self, batch: NDArray[T]) -> NDArray[T]:  # type: ignore[type-var]
        """The part of a batch [..., n] that the devices of this process compute."""
        if self.mesh is None or not self.divides(batch.shape[-1]):
            return batch
        processes, rank = jax.process_count(), jax.process_index()
        return np.split(batch, processes, axis=-1)[rank]

    def place_batches(self, own: Mapping[str, NDArray[Any]], images: int) -> dict[str, jax.Array]:
        """Put k batches [k, n, ...] on the devices.

        Args:
            own: of each batch, the rows that `own_rows` selects.
            images: n, counted over all processes.
        """
        if self.mesh is None:
            return {name: jnp.asarray(value) for name, value in own.items()}
        if not self.divides(images):
            return self.replicate(dict(own))
        arrays = {}
        for name, value in own.items():
            if self.form == "pmap":
                # pmap needs its axis in front: [devices, k, share, ...].
                steps, _, *rest = value.shape
                value = value.reshape(steps, self.size, -1, *rest).swapaxes(0, 1)
                sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
                arrays[name] = jax.device_put(value, sharding)
                continue
            sharding = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
            shape = (value.shape[0], images, *value.shape[2:])
            arrays[name] = jax.make_array_from_process_local_data(sharding, value, shape)
        return arrays

    # Inside a program.

    def take(
        self, shared: jax.Array, rows: jax.Array, *, view: Any = 0, views: int = 1
    ) -> jax.Array:
        """Gather a batch from an array that `share_rows` sharded.

        Each device gets its share of the batch, or the whole batch if the devices do not divide it.

        Args:
            shared: the array as the program sees it. If it holds several views of the rows, each
                device has them one after the other, for its own rows.
            rows: int [n], row numbers in the whole dataset.
            view: which of the views, int [].
            views: number of views.
        """
        if self.mesh is None:
            return shared[view * (len(shared) // views) + rows]
        spread = self.divides(len(rows))
        gather = partial(_gather, views=views, spread=spread)
        if self.form == "jit":
            everywhere, sharded = PartitionSpec(), PartitionSpec(AXIS)
            gather = jax.shard_map(
                gather,
                mesh=self.mesh,
                in_specs=(sharded, everywhere, everywhere),
                out_specs=sharded if spread else everywhere,
            )
        return gather(shared, rows, jnp.asarray(view))

    def own_share(self, values: jax.Array) -> jax.Array:
        """The device's share of a replicated array [n, ...] of the batch, as in `take`."""
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
            shared: positions of the arguments that are sharded; the others are replicated.
            donate: positions of the arguments whose memory the program may reuse.
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
        """Compile a program that each device runs on its own shard, also under jit.

        Args:
            f: takes arrays by position.
            shared: positions of the arguments that are sharded.
            shares: whether the results are shards too; if not, `f` must make them equal on every
                device with `total`.
        """
        if self.mesh is None or (self.axis_name is not None and not shares):
            return self.compile(f, shared=shared)
        everywhere, sharded = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.shard_map(
            f if self.axis_name is None else _without_first_axis(f, shared),
            mesh=self.mesh,
            in_specs=tuple(sharded if i in shared else everywhere for i in range(_arity(f))),
            out_specs=sharded if shares else everywhere,
            check_vma=False,
        )
        return jax.jit(mapped)

    def total(self, tree: PyTree) -> PyTree:
        """Sums over the devices, inside `on_each`."""
        return tree if self.mesh is None else jax.lax.psum(tree, AXIS)

    def position(self) -> Any:
        """The device's position in the mesh, 0 to size - 1, inside `on_each`."""
        return 0 if self.mesh is None else jax.lax.axis_index(AXIS)

    # Between processes.

    def agree(self, *values: int) -> list[tuple[int, ...]]:
        """Exchange numbers between processes, so that all of them can decide alike.

        All processes must call it, with equally many values.

        Returns:
            For each process, by rank, the values it passed: ``[(first, second), ...]``. The main
            process is the first, so ``agree(value)[0][0]`` is its value.
        """
        if self.mesh is None or jax.process_count() == 1:
            return [values]
        from jax.experimental import multihost_utils

        gathered = multihost_utils.process_allgather(np.asarray(values, np.int64))
        return [tuple(int(value) for value in of_process) for of_process in gathered]

    def on_main(self, f: Callable[[], object]) -> None:
        """Run `f` in the main process while the others wait; if it fails, all of them fail.

        Raises:
            Exception: what `f` raised; in the other processes a DeviceError with its text.
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
        message = np.zeros(_MAX_MESSAGE, np.uint8)
        text = b""
        if error is not None:
            text = f"error: {' '.join(message_lines(error))}".encode()[:_MAX_MESSAGE]
        message[: len(text)] = np.frombuffer(text, np.uint8)
        received = bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0")
        if error is not None:
            raise error
        if received:
            reason = received.decode(errors="ignore")
            raise DeviceError(f"the first process could not continue: {reason}")


ONE_DEVICE = Layout()


def _arity(f: Callable[..., Any]) -> int:
    return len(inspect.signature(f).parameters)


def _without_first_axis(f: Callable[..., Any], shared: tuple[int, ...]) -> Callable[..., Any]:
    """`f` on the shards [1, share, ...] that shard_map makes of pmap's arrays."""

    def inner(*arguments: Any) -> Any:
        shards = [
            jax.tree.map(lambda leaf: leaf[0], value) if i in shared else value
            for i, value in enumerate(arguments)
        ]
        return jax.tree.map(lambda leaf: leaf[None], f(*shards))

    return inner


def _same(tree: PyTree) -> PyTree:
    return tree


def _gather(shard: jax.Array, rows: jax.Array, view: Any, *, views: int, spread: bool) -> jax.Array:
    """Each device contributes the rows that it holds and zeros for the others.

    The sum over the devices is the batch; if `spread`, each device keeps its share of it.
    """
    share = len(shard) // views
    local = rows - jax.lax.axis_index(AXIS) * share
    is_own = (local >= 0) & (local < share)
    own = shard[view * share + jnp.clip(local, 0, share - 1)]
    own = jnp.where(is_own.reshape(-1, *[1] * (own.ndim - 1)), own, jnp.zeros_like(own))
    if spread:
        return jax.lax.psum_scatter(own, AXIS, scatter_dimension=0, tiled=True)
    return jax.lax.psum(own, AXIS)
