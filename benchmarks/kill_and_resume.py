"""Kill a training run many times, resume it each time, and compare the end with an undisturbed run.

  python -m benchmarks.kill_and_resume                 50 SIGKILLs in 10 runs, about 10 minutes
  python -m benchmarks.kill_and_resume --kills 4 --runs 1
  python -m benchmarks.kill_and_resume --signal TERM   asks it to stop: it saves in mid-epoch

Every second kill comes while a checkpoint is being written, the others at a random moment of
training. A run fails if its final parameters, statistics, optimizer state or history are not
bit-identical to those of the undisturbed run. The exit status is 1 if any run fails.
"""

import argparse
import dataclasses
import hashlib
import json
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import save
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.training.start import restore_state

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
SETTINGS = shlex.split(
    "--width 4 --train-size 256 --validation-size 40 --batch-size 32 --eval-batch-size 40 "
    "--dropout-rate 0.2 --flip-rate 0.5 --t-max 100"
)
TIMEOUT = 300.0  # seconds that a process may take


def main() -> None:
    """Kill, resume, compare, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=10, help="that share the kills (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random moments (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="a JSON file (default: benchmarks/results/)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run_with_kills(
            Path(folder),
            kills=options.kills,
            runs=options.runs,
            epochs=options.epochs,
            number=signal.Signals[f"SIG{options.signal}"],
            rng=random.Random(options.seed),
        )
    name = f"kill_and_resume_{options.signal.lower()}"
    save(name, result, out=options.out)
    print(
        f"{result['kills']} x SIG{options.signal} in {options.runs} runs "
        f"({result['in_saves']} during a save): {result['identical']} ended bit-identical to the "
        "undisturbed run"
    )
    sys.exit(0 if result["identical"] == options.runs else 1)


def run_with_kills(
    folder: Path,
    *,
    kills: int,
    runs: int,
    epochs: int,
    number: signal.Signals,
    rng: random.Random,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Run once undisturbed and `runs` times with kills; count how often the end is the same."""
    command = command or [sys.executable, str(TRAIN)]
    start = [*command, "demo", *SETTINGS, "--epochs", str(epochs)]
    undisturbed = folder / "undisturbed"
    run_to_end([*start, "--workdir", str(undisturbed)])
    expected = contents(undisturbed)
    counts = {"kills": 0, "in_saves": 0, "identical": 0}
    for i in range(runs):
        workdir = folder / f"killed{i}"
        share = kills // runs + (i < kills % runs)
        resume = [*command, "demo", "--workdir", str(workdir), "--resume"]
        for attempt in range(share):
            started = (workdir / "config.json").exists()
            process = subprocess.Popen(
                resume if started else [*start, "--workdir", str(workdir)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            in_save = kill(process, workdir, number, rng, in_save=attempt % 2 == 1)
            if in_save is not None:
                counts["kills"] += 1
                counts["in_saves"] += in_save
        run_to_end(resume)
        same = contents(workdir) == expected
        counts["identical"] += same
        print(f"run {i + 1}/{runs}: {'identical' if same else 'DIFFERENT'}", flush=True)
    return counts | {"runs": runs, "signal": number.name, "epochs": epochs}


def kill(
    process: subprocess.Popen[bytes],
    workdir: Path,
    number: signal.Signals,
    rng: random.Random,
    *,
    in_save: bool,
) -> bool | None:
    """Send the signal at a random moment, or while a checkpoint is written.

    Returns:
        Whether a checkpoint was being written, or None if the process had ended by itself.
    """
    checkpoints = workdir / "checkpoints"
    rows = row_count(workdir)
    deadline = time.monotonic() + TIMEOUT
    # Training is under way once a new epoch is recorded. A row without its checkpoint is dropped
    # before that.
    while process.poll() is None and row_count(workdir) <= rows:
        assert time.monotonic() < deadline, f"no epoch was recorded within {TIMEOUT:.0f} s"
        time.sleep(0.005)
    wait = rng.uniform(0, 1.5)
    moment = time.monotonic() + wait
    hit = False
    while process.poll() is None and time.monotonic() < deadline:
        saving = checkpoints.is_dir() and any("tmp" in p.name for p in checkpoints.iterdir())
        if time.monotonic() >= moment and (saving or not in_save):
            hit = saving
            break
    if process.poll() is not None:
        return None
    if in_save:
        time.sleep(rng.uniform(0, 0.02))
    process.send_signal(number)
    status = process.wait(timeout=TIMEOUT)
    if status != (-number if number == signal.SIGKILL else 128 + number):
        return None  # it ended before the signal came
    return hit


def row_count(workdir: Path) -> int:
    """The number of epochs recorded so far."""
    metrics = workdir / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def run_to_end(command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def contents(workdir: Path) -> dict[str, Any]:
    """Everything that must be equal: both checkpoints, the scores, the numbers of the history."""
    clock = {"seconds", "validation_seconds", "images_per_second"}
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((workdir / "summary.json").read_text())
    files = RunDirectory(workdir)
    with Checkpoints(files.checkpoints, read_only=True) as checkpoints:
        state = restore_state(read_recipe(files), checkpoints)
        best = checkpoints.restore_weights(state.variables, "best")
    return {
        "last": digest(dataclasses.replace(state, key=jax.random.key_data(state.key))),
        "best": digest(best),
        "rows": [{k: v for k, v in row.items() if k not in clock} for row in rows],
        "scores": {which: summary[which] for which in ("best", "last")},
    }


def digest(tree: Any) -> str:
    """SHA-256 over the path and the bytes of every leaf."""
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sha256.update(jax.tree_util.keystr(path).encode())
        sha256.update(np.asarray(leaf).tobytes())
    return sha256.hexdigest()


if __name__ == "__main__":
    main()
