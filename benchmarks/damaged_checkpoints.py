"""What happens to a run when one file of its last checkpoint is damaged.

  python -m benchmarks.damaged_checkpoints                  a small run on digits, two epochs
  python -m benchmarks.damaged_checkpoints --unverified     only Orbax's own checks, no manifests

Every file of the last checkpoint is deleted, emptied, cut in half, and has single bits flipped in
several places, one damage at a time. Then the checkpoint is read as `jaxcifar evaluate --checkpoint
last` and as `jaxcifar train --resume` read it. The outcomes:

* refused;
* older one used: with a warning that names it;
* restored identically: Orbax writes two small files after the manifest, and nothing is restored
  from them;
* silently wrong: must not happen, and makes the exit status 1.
"""

import argparse
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from benchmarks.harness import save
from jaxcifar.common.errors import CheckpointError
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoints import Checkpoints, CheckpointWarning
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from jaxcifar.step.state import TrainState, state_shapes
from jaxcifar.training.fit import fit
from jaxcifar.training.start import restore_state

OUTCOMES = ("refused", "older one used", "restored identically", "silently wrong")
REFUSED, OLDER, IDENTICAL, WRONG = OUTCOMES
Attempt = Callable[[Path, dict[int, TrainState]], str]


def damages(size: int, flips: int) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Ways to damage a file of `size` bytes."""
    yield "deleted", Path.unlink
    if size > 0:
        yield "emptied", partial(_cut, length=0)
        yield "cut in half", partial(_cut, length=size // 2)
    # Spread over the file, with a different bit of the byte each time.
    for byte in sorted({(2 * i + 1) * size // (2 * flips) for i in range(flips)}) if size else ():
        yield "bit flipped", partial(_flip, byte=byte, bit=(byte * 5 + 3) % 8)


def _cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def _flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same bits."""
    bits = jax.tree.map(lambda x, y: _bits(x) == _bits(y), a, b)
    return all(jax.tree.leaves(bits))


def _bits(leaf: jax.Array) -> bytes:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def evaluating(run: Path, good: dict[int, TrainState]) -> str:
    """The outcome of reading the weights of the last checkpoint."""
    try:
        _, _, variables = restore_run(run, "last")
    except CheckpointError:
        return REFUSED
    return IDENTICAL if same(variables, good[max(good)].variables) else WRONG


def resuming(run: Path, good: dict[int, TrainState], recipe: Recipe) -> str:
    """The outcome of resuming from it, as `fit` does."""
    with (
        Checkpoints(RunDirectory(run).checkpoints) as checkpoints,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            checkpoints.set_damaged_aside()
            step = checkpoints.find("last")
            state = restore_state(recipe, checkpoints)
        except CheckpointError:
            return REFUSED
    older = step < max(good)
    warned = any(warning.category is CheckpointWarning for warning in caught)
    if not same(state, good[step]) or older != warned:
        return WRONG
    return OLDER if older else IDENTICAL


def train(recipe: Recipe, run: Path) -> dict[int, TrainState]:
    """Train the run, and return the state of each of its checkpoints."""
    fit(recipe, load_splits(recipe), workdir=run)
    shapes = state_shapes(
        recipe.make_model(), recipe.make_optimizer(), image_size=recipe.image_size
    )
    with Checkpoints(RunDirectory(run).checkpoints, read_only=True) as checkpoints:
        return {step: checkpoints.restore_state(shapes, step) for step in checkpoints.steps()}


def count(recipe: Recipe, folder: Path, *, flips: int, unverified: bool) -> dict[str, Counter[str]]:
    """Damage the files of a run's last checkpoint in turn: "evaluate, emptied" -> outcomes."""
    run, copy = folder / "run", folder / "copy"
    good = train(recipe, run)
    ways: dict[str, Attempt] = {"evaluate": evaluating, "resume": partial(resuming, recipe=recipe)}
    step = RunDirectory(run).checkpoints / str(max(good))
    files = sorted(path.relative_to(run) for path in step.rglob("*") if path.is_file())
    print(f"{len(files)} files in a checkpoint", flush=True)
    counts: dict[str, Counter[str]] = {}
    with patch.object(manifest, "verify", lambda *_: []) if unverified else nullcontext():
        for file in files:
            for kind, damage in damages((run / file).stat().st_size, flips):
                for doing, attempt in ways.items():
                    shutil.copytree(run, copy)
                    damage(copy / file)
                    outcome = attempt(copy, good)
                    shutil.rmtree(copy)
                    counts.setdefault(f"{doing}, {kind}", Counter())[outcome] += 1
                    if outcome == WRONG:
                        print(f"  {WRONG}: {doing}, {file.name} {kind}", flush=True)
    return counts


def main() -> None:
    """Train, damage, count, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--flips", type=int, default=6, help="per file; default: %(default)s")
    parser.add_argument("--unverified", action="store_true", help="do not check the manifests")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/damaged_....json")
    parsed = parser.parse_args()
    recipe = replace(get_experiment("demo").recipe, width=parsed.width, epochs=2)
    with tempfile.TemporaryDirectory() as temporary:
        counts = count(recipe, Path(temporary), flips=parsed.flips, unverified=parsed.unverified)
    counts["all"] = sum(counts.values(), Counter())
    print(f"  {'':<24}" + "".join(f"{name:>22}" for name in OUTCOMES))
    for row, outcomes in counts.items():
        print(f"  {row:<24}" + "".join(f"{outcomes[name]:>22}" for name in OUTCOMES))
    save(
        "damaged_checkpoints" + ("_unverified" if parsed.unverified else ""),
        {
            "settings": {
                "width": parsed.width,
                "epochs": 2,
                "flips_a_file": parsed.flips,
                "verified": not parsed.unverified,
            },
            "outcomes": {row: {n: of[n] for n in OUTCOMES} for row, of in counts.items()},
        },
        out=parsed.out,
    )
    sys.exit(1 if counts["all"][WRONG] and not parsed.unverified else 0)


if __name__ == "__main__":
    main()
