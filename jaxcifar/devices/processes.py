"""Several processes of one run: connecting them, and saying so when one is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from jaxcifar.common.errors import DeviceError, ProcessLostError
from jaxcifar.devices.layout import AXIS, ONE_DEVICE, Form, Input, Layout

# After so many seconds without a sign of life a process counts as gone (JAX's default: 100).
HEARTBEAT_SECONDS = 30
# What gloo (CPU), NCCL (GPU) and JAX's coordination service say when a process does not answer.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "onnection", "heartbeat", "DEADLINE_EXCEEDED", "UNAVAILABLE")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"group": "devices", "help": text})


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What runs where. None of it changes a run's numbers beyond rounding."""

    devices: int | None = _option(
        None, "how many to train on (default: the most that divide the batch)"
    )
    parallel: Form = _option("jit", "how several devices share a step: jit over a mesh, or pmap")
    coordinator: str | None = _option(
        None,
        "HOST:PORT of the first of several processes, given to each; or auto, on a cluster "
        "that JAX knows (Slurm, Open MPI, Cloud TPU, Kubernetes)",
    )
    num_processes: int | None = _option(None, "how many processes there are")
    process_id: int | None = _option(None, "which of them this is, from 0")
    input: Input = _option(
        "auto",
        "keep the images on the devices (resident), read them ahead from the host (stream), or "
        "stream only what does not fit",
    )


def connect(options: DeviceOptions) -> None:
    """Join the other processes of the run, if the options name any. Before JAX is first used.

    Raises:
        DeviceError: options that do not go together, or processes that do not come.
    """
    several = (options.num_processes, options.process_id)
    if options.coordinator is None:
        if several != (None, None):
            raise DeviceError("--num-processes and --process-id need --coordinator HOST:PORT")
        return
    if options.parallel == "pmap":
        raise DeviceError("--parallel pmap is for the devices of one process: use jit for several")
    if options.coordinator == "auto":
        arguments: dict[str, Any] = {}
    else:
        if None in several:
            raise DeviceError("--coordinator HOST:PORT needs --num-processes and --process-id")
        assert options.num_processes is not None
        assert options.process_id is not None
        if not 0 <= options.process_id < options.num_processes:
            raise DeviceError(
                f"--process-id must be 0 to {options.num_processes - 1}, not {options.process_id}"
            )
        if ":" not in options.coordinator:
            raise DeviceError(f"--coordinator is HOST:PORT or auto, not {options.coordinator!r}")
        arguments = {
            "coordinator_address": options.coordinator,
            "num_processes": options.num_processes,
            "process_id": options.process_id,
        }
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise DeviceError(
            f"the processes could not be brought together at {options.coordinator} ({reason}): "
            "start all of them with the same --coordinator and --num-processes"
        ) from None
    from jax.experimental import multihost_utils

    # The first collective waits for the others for 30 s and the later ones as long as it takes
    # (gloo, JAX 0.10): so it is here, where all have just come, and not behind a compilation.
    multihost_utils.sync_global_devices("connected")


def make_layout(options: DeviceOptions, batch_size: int) -> Layout:
    """The layout that the options ask for.

    Raises:
        DeviceError: devices that there are not, or a batch that they cannot share evenly.
    """
    found = jax.devices()
    processes = jax.process_count()
    wanted = options.devices
    if wanted is None:
        fitting = [n for n in range(1, len(found) + 1) if batch_size % n == 0]
        wanted = len(found) if processes > 1 else fitting[-1]
    if not 1 <= wanted <= len(found):
        raise DeviceError(
            f"--devices {wanted}: there are {len(found)} ({found[0].platform}); on a CPU "
            "XLA_FLAGS=--xla_force_host_platform_device_count=8 makes it look like 8"
        )
    if processes > 1 and wanted != len(found):
        raise DeviceError(f"--devices {wanted}: {processes} processes share all {len(found)}")
    if batch_size % wanted:
        raise DeviceError(
            f"a batch of {batch_size} cannot be shared evenly by {wanted} devices: choose a "
            "--batch-size that they divide, or fewer --devices"
        )
    if processes > 1 and options.parallel == "pmap":
        raise DeviceError("--parallel pmap is for the devices of one process: use jit for several")
    if wanted == 1:
        return ONE_DEVICE
    return Layout(options.parallel, Mesh(np.array(found[:wanted]), (AXIS,)))


def of_main(array: NDArray[Any]) -> NDArray[Any]:
    """The first process's array, in all of them. All must call it."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Say in one line what a collective's failure means where there are several processes.

    Raises:
        ProcessLostError: in place of the error of a program that could not reach another process.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        # Not what this project raises, whose text may hold anything: those are subclasses.
        of_a_program = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
        alone = jax.process_count() == 1
        if alone or not of_a_program or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        reason = str(error).strip().split("\n")[0][:200]
        raise ProcessLostError(
            f"another process of this run is gone ({reason}): start all of them again with --resume"
        ) from error
