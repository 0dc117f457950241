"""Several processes of one run: connect them, and explain when one is lost."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from jaxcifar.common.errors import CheckpointError, DeviceError, ProcessLostError
from jaxcifar.common.messages import shown, unknown_choice
from jaxcifar.devices.backend import find_devices
from jaxcifar.devices.coordinator import listening_address, parse_address
from jaxcifar.devices.layout import AXIS, ONE_DEVICE, Form, Input, Layout
from jaxcifar.devices.lost_process import WAY_OUT, leave_when_one_is_lost

# A process that sends no heartbeat for this long counts as lost (JAX's default: 100). One that is
# stopped for less continues.
HEARTBEAT_SECONDS = 30
# Words in the errors of gloo (CPU), NCCL (GPU) and JAX's coordination service when a process does
# not answer.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "onnection", "heartbeat", "DEADLINE_EXCEEDED", "UNAVAILABLE")
_ONE_PROCESS_ONLY = "--parallel pmap works in one process only; use --parallel jit for several"
# Set while another thread connects, also when the main thread no longer waits for it.
_connecting = threading.Event()


def _option(default: Any, text: str, unset: str | None = None) -> Any:
    metadata = {"group": "devices", "help": text, "unset": unset}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """The devices and processes of a run. They change its numbers by rounding only.

    Example:
        >>> from jaxcifar import DeviceOptions
        >>> DeviceOptions(devices=2).parallel
        'jit'
    """

    devices: int | None = _option(
        None, "number of devices to train on", unset="the most that divide the batch"
    )
    parallel: Form = _option("jit", "how devices share a step: jit over a mesh, or pmap")
    coordinator: str | None = _option(
        None,
        "HOST:PORT of the first of several processes, the same for each of them; or auto, on a "
        "cluster that JAX knows (Slurm, Open MPI, Cloud TPU, Kubernetes)",
    )
    num_processes: int | None = _option(None, "number of processes")
    process_id: int | None = _option(None, "number of this process, from 0")
    input: Input = _option(
        "auto",
        "keep the images on the devices (resident), read them ahead from the host (stream), or "
        "stream only if they do not fit (auto)",
    )

    def __post_init__(self) -> None:
        """Refuse values that no device could be chosen by.

        Raises:
            DeviceError: naming the option, and what it may be.
        """
        for name, choices in (("parallel", get_args(Form)), ("input", get_args(Input))):
            value = getattr(self, name)
            if value not in choices:
                raise DeviceError(unknown_choice(name, value, choices))
        for name in ("devices", "num_processes", "process_id"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise DeviceError(
                    f"{name} must be a whole number, such as 2, or None, not {shown(value)}"
                )
        if not isinstance(self.coordinator, str | None):
            raise DeviceError(
                f"coordinator must be HOST:PORT, auto or None, not {shown(self.coordinator)}"
            )


def connect(options: DeviceOptions, *, quiet: bool = False) -> None:
    """Join the other processes of the run, if the options name any.

    Call it before JAX is used for anything else. When another process is lost later, this one ends
    with a line and status 2 (by JAX's default it would abort).

    Args:
        options: those of the processes.
        quiet: turn off JAX's own logging, which reports a lost process on a page.

    Raises:
        DeviceError: the options contradict each other, the processes do not connect, or they have
            different numbers of devices.

    Example:
        >>> import jax
        >>> from jaxcifar import DeviceOptions, connect
        >>> connect(DeviceOptions())  # names no other process: does nothing
        >>> jax.process_count()
        1
    """
    _check_options(options)
    if options.coordinator is None:
        if (options.num_processes, options.process_id) != (None, None):
            raise DeviceError("--num-processes and --process-id need --coordinator HOST:PORT")
        return
    if options.parallel == "pmap":
        raise DeviceError(_ONE_PROCESS_ONLY)
    arguments = {} if options.coordinator == "auto" else _addresses(options)
    try:
        _initialize(arguments)
    except (RuntimeError, ValueError) as error:
        # See `lost_process`: the callback that JAX could not call.
        reason = _first_line(error).replace("std::bad_cast", "not all of them came in time")
        raise DeviceError(
            f"the processes could not connect at {options.coordinator} ({reason}); "
            "start all of them with the same --coordinator and --num-processes"
        ) from None
    _check_equal_shares([device.process_index for device in find_devices()])
    if quiet:
        _silence_reports_of_loss()
    from jax.experimental import multihost_utils

    # The first collective waits 30 s for the other processes, later ones wait without limit (gloo,
    # JAX 0.10). Do it here, where all have just arrived, and not after a compilation.
    with explain_lost_process():
        multihost_utils.sync_global_devices("connected")


def _check_equal_shares(owners: Sequence[int]) -> None:
    """Refuse processes with different numbers of devices, which JAX's collectives cannot serve.

    Args:
        owners: the process of each device.
    """
    counts = Counter(owners)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"process {i} has {counts[i]}" for i in sorted(counts))
        raise DeviceError(
            f"the processes have different numbers of devices ({listed}), and each needs as many "
            "as the others: choose those of a process by CUDA_VISIBLE_DEVICES, or on a CPU by "
            "XLA_FLAGS=--xla_force_host_platform_device_count=N"
        )


def is_one_of_several() -> bool:
    """Whether this process has joined others, or is about to: an orderly exit waits for them.

    Example:
        >>> from jaxcifar.devices.processes import is_one_of_several
        >>> is_one_of_several()
        False
    """
    return _connecting.is_set() or jax.distributed.is_initialized()


def _initialize(arguments: dict[str, Any]) -> None:
    """Connect in another thread: JAX waits up to 5 minutes in C++, where no signal is heard."""
    failed: list[Exception] = []

    def work() -> None:
        try:
            with leave_when_one_is_lost():
                jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        except Exception as error:
            failed.append(error)
        finally:
            _connecting.clear()

    _connecting.set()
    thread = threading.Thread(target=work, name="connect", daemon=True)
    thread.start()
    while thread.is_alive():
        # Not without limit: a signal that comes between Python's last look for one and the wait
        # would be heard after the five minutes only (seen in 1 of 25 trials).
        thread.join(0.1)
    if failed:
        raise failed[0]
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # JAX's preemption service has taken it over


def _silence_reports_of_loss() -> None:
    """Keep the C++ reports out, a page for each lost process; exceptions still say what failed."""
    chosen = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") != "1"  # JAX sets it to 1
    if getattr(jax.config, "jax_logging_level", None) == "NOTSET" and not chosen:
        jax.config.update("jax_logging_level", "CRITICAL")


def _addresses(options: DeviceOptions) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize` that say where and who this process is."""
    coordinator, count, rank = options.coordinator, options.num_processes, options.process_id
    if coordinator is None or count is None or rank is None:
        raise DeviceError("--coordinator HOST:PORT needs --num-processes and --process-id")
    if not 0 <= rank < count:
        raise DeviceError(f"--process-id must be 0 to {count - 1}, not {rank}")
    parse_address(coordinator, "--coordinator")
    arguments = {"coordinator_address": coordinator, "num_processes": count, "process_id": rank}
    if rank == 0:
        arguments["coordinator_bind_address"] = listening_address(coordinator)
    return arguments


def _check_options(options: object) -> None:
    """Refuse a number of devices in place of the options."""
    if not isinstance(options, DeviceOptions):
        raise DeviceError(
            "devices must be DeviceOptions, such as DeviceOptions(devices=2), or None, not "
            f"{shown(options)}"
        )


def make_layout(options: DeviceOptions, batch_size: int) -> Layout:
    """The layout that the options ask for.

    Args:
        options: the number of devices and how they share a step.
        batch_size: images in a batch of the whole run.

    Raises:
        DeviceError: the options are something else; there is none of the platform that
            JAX_PLATFORMS names; more are asked for than there are, or they do not divide the batch.

    Example:
        >>> from jaxcifar import DeviceOptions, make_layout
        >>> make_layout(DeviceOptions(devices=1), batch_size=128).describe()
        'one device'
    """
    _check_options(options)
    available = find_devices()
    processes = jax.process_count()
    count = options.devices
    if count is None:
        fitting = [n for n in range(1, len(available) + 1) if batch_size % n == 0]
        count = len(available) if processes > 1 else fitting[-1]
    if not 1 <= count <= len(available):
        raise DeviceError(
            f"--devices {count} is not between 1 and {len(available)}, the number of "
            f"{available[0].platform} devices; to simulate 8 devices on a CPU, set "
            "XLA_FLAGS=--xla_force_host_platform_device_count=8"
        )
    if processes > 1 and count != len(available):
        raise DeviceError(
            f"--devices {count} does not fit {processes} processes, which use all their "
            f"{len(available)} devices; leave --devices out"
        )
    if batch_size % count:
        raise DeviceError(
            f"{count} devices do not divide a batch of {batch_size}; choose a --batch-size that "
            "they divide, or fewer --devices"
        )
    if processes > 1 and options.parallel == "pmap":
        raise DeviceError(_ONE_PROCESS_ONLY)
    if count == 1:
        return ONE_DEVICE
    return Layout(options.parallel, Mesh(np.array(available[:count]), (AXIS,)))


def of_main(array: NDArray[Any]) -> NDArray[Any]:
    """The first process's array, in every process. All processes must call it."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn the failure of a collective into one clear line, where there are several processes.

    Raises:
        ProcessLostError: instead of the error of a program that could not reach another process.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        # A checkpoint that could not be written may have failed by the collectives of its writing.
        failed = error.__cause__ if type(error) is CheckpointError else error
        # Other errors of this project are subclasses; their text may hold any of the signs.
        from_a_program = isinstance(failed, jax.errors.JaxRuntimeError) or (
            type(failed) is ValueError
        )
        lost = from_a_program and any(sign in str(failed) for sign in _SIGNS_OF_LOSS)
        if jax.process_count() == 1 or not lost:
            raise
        raise ProcessLostError(
            f"another process of this run is gone ({_first_line(failed)}); {WAY_OUT}"
        ) from error


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().split("\n")[0][:200]
