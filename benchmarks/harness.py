"""Shared by the benchmarks: interleaved timing in one process, medians, FLOPs, tables, JSON files
and figures.

Machines differ, and their speed drifts. So the variants take turns, and only ratios of medians are
comparable between machines.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.failures import try_variant
from benchmarks.figures import BAR_COLOR as BAR_COLOR
from benchmarks.figures import IDEAL_COLOR as IDEAL_COLOR
from benchmarks.figures import draw_tables as draw_tables
from benchmarks.figures import error_bars as error_bars
from benchmarks.figures import new_figure as new_figure
from benchmarks.figures import tables_of
from benchmarks.programs import compiled_anew
from benchmarks.programs import start as start
from benchmarks.programs import timed as timed
from jaxcifar.common.errors import DeviceError
from jaxcifar.common.target import built_for
from jaxcifar.common.writing import write_atomically
from jaxcifar.devices.machine import describe_machine
from jaxcifar.models.conv import Lowering
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.state import TrainState, init_state, state_shapes
from jaxcifar.step.steps import TrainStep, make_train_step
from jaxcifar.training.epoch import Data
from jaxcifar.training.resident import make_train_epoch

RESULTS = Path(__file__).parent / "results"
PEERS = ("torch", "keras")  # their versions are recorded if they are installed
DPI = 100
Keep = Callable[[Mapping[str, Sequence[float]]], object]  # the seconds of each variant so far


class Variant(NamedTuple):
    """Something to time."""

    run: Callable[[], None]  # blocks until its work is done
    compile_seconds: float = 0.0  # spent before, and not part of the timing
    steps: int = 1  # training steps in a call; its time is divided by them


# The command line.


def make_parser(
    doc: str | None, *, repeats: int | None, result: str, suffix: str = "_BACKEND"
) -> argparse.ArgumentParser:
    """The options that all benchmarks have; the module's docstring is the help."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if repeats is not None:
        parser.add_argument(
            "--repeats", type=_repeats, default=repeats, help="at least 2; default: %(default)s"
        )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH.json",
        help="the figure, if there is one, is written next to it as PATH.png (default: "
        f"benchmarks/results/{result}{suffix}.json)",
    )
    return parser


def _repeats(text: str) -> int:
    repeats = int(text)
    if repeats < 2:
        raise argparse.ArgumentTypeError(f"a spread needs at least 2 repeats, not {repeats}")
    return repeats


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Options that change the ResNet-18 of the preset `scratch`."""
    parser.add_argument("--stem", choices=("imagenet", "cifar"), default="imagenet")
    parser.add_argument("--width", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=32, help="default: %(default)s")


# What is timed.


def random_data(images: int, side: int) -> dict[str, jax.Array]:
    """New random images on the device, in the form in which the library keeps a dataset there."""
    rng = np.random.default_rng()
    return {
        "image": jnp.asarray(rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, images, dtype=np.int32)),
    }


def scratch_recipe(**changes: Any) -> Recipe:
    """The report's recipe: Adam on ResNet-18 from random weights."""
    return replace(get_experiment("scratch").recipe, **changes)


def new_state(recipe: Recipe, image_size: int | None = None) -> TrainState:
    """The state before the first step, from random weights even if the recipe names others."""
    side = image_size or recipe.image_size
    return init_state(recipe.make_model(1), recipe.make_optimizer(), seed=0, image_size=side)


def recipe_step(recipe: Recipe, lowering: Lowering, cut: str | None = None) -> TrainStep:
    """A recipe's train step with one form for the convolutions of every layer."""
    return make_train_step(
        recipe.make_model(1).clone(lowering=lowering),
        recipe.make_optimizer(),
        normalize=recipe.make_preprocess(1),
        label_smoothing=recipe.label_smoothing,
        labels=recipe.make_labels(1),
        start=cut,
        log_gradient_norm=recipe.log_gradient_norm,
    )


def epoch_variant(
    step: TrainStep, state: TrainState, data: Data, *, size: int, batch_size: int, **settings: Any
) -> Variant:
    """The library's epoch over `size` images; `settings` go to `make_train_epoch`."""
    epoch = make_train_epoch(step, size=size, batch_size=batch_size, **settings)
    state, seconds = compiled_anew(lambda: epoch.compile(state, data))
    holder = [state]

    def run() -> None:
        holder[0], _ = jax.block_until_ready(epoch.run(holder[0], data))

    return Variant(run, seconds, -(-size // batch_size))


def interleave(
    variants: Mapping[str, Callable[[], None]],
    *,
    repeats: int,
    warmup: int = 2,
    left_out: dict[str, str] | None = None,
    keep: Keep | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call; the variants take turns: a b c a b c ...

    Args:
        variants: each blocks until its work is done.
        left_out: gets the reason of a variant that fails, which is then no longer run and has no
            seconds. Without it, an error ends the measurement.
        keep: called after each round from the second on with the seconds so far.
    """
    if repeats < 2:
        raise ValueError(f"a spread needs at least 2 repeats, not {repeats}")
    running = dict(variants)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(warmup + repeats):
        for name in list(running):
            taken = _one_call(name, running[name], left_out)
            if taken is None:
                del running[name], seconds[name]
            elif repeat >= warmup:
                seconds[name].append(taken)
        if keep is not None and warmup + 1 <= repeat < warmup + repeats - 1:
            keep(seconds)
    return seconds


def _one_call(name: str, run: Callable[[], None], left_out: dict[str, str] | None) -> float | None:
    def call() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return call() if left_out is None else try_variant(name, call, left_out)


def seconds_per_step(
    variants: Mapping[str, Variant],
    *,
    repeats: int,
    warmup: int = 1,
    left_out: dict[str, str] | None = None,
    keep: Keep | None = None,
) -> dict[str, list[float]]:
    """The times of `interleave`, divided by each variant's steps; see there."""

    def divided(seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        return {name: [s / variants[name].steps for s in v] for name, v in seconds.items()}

    runs = {name: variant.run for name, variant in variants.items()}
    keep_divided = None if keep is None else (lambda seconds: keep(divided(seconds)))
    return divided(
        interleave(runs, repeats=repeats, warmup=warmup, left_out=left_out, keep=keep_divided)
    )


# FLOPs and memory.


def count_flops(f: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of a program as XLA counts them, before a backend rewrites it.

    Counted from the shapes alone, for the CPU, which every default device has beside it: a GPU's
    client counts nothing (JAX 0.10 to 0.12). Compiled for the CPU, a ResNet-18 step counted up to
    5 % more at width 8, because fusions compute some values twice.

    Raises:
        DeviceError: JAX_PLATFORMS leaves out the CPU.
    """
    shapes = jax.tree.map(_shape_of, arguments)
    with jax.default_device(counting_device()):
        analysis = jax.jit(f).lower(*shapes).cost_analysis()
    if analysis is None:
        raise RuntimeError(f"JAX {jax.__version__} counts no FLOPs for the CPU; use 0.10 to 0.12")
    return float(analysis["flops"])


def counting_device() -> jax.Device:
    """The CPU device, for which FLOPs are counted.

    Raises:
        DeviceError: JAX_PLATFORMS leaves out the CPU.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        asked = jax.config.jax_platforms  # type: ignore[attr-defined]
        raise DeviceError(
            f"JAX_PLATFORMS is {asked!r}, which leaves out the CPU, where FLOPs are counted: set "
            f"it to {asked},cpu"
        ) from None


def _shape_of(leaf: Any) -> Any:
    """Without the device that holds the array, or the program would be lowered for that one."""
    if not hasattr(leaf, "dtype"):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=getattr(leaf, "weak_type", False))


def algorithm_flops(recipe: Recipe, batch: Mapping[str, Any], cut: str | None = None) -> float:
    """FLOPs of the recipe's training step on a batch (or its shapes), including the optimizer.

    Counted with plain float32 convolutions. The forms of `jaxcifar.models.conv` for the CPU do more
    or less arithmetic, which must not change the count; nor may the platform that programs are
    built for, by which max pooling differs.
    """
    recipe = replace(recipe, dtype="float32")
    model, tx = recipe.make_model(1), recipe.make_optimizer()
    state = state_shapes(model, tx, image_size=recipe.image_size)  # the same at any size
    with built_for("cpu"):
        return count_flops(recipe_step(recipe, "xla", cut), state, dict(batch))


def memory_of(lowered: jax.stages.Lowered) -> int:
    """Bytes that a program needs while it runs, including its arguments."""
    memory: Any = lowered.compile().memory_analysis()
    return int(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


# Reports.


def statistics_of(seconds: Sequence[float]) -> dict[str, Any]:
    """n, median, quartiles and extremes, in milliseconds."""
    milliseconds = sorted(1e3 * value for value in seconds)
    # "inclusive", as in NumPy: "exclusive" puts the quartiles of a few values outside their range.
    quartiles = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return {
        "n": len(milliseconds),
        "median_ms": round(statistics.median(milliseconds), 3),
        "quartile_1_ms": round(quartiles[0], 3),
        "quartile_3_ms": round(quartiles[2], 3),
        "min_ms": round(milliseconds[0], 3),
        "max_ms": round(milliseconds[-1], 3),
    }


def compare(
    seconds: Mapping[str, Sequence[float]], ratios: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """Statistics of each variant, and for each named pair (a, b) the ratio of medians a / b.

    A pair is left out if one of its variants has no times.
    """
    results = {name: statistics_of(values) for name, values in seconds.items()}
    return {
        "results": results,
        "ratios": {
            name: round(results[a]["median_ms"] / results[b]["median_ms"], 3)
            for name, (a, b) in ratios.items()
            if a in results and b in results
        },
    }


def show(title: str, compared: Mapping[str, Any]) -> None:
    """Print the table."""
    print(title)
    print(f"  {'variant':<44}{'n':>4}{'median ms':>12}{'quartiles':>22}{'of peak':>9}")
    for name, row in compared["results"].items():
        quartiles = f"{row['quartile_1_ms']:.1f} to {row['quartile_3_ms']:.1f}"
        share = f"{row['share_of_peak']:9.1%}" if "share_of_peak" in row else ""
        print(f"  {name:<44}{row['n']:>4}{row['median_ms']:>12.1f}{quartiles:>22}{share}")
    for name, ratio in compared["ratios"].items():
        print(f"  {name}: {ratio}", flush=True)


def save(
    name: str,
    result: Mapping[str, Any],
    *,
    out: Path | None = None,
    figure: Figure | None = None,
    complete: bool = True,
) -> Path:
    """Write ``{machine, **result}`` as JSON, by default under `benchmarks/results/`, and a figure.

    Without `figure`, the tables of `compare` in the result are drawn, if there are any.

    What is done before the end (`complete=False`) goes to PATH.partial.json, with "complete":
    false and no figure: an earlier result at PATH.json stays until there is a whole new one.
    """
    machine = describe()
    path = out or RESULTS / f"{name}_{machine['backend']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.json")
    if not complete:
        text = json.dumps({"complete": False, "machine": machine, **result}, indent=2)
        write_atomically(partial, text + "\n")
        return partial
    write_atomically(path, json.dumps({"machine": machine, **result}, indent=2) + "\n")
    partial.unlink(missing_ok=True)
    tables = dict(tables_of(result))
    if figure is None and tables:
        figure = draw_tables(tables)
    if figure is not None:
        if not figure.get_suptitle():
            figure.suptitle(f"{path.stem}: {machine['device']}, {machine['processor']}", fontsize=9)
        figure.savefig(path.with_suffix(".png"), dpi=DPI)
    print(f"wrote {path}" + ("" if figure is None else " and its .png"), flush=True)
    return path


def describe() -> dict[str, Any]:
    """The machine, the versions of the peers, and the settings of glibc's memory allocator."""
    machine = describe_machine()
    if "GLIBC_TUNABLES" in os.environ:
        machine["glibc_tunables"] = os.environ["GLIBC_TUNABLES"]
    machine |= {n.lower(): value for n, value in os.environ.items() if n.startswith("MALLOC_")}
    for peer in PEERS:
        with suppress(PackageNotFoundError):
            machine["versions"][peer] = version(peer)
    return machine
