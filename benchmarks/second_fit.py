"""Seconds until the first training step of a `fit`, and of the next ones in the same process.

  python -m benchmarks.second_fit                       scratch on random images of CIFAR-10's size
  python -m benchmarks.second_fit --set width=16        a narrower network

The first call compiles. The next one, in the same process, has another learning rate, dropout rate,
weight decay and flip rate, which are arguments of the compiled programs. Then all programs are
forgotten, and it begins again. "first step" is everything from the
call to the end of the first step: checks, the data, the initial weights, programs, the step. What
comes after it (the other steps of the epoch, and its validation) is subtracted by the history's own
times.
"""

import time
from dataclasses import replace

import jax
import numpy as np

from benchmarks.harness import compare, make_parser, save, show, start
from benchmarks.settings import parse_settings, without_paths
from jaxcifar import EXPERIMENTS, Recipe, Splits, fit
from jaxcifar.training.stage import forget_programs
from jaxcifar.training.start import forget_first_programs

TRAIN, VALIDATION = 2_560, 500


def make_splits(size: int = TRAIN) -> Splits:
    """Random images with CIFAR-10's size and number of classes."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n) % 10

    return Splits.from_arrays(train=draw(size), validation=draw(VALIDATION), test=draw(VALIDATION))


def seconds_to_first_step(recipe: Recipe, splits: Splits) -> float:
    """From the call of `fit` to the end of its first step."""
    ended: list[float] = []
    started = time.perf_counter()
    _, history = fit(recipe, splits, on_epoch=lambda row: ended.append(time.perf_counter()))
    row = history.rows[0]
    later_steps = row["seconds"] * (1 - 1 / row["step"])
    return ended[0] - started - later_steps - row["validation_seconds"]


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=3, result="second_fit")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="recipe fields")
    parsed = start(parser)
    settings = parse_settings(parsed.set)
    base = EXPERIMENTS["scratch"].recipe
    base = replace(base, epochs=1, optimizer="adamw", learning_rate=0.001, weight_decay=0.01)
    recipe = replace(base, **{"dropout_rate": 0.1, "flip_rate": 0.5} | settings)
    splits = make_splits()
    # Nothing comes from the disk: what is not compiled again, was kept in the process.
    jax.config.update("jax_enable_compilation_cache", False)
    seconds: dict[str, list[float]] = {"first call": [], "next call": []}
    for i in range(parsed.repeats):
        for programs in (forget_programs, forget_first_programs, jax.clear_caches):
            programs()
        seconds["first call"].append(seconds_to_first_step(recipe, splits))
        other = replace(
            recipe,
            learning_rate=0.002 + 0.001 * i,
            weight_decay=0.02 + 0.01 * i,
            dropout_rate=0.2 + 0.05 * i,
            flip_rate=0.4 - 0.05 * i,
        )
        seconds["next call"].append(seconds_to_first_step(other, splits))
        print({name: [round(s, 2) for s in values] for name, values in seconds.items()}, flush=True)
    compared = compare(seconds, {"next / first": ("next call", "first call")})
    show("from the call of fit to the end of its first step", compared)
    save(
        "second_fit", {"settings": {"set": without_paths(settings)}, "to": compared}, out=parsed.out
    )


if __name__ == "__main__":
    main()
