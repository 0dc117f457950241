"""The fastest large matrix product of a device: the peak that other work is compared with.

One library at one size can be far below it: a direct convolution came out at 113 % of JAX's product
of 2048x2048 matrices on a CPU with AVX2. So several libraries and sizes are tried.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.failures import FAILURES
from jaxcifar.devices.memory import on_host

SECONDS = 6.0  # for all candidates together
CPU_SIZES, SIZES = (1024, 2048, 3072), (4096, 8192, 16384)

Product = Callable[[], None]  # one matrix product, or several; blocks until it is done


class Peak(NamedTuple):
    """The best product."""

    flops_per_second: float
    library: str
    size: int  # of the square matrices


def matrix_peak(dtype: str, *, seconds: float = SECONDS) -> Peak:
    """The best of several libraries and sizes on the default device, within about `seconds`.

    A size is left out if it would take longer than is left, or does not fit into memory. float32
    uses JAX's default precision, as the training steps do; PyTorch is set to the same.
    """
    libraries = list(candidates(dtype))
    peaks = []
    for name, count, make in libraries:
        peaks += measure_library(name, count, make, seconds / len(libraries))
    if not peaks:
        raise RuntimeError(f"no matrix product of {dtype} ran within {seconds} s on this device")
    return max(peaks)


def measure_library(
    name: str, count: int, make: Callable[[int], Product], seconds: float
) -> list[Peak]:
    """The best of each size; a first call per size, which may compile, is not timed."""
    peaks: list[Peak] = []
    sizes = CPU_SIZES if on_host() else SIZES
    end = time.perf_counter() + seconds
    for i, size in enumerate(sizes):
        expected = count * 2 * size**3 / peaks[-1].flops_per_second if peaks else 0.0
        if time.perf_counter() + 2 * expected > end and peaks:
            break
        share = (end - time.perf_counter()) / (len(sizes) - i)
        try:
            peaks.append(Peak(count * 2 * size**3 / best_time(make(size), share), name, size))
        except FAILURES:  # does not fit
            break
    return peaks


def best_time(product: Product, seconds: float) -> float:
    """The shortest of several calls (at least two, after one that is not counted) in `seconds`."""
    end = time.perf_counter() + seconds
    product()
    times: list[float] = []
    while len(times) < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return min(times)


def candidates(dtype: str) -> Iterator[tuple[str, int, Callable[[int], Product]]]:
    """(library, products in a call, what makes them): of those that have the default device."""
    count = 1 if on_host() else 4  # a call to an accelerator itself costs time
    yield "jax", count, lambda size: jax_product(size, dtype, count)
    if on_host() and dtype == "float32":
        yield "numpy", count, numpy_product
    if importlib.util.find_spec("torch") is not None:
        import torch

        if on_host() or (jax.default_backend() == "gpu" and torch.cuda.is_available()):
            yield "torch", count, lambda size: torch_product(size, dtype, count)


def jax_product(size: int, dtype: str, count: int) -> Product:
    """With JAX."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    matrix = matrix / jnp.sqrt(size).astype(dtype)

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        for _ in range(count):
            x = x @ matrix
        return x

    return lambda: jax.block_until_ready(program(matrix))


def numpy_product(size: int) -> Product:
    """With NumPy, once."""
    matrix = np.random.default_rng(0).standard_normal((size, size), np.float32)
    result = np.empty_like(matrix)

    def run() -> None:
        np.matmul(matrix, matrix, out=result)

    return run


def torch_product(size: int, dtype: str, count: int) -> Product:
    """With PyTorch, on the device of `peers.torch_training`."""
    import torch

    from benchmarks.peers.torch_training import device, synchronize

    kind: Any = getattr(torch, dtype)
    matrix = (torch.randn(size, size) / size**0.5).to(device(), kind)

    def run() -> None:
        x = matrix
        for _ in range(count):
            x = x @ matrix
        synchronize()

    return run
