"""Kill a training run again and again, resume it each time, and compare its end with a quiet run's.

python -m benchmarks.kill_and_resume                 50 SIGKILLs in 10 runs, some 10 minutes
python -m benchmarks.kill_and_resume --kills 4 --runs 1
python -m benchmarks.kill_and_resume --signal TERM   asked to stop, so saved in mid-epoch

Every other kill comes at a random moment of training, the others while a checkpoint is being
written. A run whose parameters, statistics, optimizer state and history do not end bit-identical to
those of the undisturbed run is a failure, and the exit status 1.
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
LONGEST = 300.0  # seconds a process may take before something is wrong


def main() -> None:
    """Parse, kill, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=10, help="among so many (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file (default: benchmarks/results/)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = torment(
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
        f"({result['in_saves']} during a save): {result['identical']} ended to the bit as the "
        "undisturbed run"
    )
    sys.exit(0 if result["identical"] == options.runs else 1)


def torment(
    folder: Path,
    *,
    kills: int,
    runs: int,
    epochs: int,
    number: signal.Signals,
    rng: random.Random,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Run once in quiet and `runs` times with kills; how often the end was the same."""
    command = command or [sys.executable, str(TRAIN)]
    start = [*command, "demo", *SETTINGS, "--epochs", str(epochs)]
    quiet = folder / "quiet"
    run_to_end([*start, "--workdir", str(quiet)])
    wanted = contents(quiet)
    counts = {"kills": 0, "in_saves": 0, "identical": 0}
    for i in range(runs):
        workdir = folder / f"killed{i}"
        share = kills // runs + (i < kills % runs)
        resume = [*command, "demo", "--workdir", str(workdir), "--resume"]
        for attempt in range(share):
            begun = (workdir / "config.json").exists()
            process = subprocess.Popen(
                resume if begun else [*start, "--workdir", str(workdir)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            in_save = kill(process, workdir, number, rng, in_save=attempt % 2 == 1)
            if in_save is not None:
                counts["kills"] += 1
                counts["in_saves"] += in_save
        run_to_end(resume)
        same = contents(workdir) == wanted
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
    """Send the signal, at a random moment or while a checkpoint is written; None: it had ended."""
    checkpoints = workdir / "checkpoints"
    rows = row_count(workdir)
    deadline = time.monotonic() + LONGEST
    # Training has begun when an epoch is noted (and a row without its checkpoint is dropped first).
    while process.poll() is None and row_count(workdir) <= rows:
        assert time.monotonic() < deadline, "the run does not train"
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
    status = process.wait(timeout=LONGEST)
    if status != (-number if number == signal.SIGKILL else 128 + number):
        return None  # it had ended
    return hit


def row_count(workdir: Path) -> int:
    """Epochs noted so far."""
    metrics = workdir / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def run_to_end(command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def contents(workdir: Path) -> dict[str, Any]:
    """What must be the same: every leaf of both checkpoints, the scores, the history's numbers."""
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
    """SHA-256 over the bytes of every leaf, with its path."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
