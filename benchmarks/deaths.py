"""Kill a process before each of its file operations in turn, and start it again.

  python -m benchmarks.deaths                     every scenario; an hour on 2 cores
  python -m benchmarks.deaths run --every 10      one of them, every tenth operation

A scenario is run once undisturbed, and its file operations are counted: whatever it opens for
writing, makes, renames, removes or truncates in its folder. (Syncing changes nothing that the next
process sees.) Then it is killed (SIGKILL) before the first of them, before the second, and so on,
each time started once more as a user would, and compared with the undisturbed end. The exit status
is 1 if an end differs.

TensorStore writes the arrays of a checkpoint in C++, which is not counted; the process dies between
such writes. The processes are forked from one that has imported everything, since importing takes
longer than running.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import save
from benchmarks.kill_and_resume import contents, digest
from jaxcifar.data import Dataset
from jaxcifar.data.cache import cached
from jaxcifar.data.cifar10 import CLASS_NAMES, ArchiveSource, prepare_cifar10
from jaxcifar.data.cifar_format import CifarFormat
from jaxcifar.data.tfds_layout import import_tfds
from jaxcifar.models.resnet import ARCHITECTURES
from jaxcifar.models.weights import read_weights, write_safetensors
from jaxcifar.recipes.presets import EXPERIMENTS, Experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.studies.reproduction import Item, Settings, reproduce
from jaxcifar.studies.sweeps import sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.training.fit import fit

# Tracing the network takes most of a process's time: one of one stage with one block.
ARCHITECTURES["one_block"] = {"stage_sizes": (1,), "bottleneck": False}
RECIPE = Recipe(
    architecture="one_block",
    dataset="digits",
    normalization="half",
    width=1,
    resize=8,
    epochs=2,
    train_size=64,
    validation_size=20,
    batch_size=32,
    eval_batch_size=100,
)
ONE_EPOCH = dataclasses.replace(RECIPE, epochs=1)
ITEMS = (
    Item("one", "A run.", "one"),
    Item("rates", "A sweep.", "one", swept="dropout_rate", values=(0.3,)),
    Item("confusion", "Confusion matrices."),
    Item("compare", "Accuracy against time."),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
TIMEOUT = 120  # seconds that a process may take
NOT_REACHED = "it ended before the operation"


@dataclass(frozen=True)
class Scenario:
    """What a process does in a folder.

    Attributes:
        start: as the user starts it, also after a death.
        result: what must be equal in the end; plain JSON.
        before: makes what is there before the first start.
        rounds: numbers may differ by rounding, where it is not certain that all members of a sweep
            can go on as one program.
    """

    start: Callable[[Path], object]
    result: Callable[[Path], Any]
    before: Callable[[Path], object] = lambda folder: None
    rounds: bool = False


def start_run(folder: Path) -> None:
    """Train, or continue."""
    workdir = folder / "run"
    fit(RECIPE, load_splits(RECIPE), workdir=workdir, resume=RunDirectory(workdir).holds_run())


def replace_run(folder: Path) -> None:
    """Replace whatever run is there."""
    fit(RECIPE, load_splits(RECIPE), workdir=folder / "run", overwrite=True)


def train_longer(folder: Path) -> None:
    """An earlier run with another number of epochs."""
    recipe = Recipe.from_dict(RECIPE.to_dict() | {"epochs": 3})
    fit(recipe, load_splits(recipe), workdir=folder / "run")


def start_sweep(folder: Path, mode: Any = "sequential") -> None:
    """Sweep, or continue."""
    workdir = folder / "sweep"
    resume = SweepDirectory(workdir).holds_sweep()
    splits = load_splits(RECIPE)
    sweep(ONE_EPOCH, "dropout_rate", [0.0, 0.3], splits, workdir=workdir, mode=mode, resume=resume)


def replace_sweep(folder: Path) -> None:
    """Replace whatever sweep is there."""
    splits = load_splits(RECIPE)
    workdir = folder / "sweep"
    sweep(ONE_EPOCH, "dropout_rate", [0.0], splits, workdir=workdir, overwrite=True)


def sweep_longer(folder: Path) -> None:
    """An earlier sweep of another recipe, with more members."""
    splits = load_splits(RECIPE)
    sweep(RECIPE, "dropout_rate", [0.0, 0.3], splits, workdir=folder / "sweep", mode="sequential")


def sweep_contents(folder: Path) -> Any:
    """The members, and that the table is there."""
    members = {run.name: contents(run) for run in sorted((folder / "sweep").glob("dropout_rate=*"))}
    return members | {"table": (folder / "sweep" / "table.md").is_file()}


def start_report(folder: Path) -> None:
    """Make a small report, or continue."""
    EXPERIMENTS["one"] = Experiment(ONE_EPOCH.to_dict(), "a run")
    reproduce(folder / "report", Settings(), plan=ITEMS, verbose=False)


def report_contents(folder: Path) -> Any:
    """The runs, and the names of the pictures."""
    report = folder / "report"
    assert (report / "index.html").is_file()
    return {
        "runs": [contents(run.parent) for run in sorted(report.glob("runs/**/summary.json"))],
        "pictures": sorted(path.name for path in (report / "pictures").iterdir()),
    }


def make_archive(folder: Path) -> None:
    """An archive in CIFAR-10's binary format, with few images."""
    import tarfile

    rng = np.random.default_rng(0)
    (folder / "data").mkdir()
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as tar:
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
        batches = [rng.integers(0, 256, (20, 3073), np.uint8) for _ in names]
        files = {"batches.meta.txt": "\n".join(CLASS_NAMES).encode()}
        for name, batch in zip(names, batches, strict=True):
            batch[:, 0] %= 10
            files[name] = batch.tobytes()
        for name, data in files.items():
            path = folder / name
            path.write_bytes(data)
            tar.add(path, f"cifar-10-batches-bin/{name}")
            path.unlink()


def prepare(folder: Path) -> None:
    """Prepare the archive as a dataset."""
    archive = folder / "archive.tar.gz"
    prepare_cifar10(
        folder / "data",
        from_archive=archive,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        source=ArchiveSource(CifarFormat(20, 5, CLASS_NAMES), ()),
        progress=False,
    )


def file_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def decode_into_cache(folder: Path) -> None:
    """Put decoded images into the cache."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 8, 8, 3), np.uint8)
    dataset = Dataset(images, np.arange(50, dtype=np.int32) % 10)
    splits = cached("0" * 64, lambda: {"train": dataset, "test": dataset}, folder=folder / "cache")
    assert np.array_equal(splits["train"].images, images)


def export(folder: Path) -> None:
    """Write weights, over an older file."""
    tensors = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float32)}
    write_safetensors(folder / "weights.safetensors", tensors, overwrite=True)


SCENARIOS = {
    "run": Scenario(start_run, lambda folder: contents(folder / "run")),
    "overwrite": Scenario(replace_run, lambda folder: contents(folder / "run"), train_longer),
    "sweep": Scenario(start_sweep, sweep_contents),
    "sweep_overwrite": Scenario(replace_sweep, sweep_contents, sweep_longer),
    "sweep_vmap": Scenario(lambda folder: start_sweep(folder, "vmap"), sweep_contents, rounds=True),
    "report": Scenario(start_report, report_contents),
    "preparation": Scenario(prepare, lambda folder: file_digests(folder / "data"), make_archive),
    "cache": Scenario(decode_into_cache, lambda folder: file_digests(folder / "cache")),
    "export": Scenario(
        export,
        lambda folder: [
            sorted(os.listdir(folder)),
            digest(read_weights(folder / "weights.safetensors").tensors),
        ],
    ),
}


class Deaths:
    """Counts the file operations in a folder, and kills the process before one of them."""

    def __init__(self, folder: Path, last: int | None) -> None:
        """Watch from now on; without `last` only count."""
        self.count, self._folder, self._last = 0, str(folder), last
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: Sequence[Any]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and str(path).startswith(self._folder):
                self._happens()
        elif event in EVENTS:
            # Names inside a folder that is being removed are relative to its descriptor.
            by_descriptor = isinstance(arguments[0], int)
            name = self._folder if by_descriptor else os.fsdecode(arguments[0])
            if name.startswith(self._folder) or not name.startswith("/"):
                self._happens()

    def _happens(self) -> None:
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def run_scenario(name: str, every: int = 1, first: int | None = None) -> dict[str, Any]:
    """Kill a scenario at every `every`-th operation, of the `first` ones only.

    Returns:
        "operations", "killed", "identical", "rounded" (equal but for rounding, where that is
        allowed), and "different": operation -> what was wrong.
    """
    scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory(prefix="deaths-") as home:
        template, folder = Path(home) / "template", Path(home) / "here"
        template.mkdir()
        _in_a_process(lambda: scenario.before(template))
        _renew(template, folder)
        expected, operations = _in_a_process(lambda: _undisturbed(scenario, folder))
        if not operations:
            raise RuntimeError(f"{name} does not end undisturbed: {expected}")
        killed, rounded, different = 0, 0, {}
        numbers = range(1, min(operations, first or operations) + 1, every)
        for number in numbers:
            _renew(template, folder)
            end = _in_a_process(partial(_dying, scenario, folder, number))
            killed += end is None
            assert end in (None, NOT_REACHED), end
            result, _ = _in_a_process(lambda: _undisturbed(scenario, folder))
            if result == expected:
                continue
            if scenario.rounds and is_close(result, expected):
                rounded += 1
            else:
                different[number] = result
    identical = len(numbers) - rounded - len(different)
    return {
        "operations": operations,
        "killed": killed,
        "identical": identical,
        "rounded": rounded,
        "different": different,
    }


def is_close(value: Any, expected: Any) -> bool:
    """Whether plain JSON is equal, but for rounding in its numbers (and so in digests)."""
    if isinstance(expected, dict):
        same = isinstance(value, dict) and value.keys() == expected.keys()
        return same and all(is_close(value[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        same = isinstance(value, list) and len(value) == len(expected)
        return same and all(map(is_close, value, expected))
    if isinstance(expected, float):
        return math.isclose(value, expected, rel_tol=1e-3)
    is_digest = isinstance(expected, str) and len(expected) == 64
    return value == expected or is_digest


def _renew(template: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)


def _undisturbed(scenario: Scenario, folder: Path) -> tuple[Any, int]:
    deaths = Deaths(folder, None)
    scenario.start(folder)
    count = deaths.count
    return json.loads(json.dumps(scenario.result(folder))), count


def _dying(scenario: Scenario, folder: Path, number: int) -> str:
    Deaths(folder, number)
    scenario.start(folder)
    return NOT_REACHED


def _in_a_process(function: Callable[[], Any]) -> Any:
    """What a function returns in a forked process; or None if that is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(TIMEOUT)
        try:
            answer = json.dumps(function())
        except BaseException:
            answer = json.dumps((traceback.format_exc(), 0))
        with open(writer, "w") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return f"it took more than {TIMEOUT} s", 0
    return json.loads(answer) if answer else None


def main() -> None:
    """Kill, start again, compare, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--every", type=int, default=1, help="kill at each N-th operation (default: %(default)s)"
    )
    parser.add_argument("--first", type=int, help="only at the first N operations")
    parser.add_argument("--out", type=Path, help="a JSON file (default: benchmarks/results/)")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"unknown scenario {', '.join(unknown)}; choose from {', '.join(SCENARIOS)}")
    with tempfile.TemporaryDirectory() as programs:
        prepare_process(programs)
        results = {}
        for name in options.scenarios or SCENARIOS:
            started = time.perf_counter()
            counts = results[name] = run_scenario(name, options.every, options.first)
            seconds = time.perf_counter() - started
            print(
                f"{name:<12} {counts['operations']:>4} operations, killed at {counts['killed']}, "
                f"{counts['identical']} ended as undisturbed, {counts['rounded']} but for rounding "
                f"({seconds:.0f} s)",
                flush=True,
            )
            for number, end in counts["different"].items():
                print(f"  operation {number}: {str(end)[-500:]}")
            if options.out or not (options.scenarios or options.first or options.every > 1):
                _save({"every": options.every, "scenarios": results}, options.out)
    sys.exit(1 if any(counts["different"] for counts in results.values()) else 0)


def _save(measured: dict[str, Any], out: Path | None) -> None:
    """In a process of its own: it asks JAX for the machine, which must not start here."""
    answer = _in_a_process(lambda: str(save("deaths", measured, out=out)))
    if not isinstance(answer, str):
        raise RuntimeError(f"the result cannot be saved: {answer}")


def prepare_process(programs: str) -> None:
    """Import what the scenarios use, and keep compiled programs; JAX must not have started yet."""
    import_tfds()
    load_splits(RECIPE)
    import matplotlib.backends.backend_agg  # noqa: F401

    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


if __name__ == "__main__":
    main()
