"""Shared by the benchmarks: interleaved timing in one process, medians, FLOPs, tables, JSON files
and figures.

Machines differ, and their speed drifts. So the variants take turns, and only ratios of medians are
comparable between machines.
"""

import argparse
import ast
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxcifar.devices.machine import describe_machine
from jaxcifar.devices.memory import on_host
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
BAR_COLOR, IDEAL_COLOR = "#1f5fa8", "#999999"


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


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """A recipe's fields from "field=value" words; a value is a Python literal, or else a string."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not field=value")
        settings[name.replace("-", "_")] = value
        with suppress(ValueError, SyntaxError):
            settings[name.replace("-", "_")] = ast.literal_eval(value)
    return settings


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with only the last part of each path: the rest means nothing elsewhere."""

    def shorten(value: Any) -> Any:
        if not isinstance(value, str) or "/" not in value:
            return value
        kind, colon, path = value.rpartition(":")
        return f"{kind}{colon}{Path(path).name}" if Path(path).exists() else value

    return {name: shorten(value) for name, value in settings.items()}


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
    state, seconds = timed(lambda: epoch.compile(state, data))
    holder = [state]

    def run() -> None:
        holder[0], _ = jax.block_until_ready(epoch.run(holder[0], data))

    return Variant(run, seconds, -(-size // batch_size))


def timed(f: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and the seconds it took."""
    started = time.perf_counter()
    result = jax.block_until_ready(f())
    return result, time.perf_counter() - started


def interleave(
    variants: Mapping[str, Callable[[], None]], *, repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each call; the variants take turns: a b c a b c ...

    Each variant must block until its work is done.
    """
    if repeats < 2:
        raise ValueError(f"a spread needs at least 2 repeats, not {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(warmup + repeats):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if repeat >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def seconds_per_step(
    variants: Mapping[str, Variant], *, repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """The times of `interleave`, divided by each variant's steps."""
    runs = {name: variant.run for name, variant in variants.items()}
    seconds = interleave(runs, repeats=repeats, warmup=warmup)
    return {name: [s / variants[name].steps for s in values] for name, values in seconds.items()}


# FLOPs and memory.


def count_flops(f: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of a program as XLA counts them, before a backend rewrites it.

    So the count is the same for a GPU and a CPU. Compiled for the CPU, a ResNet-18 step counted up
    to 5 % more at width 8, because fusions compute some values twice.
    """
    analysis = jax.jit(f).lower(*arguments).cost_analysis()
    assert analysis is not None
    return float(analysis["flops"])


def algorithm_flops(recipe: Recipe, batch: Mapping[str, Any], cut: str | None = None) -> float:
    """FLOPs of the recipe's training step on a batch (or its shapes), including the optimizer.

    Counted with plain float32 convolutions. The forms of `jaxcifar.models.conv` for the CPU do more
    or less arithmetic, which must not change the count.
    """
    recipe = replace(recipe, dtype="float32")
    model, tx = recipe.make_model(1), recipe.make_optimizer()
    state = state_shapes(model, tx, image_size=recipe.image_size)  # the same at any size
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


def matrix_peak(dtype: str, *, repeats: int = 5) -> float:
    """FLOP/s of a large square matrix product on the default device, the best of several.

    float32 uses JAX's default precision, as the training steps do.
    """
    n, products = (2048 if on_host() else 4096), 4  # several per program: a call itself costs time
    key = jax.random.key(0)
    matrix = jax.random.normal(key, (n, n), jnp.dtype(dtype)) / jnp.sqrt(n).astype(dtype)

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        for _ in range(products):
            x = x @ matrix
        return x

    jax.block_until_ready(program(matrix))
    seconds = min(timed(lambda: program(matrix))[1] for _ in range(repeats))
    return products * 2 * n**3 / seconds


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
    """Statistics of each variant, and for each named pair (a, b) the ratio of medians a / b."""
    results = {name: statistics_of(values) for name, values in seconds.items()}
    return {
        "results": results,
        "ratios": {
            name: round(results[a]["median_ms"] / results[b]["median_ms"], 3)
            for name, (a, b) in ratios.items()
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
    name: str, result: Mapping[str, Any], *, out: Path | None = None, figure: Figure | None = None
) -> Path:
    """Write ``{machine, **result}`` as JSON, by default under `benchmarks/results/`, and a figure.

    Without `figure`, the tables of `compare` in the result are drawn, if there are any.
    """
    machine = describe()
    path = out or RESULTS / f"{name}_{machine['backend']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
    tables = dict(_tables(result))
    if figure is None and tables:
        figure = draw_tables(tables)
    if figure is not None:
        figure.suptitle(f"{path.stem}: {machine['device']}, {machine['processor']}", fontsize=9)
        figure.savefig(path.with_suffix(".png"), dpi=DPI)
    print(f"wrote {path}" + ("" if figure is None else " and its .png"), flush=True)
    return path


def describe() -> dict[str, Any]:
    """The machine, the versions of the peers, and the settings of glibc's memory allocator."""
    machine = describe_machine()
    if "GLIBC_TUNABLES" in os.environ:
        machine["glibc_tunables"] = os.environ["GLIBC_TUNABLES"]
    for peer in PEERS:
        with suppress(PackageNotFoundError):
            machine["versions"][peer] = version(peer)
    return machine


def draw_tables(tables: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Medians as bars, quartiles as whiskers, ratios to the first row as labels."""
    rows = [len(results) for results in tables.values()]
    figure, panels = new_figure(len(tables), sum(0.32 * n + 1.0 for n in rows), rows=rows)
    for axes, (title, results) in zip(panels, tables.items(), strict=True):
        names = list(results)
        medians = np.array([results[name]["median_ms"] for name in names])
        spread = np.abs([error_bars(results[name]) for name in names]).T
        axes.barh(names, medians, xerr=spread, color=BAR_COLOR, ecolor="black", capsize=3)
        for i, median in enumerate(medians):
            number = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
            label = f"{number} ms (x{median / medians[0]:.3g})"
            axes.text(median + spread[1][i], i, f"  {label}", va="center", fontsize=8)
        axes.set_xlim(0, 1.35 * (medians + spread[1]).max())
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
        axes.set_xlabel("median, ms; whiskers: quartiles; (x: ratio to first row)", fontsize=8)
        axes.set_title(title, fontsize=9)
    return figure


def error_bars(row: Mapping[str, Any]) -> tuple[float, float]:
    """The distances from the median down to the first quartile and up to the third."""
    return row["median_ms"] - row["quartile_1_ms"], row["quartile_3_ms"] - row["median_ms"]


def new_figure(
    panels: int, height: float, *, rows: Sequence[int] | None = None
) -> tuple[Figure, list[Axes]]:
    """Panels side by side, or below each other if the number of rows of each is given."""
    figure = Figure(figsize=(9, height + 0.3), layout="constrained")
    if rows is None:
        return figure, list(figure.subplots(1, panels, squeeze=False).flat)
    ratios = [n + 2 for n in rows]
    grid = figure.subplots(panels, 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
    return figure, list(grid.flat)


def _tables(result: Mapping[str, Any], title: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables of `compare` in a nested result, with the names of the keys that lead to them."""
    for name, value in result.items():
        if not isinstance(value, Mapping):
            continue
        if name == "results":
            yield title, value
        else:
            yield from _tables(value, f"{title}, {name}" if title else name)
