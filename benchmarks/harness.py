"""What the benchmarks share: interleaved repeats in one process, medians, a table, a JSON file.

Machines differ and drift, so the variants take turns and only ratios of medians travel.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxcifar.hardware import describe_machine

RESULTS = Path(__file__).parent / "results"


def interleave(
    variants: Mapping[str, Callable[[], None]], *, repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each call, the variants in turn: a b c a b c ...

    Each variant must block until its work is done.
    """
    if repeats < 2:
        raise ValueError(f"a spread needs at least 2 repeats, not {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(warmup + repeats):
        for name, run in variants.items():
            begun = time.perf_counter()
            run()
            if repeat >= warmup:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def statistics_of(seconds: Sequence[float]) -> dict[str, float]:
    """n, median and spread (quartiles and extremes), in milliseconds."""
    milliseconds = sorted(1e3 * value for value in seconds)
    quartiles = statistics.quantiles(milliseconds, n=4)
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
    """Statistics of each variant, and for each named pair (a, b) the median of a over that of b."""
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
    print(f"  {'variant':<44}{'n':>4}{'median ms':>12}{'quartiles':>22}")
    for name, row in compared["results"].items():
        quartiles = f"{row['quartile_1_ms']:.1f} to {row['quartile_3_ms']:.1f}"
        print(f"  {name:<44}{row['n']:>4}{row['median_ms']:>12.1f}{quartiles:>22}")
    for name, ratio in compared["ratios"].items():
        print(f"  {name}: {ratio}")


def save(name: str, result: Mapping[str, Any], *, out: Path | None = None) -> Path:
    """Write ``{machine, **result}`` as JSON, by default under `benchmarks/results/`."""
    machine = describe_machine()
    with suppress(PackageNotFoundError):
        machine["versions"]["torch"] = version("torch")
    path = out or RESULTS / f"{name}_{machine['backend']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
    print(f"wrote {path}")
    return path
