"""How the time of a training step grows with the batch, the image and the number of devices.

  python -m benchmarks.scaling                                  ResNet-18, float32, ImageNet stem
  python -m benchmarks.scaling --devices --batch-sizes 32 64    without devices; two batch sizes

Times the library's epoch as one program over new random images, and divides by its steps. Each
measurement is compared with the ideal line through the first point: in proportion to the images in
a batch, to the pixels of an image, and, with a fixed global batch, to one over the number of
devices. A CPU can only simulate several devices (each number in a process of its own). They share
its cores, so there the ideal line is flat.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.failures import try_variant
from benchmarks.harness import (
    BAR_COLOR,
    IDEAL_COLOR,
    Variant,
    add_network_options,
    compare,
    epoch_variant,
    error_bars,
    make_parser,
    new_figure,
    new_state,
    random_data,
    save,
    scratch_recipe,
    seconds_per_step,
    show,
    start,
)
from jaxcifar.devices.memory import on_host
from jaxcifar.devices.processes import DeviceOptions, make_layout
from jaxcifar.recipes.stage import make_stage

READY = "ready"


def variant(
    parsed: argparse.Namespace, *, batch_size: int = 0, image_size: int = 0, devices: int = 1
) -> Variant:
    """The epoch with the options, except where an argument here replaces one."""
    n, side = batch_size or parsed.batch_size, image_size or parsed.image_size
    recipe = scratch_recipe(stem=parsed.stem, width=parsed.width, batch_size=n, dtype=parsed.dtype)
    layout = make_layout(DeviceOptions(devices=devices), n)
    host = {
        name: np.asarray(values) for name, values in random_data(parsed.steps * n, side).items()
    }
    size = parsed.steps * n
    return epoch_variant(
        make_stage(recipe).make_train_step(),
        layout.replicate(new_state(recipe, side)),
        layout.share_rows(lambda rows: {name: v[rows] for name, v in host.items()}, size),
        size=size,
        batch_size=n,
        layout=layout,
    )


def on_devices(parsed: argparse.Namespace, count: int) -> Variant:
    """The epoch on `count` devices; a CPU with fewer starts a process that simulates them."""
    if count <= jax.device_count():
        return variant(parsed, devices=count)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    worker = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], "--worker", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    requests, replies = worker.stdin, worker.stdout

    def wait() -> float:
        word, _, seconds = replies.readline().partition(" ")
        if word != READY:
            raise RuntimeError(f"the process with {count} devices ended: status {worker.wait()}")
        return float(seconds)

    def run() -> None:
        requests.write("\n")
        requests.flush()
        wait()

    return Variant(run, wait(), parsed.steps)


def work(parsed: argparse.Namespace) -> None:
    """In that process: run an epoch for each line on standard input, until it ends."""
    own = variant(parsed, devices=parsed.worker)
    print(READY, own.compile_seconds, flush=True)
    for _ in sys.stdin:
        own.run()
        print(READY, 0, flush=True)


def measure(
    title: str,
    values: list[int],
    build: Callable[[int], Variant],
    ideal: Callable[[int], float],
    *,
    repeats: int,
    keep: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """The table along one axis; `ideal` is proportional to the ideal time.

    `keep` is called with the table of the rounds so far.
    """
    variants: dict[str, Variant] = {}
    left_out: dict[str, str] = {}
    for value in values:
        variant = try_variant(f"{title} {value}", partial(build, value), left_out)
        if variant is not None:
            variants[str(value)] = variant
            print(f"{title} {value}: compiled in {variant.compile_seconds:.1f} s", flush=True)
    names = list(variants)
    ratios = {f"{name} / {names[0]}": (name, names[0]) for name in names[1:]}
    seconds = seconds_per_step(
        variants,
        repeats=repeats,
        left_out=left_out,
        keep=lambda seconds: keep(compare(seconds, ratios)),
    )
    compared = compare(seconds, ratios)
    if left_out:
        compared["left_out"] = left_out
    values = [value for value in values if str(value) in seconds]
    for value in values:
        row, first = (
            compared["results"][str(value)],
            compared["results"][str(values[0])]["median_ms"],
        )
        row["compile_seconds"] = round(variants[str(value)].compile_seconds, 1)
        row["ideal_ms"] = round(first * ideal(value) / ideal(values[0]), 3)
        row["over_ideal"] = round(row["median_ms"] / row["ideal_ms"], 3)
    show(f"a training step by {title}", compared)
    print("  ratio to the ideal:", {n: r["over_ideal"] for n, r in compared["results"].items()})
    return compared


def draw(axes_of: dict[str, dict[str, Any]]) -> Figure:
    """Medians and quartiles, with the ideal lines."""
    figure, panels = new_figure(len(axes_of), 3.5)
    for axes, (title, compared) in zip(panels, axes_of.items(), strict=True):
        rows = compared["results"]
        values, medians = [int(name) for name in rows], [r["median_ms"] for r in rows.values()]
        spread = np.abs([error_bars(row) for row in rows.values()]).T
        axes.errorbar(
            values, medians, yerr=spread, color=BAR_COLOR, marker="o", capsize=3, label="measured"
        )
        ideal = [row["ideal_ms"] for row in rows.values()]
        axes.plot(values, ideal, color=IDEAL_COLOR, linestyle="--", label="ideal")
        axes.set_xlabel(title)
        axes.set_xticks(values)
        axes.set_ylabel("a training step, ms (median, quartiles)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=9, result="scaling_STEM")
    add_network_options(parser)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[32, 64, 128, 256])
    parser.add_argument("--image-sizes", type=int, nargs="*", default=[16, 32, 48, 64])
    parser.add_argument("--devices", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--batch-size", type=int, default=128, help="for the other two axes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=10, help="in an epoch (default: %(default)s)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parsed = start(parser)
    if parsed.worker:
        work(parsed)
        return
    shared = on_host()
    devices = [n for n in parsed.devices if shared or n <= jax.device_count()]
    if devices != parsed.devices:
        print(f"there are only {jax.device_count()} devices: measuring {devices}", flush=True)
    axes: dict[str, tuple[list[int], Callable[[int], Variant], Callable[[int], float]]] = {
        "images in a batch": (
            parsed.batch_sizes,
            lambda n: variant(parsed, batch_size=n),
            float,
        ),
        "height and width of an image, pixels": (
            parsed.image_sizes,
            lambda side: variant(parsed, image_size=side),
            lambda side: float(side**2),
        ),
        f"devices{' (sharing the cores)' if shared else ''}": (
            devices,
            lambda n: on_devices(parsed, n),
            lambda n: 1.0 if shared else 1 / n,
        ),
    }
    names = ("stem", "width", "image_size", "batch_size", "dtype", "steps")
    settings = {name: getattr(parsed, name) for name in names}
    measured: dict[str, dict[str, Any]] = {}

    def keep(title: str, table: dict[str, Any]) -> None:
        result = {"settings": settings, "axes": measured | {title: table}}
        save(f"scaling_{parsed.stem}", result, out=parsed.out, complete=False)

    for title, (values, build, ideal) in axes.items():
        if values:
            measured[title] = measure(
                title, values, build, ideal, repeats=parsed.repeats, keep=partial(keep, title)
            )
            keep(title, measured[title])
    save(
        f"scaling_{parsed.stem}",
        {"settings": settings, "axes": measured},
        out=parsed.out,
        figure=draw({title: table for title, table in measured.items() if table["results"]}),
    )


if __name__ == "__main__":
    main()
