"""Seconds from the command to the first training step and to the end of an epoch, cold and warm.

  python -m benchmarks.warm_start                                    the demo, one epoch
  python -m benchmarks.warm_start --experiment scratch --set train_size=1280 validation_size=500
  python -m benchmarks.warm_start --experiment scratch --warm-set learning_rate=0.02   see below

Each repeat runs `scripts/train.py` twice, each time in a new process: cold with an empty
$JAXCIFAR_CACHE_DIR, then warm with the compiled programs and decoded images that the first run left
there. The times are taken when these lines appear: the opening line (imports, data and the initial
weights are done), "compiled in" (the first step comes next) and the line of the first epoch (after
its validation). With --warm-set the second run has other settings than the first: what it changes
has to be an argument of the compiled programs to start warm.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import compare, make_parser, save, show
from benchmarks.settings import parse_settings, without_paths

ROOT = Path(__file__).parents[1]
# Moment -> the start of its line
MOMENTS = {"opening": "resnet", "first step": "compiled in", "first epoch": "epoch "}
TEMPERATURES = ("cold", "warm")


def train(experiment: str, settings: dict[str, Any], cache: str) -> dict[str, float]:
    """Seconds from the command to each of `MOMENTS`."""
    # JAX's own cache, if the user has one, would make every start warm.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    options = [word for name, value in settings.items() for word in option(name, value)]
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-u", "scripts/train.py", experiment, "--epochs", "1", *options]
        seconds: dict[str, float] = {}
        started = time.perf_counter()
        with subprocess.Popen(
            [*command, "--workdir", f"{workdir}/run"],
            cwd=ROOT,
            env=environment | {"JAXCIFAR_CACHE_DIR": cache},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                for moment, prefix in MOMENTS.items():
                    if line.startswith(prefix):
                        seconds.setdefault(moment, time.perf_counter() - started)
    if process.returncode or len(seconds) < len(MOMENTS):
        raise RuntimeError(
            f"{' '.join(command)} ended with status {process.returncode}; "
            f"it reached {list(seconds)} of {list(MOMENTS)}"
        )
    return seconds


def option(name: str, value: Any) -> list[str]:
    """A field of a recipe as a command-line option."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=3, result="warm_start_EXPERIMENT")
    parser.add_argument("--experiment", default="demo", help="default: %(default)s")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="recipe fields")
    parser.add_argument(
        "--warm-set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the warm run alone"
    )
    parsed = parser.parse_args()
    settings, changed = parse_settings(parsed.set), parse_settings(parsed.warm_set)
    seconds: dict[str, list[float]] = {f"{t}, {m}": [] for m in MOMENTS for t in TEMPERATURES}
    # The very first process reads the libraries from the disk: it is not timed.
    help_command = [sys.executable, "scripts/train.py", "--help"]
    subprocess.run(help_command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for _ in range(parsed.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for temperature in TEMPERATURES:
                own = settings | changed if temperature == "warm" else settings
                moments = train(parsed.experiment, own, cache)
                print(temperature, {m: round(s, 2) for m, s in moments.items()}, flush=True)
                for moment, taken in moments.items():
                    seconds[f"{temperature}, {moment}"].append(taken)
    ratios = {f"{m}: warm / cold": (f"warm, {m}", f"cold, {m}") for m in MOMENTS}
    compared = compare(seconds, ratios)
    show(f"{parsed.experiment}: from the command to", compared)
    about = {"experiment": parsed.experiment, "set": without_paths(settings)}
    name = f"warm_start_{parsed.experiment}"
    if changed:
        about["warm_set"] = without_paths(changed)
        name += "_" + "_".join(changed)
    save(name, {"settings": about, "to": compared}, out=parsed.out)


if __name__ == "__main__":
    main()
