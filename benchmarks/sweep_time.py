"""The members of a sweep as one program, or one after another: the time of a training step.

  python -m benchmarks.sweep_time                  four members, batch 128, float32
  python -m benchmarks.sweep_time --members 8 --only head --out head.json

The images are random, 32x32. The programs are those that `jaxcifar.sweep` chooses between and
trains with. The cases are the whole ResNet-18 ("full"; "narrow" has 16 channels), and only its
head, on cached features. Compiling is timed separately.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import compare, interleave, make_parser, save, show, start
from benchmarks.programs import without_cache
from jaxcifar.data import Dataset, Splits
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.studies.sweeps.measured_mode import make_programs
from jaxcifar.studies.sweeps.members import make_members

# Case -> (preset, changes to it, steps in one timed call: one step of the head is too short)
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "full": ("scratch", {}, 1),
    "narrow": ("scratch", {"width": 16}, 1),
    # Random weights take as long as trained ones.
    "head": ("freeze_b_bn_frozen", {"weights": None, "new_head": False}, 100),
}
FORMS = {"vmap": "one program", "sequential": "one after another"}


def random_splits(recipe: Recipe, images: int) -> Splits:
    """Noise in the shape of CIFAR-10."""
    rng = np.random.default_rng(0)
    dataset = Dataset(
        rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, images, dtype=np.int32),
    )
    return Splits(recipe.dataset, (), dataset, dataset, dataset, "noise")


def case(
    name: str, members: int, batch_size: int
) -> tuple[dict[str, Callable[[], None]], dict[str, Any]]:
    """The two variants of a case, and the time and memory of their programs."""
    preset, changes, steps = CASES[name]
    recipe = dataclasses.replace(
        get_experiment(preset).recipe, batch_size=batch_size, dropout_rate=0.5, **changes
    )
    rates = [round(0.5 * i / members, 3) for i in range(1, members + 1)]
    programs = make_programs(
        "dropout_rate",
        make_members(recipe, "dropout_rate", rates),
        random_splits(recipe, 4 * batch_size),
    )
    facts = {
        FORMS[form]: {
            "compile_seconds": round(program.compile_seconds, 1),
            "memory_mib": round(program.bytes / 2**20, 1),
        }
        for form, program in programs.items()
    }
    variants: dict[str, Callable[[], None]] = {
        f"{name}, {FORMS[form]}, {steps} step(s)": partial(program.advance, steps)
        for form, program in programs.items()
    }
    return variants, facts


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=7, result="sweep_time")
    parser.add_argument("--members", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", choices=CASES, default=list(CASES), help="default: all cases"
    )
    parsed = start(parser)
    settings = {
        "members": parsed.members,
        "batch_size": parsed.batch_size,
        "dtype": "float32",
        "field": "dropout_rate",
        "cases": {name: CASES[name] for name in parsed.only},
    }
    facts, timed = {}, {}
    for name in parsed.only:
        with without_cache():
            variants, facts[name] = case(name, parsed.members, parsed.batch_size)
        one_program, in_turn = variants
        timed[name] = compare(
            interleave(variants, repeats=parsed.repeats, warmup=1),
            {"one program / one after another": (one_program, in_turn)},
        )
        show(f"{name}: {parsed.members} members, batch {parsed.batch_size}, float32", timed[name])
        print(f"  {facts[name]}", flush=True)
        result = {"settings": settings, "compiled": facts, "cases": timed}
        save("sweep_time", result, out=parsed.out, complete=False)
    save("sweep_time", result, out=parsed.out)


if __name__ == "__main__":
    main()
