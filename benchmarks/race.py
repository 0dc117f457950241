"""Train several settings with several seeds, one after another, and compare their test accuracies.

  python -m benchmarks.race speedrun speedrun_sgd "speedrun learning_rate=0.3 momentum=0.7"
  python -m benchmarks.race speedrun "speedrun label_smoothing=0.1" --seeds 0 1 --time-limit 540
  python -m benchmarks.race "hot: speedrun learning_rate=0.4" speedrun --resume --out race.jsonl

A contender is a preset, perhaps with a name in front and with settings behind. Each trains with the
programs of `fit`; those that differ only in numbers (`recipes.numbers.TRACED_SETTINGS`) or seeds
share them. All contenders run with the first seed, then with the second. Another number of epochs
moves the warm-up in proportion and the only validation to the end, unless these are set, too.

Each run is a line of JSON, written when it ends. "test_accuracy" is of the images as they are, and
"test_accuracy_views" with the recipe's own views of them (the settings test_...). "train_seconds"
is without compiling, caching features and scoring. A run whose numbers are no longer finite is a
line with "nonfinite_step". Before each run its time is estimated: by runs of the same program, else
by the longest run so far. If it would pass the limit, the race stops, and --resume continues it: it
skips the runs that the file holds from the same sources (the commit is noted, not compared), data,
machine, settings and weights.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from benchmarks.contenders import (
    Contender,
    check_contenders,
    plain_views,
    read_contender,
    read_settings,
)
from benchmarks.race_file import Row, identity, make_header, open_file
from benchmarks.without_tfds import read_packed
from jaxcifar.commands.exit_status import exit_with_status
from jaxcifar.common.writing import append_line
from jaxcifar.data import Splits
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.recipes.stage import ProgramKey, program_key
from jaxcifar.runs.transfer import starting_weights
from jaxcifar.step.metrics import compute
from jaxcifar.step.state import TrainState, all_finite
from jaxcifar.training.closing import make_closing_scoring
from jaxcifar.training.epoch import Scoring
from jaxcifar.training.plan import RunPlan, plan_run
from jaxcifar.training.stage import begin_stage
from jaxcifar.training.start import first_state

SCORES = ("test_accuracy", "test_accuracy_views")


# One run.


def plan_contender(contender: Contender, splits: Splits) -> RunPlan:
    """All that `fit` checks before it compiles, and the compilation cache.

    The test images stand for the validation images: the race scores only them, with one program.
    """
    plan = plan_run(contender.recipe, splits)
    return replace(plan, splits=replace(plan.splits, validation=plan.splits.test))


def make_scorings(plan: RunPlan) -> dict[str, Scoring]:
    """The scoring of the test images, for each of `SCORES`; one for both if the views are plain."""
    plain = plain_views(plan.recipe)
    scoring = make_closing_scoring(replace(plan, recipe=plain), plan.splits.test)
    if plain == plan.recipe:
        return dict.fromkeys(SCORES, scoring)
    return {SCORES[0]: scoring, SCORES[1]: make_closing_scoring(plan, plan.splits.test)}


def with_seed(plan: RunPlan, seed: int) -> RunPlan:
    """The plan of another seed, from which a new head on given weights is drawn, too."""
    recipe = replace(plan.recipe, seed=seed)
    weights = starting_weights(recipe, plan.all_splits) if recipe.new_head else plan.weights
    return replace(plan, recipe=recipe, weights=weights)


def run(plan: RunPlan, seed: int) -> Row:
    """Train with a seed and score the last state: the figures of a line."""
    started = time.perf_counter()
    plan = with_seed(plan, seed)
    state = plan.layout.replicate(first_state(plan.recipe, plan.splits, plan.weights))
    scorings = make_scorings(plan)
    for scoring in scorings.values():
        scoring.compile(state.variables)
    seconds = {"train": 0.0, "compile": time.perf_counter() - started}
    state, epochs, loss = train(plan, state, seconds)
    row: Row = {
        "train_seconds": round(seconds["train"], 3),
        "compile_seconds": round(seconds["compile"], 2),
        "images_per_second": round(epochs * plan.recipe.train_images / seconds["train"], 1),
    }
    if is_finite(state, epochs, plan.recipe):
        sums = {name: scoring.run(state.variables) for name, scoring in scorings.items()}
        row["train_loss"] = round(loss, 5)
        row |= {name: round(compute(each)["accuracy"], 5) for name, each in sums.items()}
    else:
        row["nonfinite_step"] = int(state.step)
    return row | {"seconds": round(time.perf_counter() - started, 2)}


def train(
    plan: RunPlan, state: TrainState, seconds: dict[str, float]
) -> tuple[TrainState, int, float]:
    """Train stage after stage, to the last epoch or to the first whose numbers are not finite.

    Args:
        seconds: "train" and "compile" (with moving the data and caching features) grow.

    Returns:
        The last state, the epochs begun, and the last one's mean loss.
    """
    epoch, loss = 0, 0.0
    while epoch < plan.recipe.epochs and is_finite(state, epoch, plan.recipe):
        begun = time.perf_counter()
        stage, state = begin_stage(plan, state, epoch + 1)
        seconds["compile"] += time.perf_counter() - begun
        while epoch < stage.last_epoch and is_finite(state, epoch, plan.recipe):
            begun = time.perf_counter()
            state, sums = jax.block_until_ready(stage.train(state))
            seconds["train"] += time.perf_counter() - begun
            epoch, loss = epoch + 1, compute(sums)["loss"]
    return state, epoch, loss


def is_finite(state: TrainState, epoch: int, recipe: Recipe) -> bool:
    """Whether the state is at the end of this epoch, with finite numbers."""
    at_end = int(state.step) == epoch * recipe.steps_per_epoch
    return at_end and bool(all_finite(state.variables))


# The race.


class Clock:
    """Whether there is time for another run."""

    def __init__(self, limit: float | None, started: float) -> None:
        """Start with nothing known.

        Args:
            limit: seconds from `started` on, or None.
            started: of `time.monotonic`.
        """
        self.limit, self.started = limit, started
        self._next: dict[ProgramKey, float] = {}
        self._longest = 0.0

    def learn(self, key: ProgramKey, row: Row, *, here: bool) -> None:
        """Note a run of a program: of this process, which has it compiled now, or of an earlier."""
        seconds: float = row["seconds"]
        if "nonfinite_step" in row:  # it ended early, and says nothing of one that does not
            seconds = max(seconds, self.estimate(key))
        elif here:
            self._next[key] = seconds - row["compile_seconds"]
        else:  # the longest of them compiled it
            self._next[key] = max(seconds, self._next.get(key, 0.0))
        self._longest = max(self._longest, seconds)

    def estimate(self, key: ProgramKey) -> float:
        """Seconds of the next run of a program; before its first, those of the longest run."""
        return self._next.get(key, self._longest)

    def allows(self, seconds: float) -> bool:
        """Whether a run of so many seconds ends before the limit."""
        return self.limit is None or time.monotonic() - self.started + seconds <= self.limit


def race(
    plans: Mapping[Contender, RunPlan],
    seeds: Sequence[int],
    rows: list[Row],
    clock: Clock,
    out: Path,
) -> list[Row]:
    """Run every contender with every seed, but for those in `rows`; a line each, at once.

    Returns:
        All lines, the earlier ones first.
    """
    done = {identity(row): row for row in rows}
    keys = {contender: program_key(plan.recipe) for contender, plan in plans.items()}
    for contender, plan in plans.items():
        for seed in seeds:
            if row := done.get(identity(start_of(contender, plan, seed))):
                clock.learn(keys[contender], row, here=False)
    for seed in seeds:
        for contender, plan in plans.items():
            row = start_of(contender, plan, seed)
            if identity(row) in done:
                continue
            expected = clock.estimate(keys[contender])
            if not clock.allows(expected):
                print(
                    f"stopped before {contender.name}, seed {seed}: its {expected:.0f} s would "
                    f"pass the limit of {clock.limit:.0f} s; continue with --resume",
                    flush=True,
                )
                return rows
            row |= run(plan, seed)
            append_line(out, json.dumps(row))
            print(json.dumps(row), flush=True)
            clock.learn(keys[contender], row, here=True)
            rows.append(row)
    return rows


def start_of(contender: Contender, plan: RunPlan, seed: int) -> Row:
    """The line of a run as far as it is known before."""
    weights = {} if plan.weights is None else {"weights_sha256": plan.weights.report.sha256}
    return {
        "name": contender.name,
        "preset": contender.preset,
        "settings": contender.settings,
        "data": plan.all_splits.fingerprint,
        **weights,
        "seed": seed,
        "epochs": contender.recipe.epochs,
    }


def table(plans: Mapping[Contender, RunPlan], rows: Sequence[Row]) -> list[str]:
    """Lines: for each contender n, and mean and deviation of its accuracies, and seconds."""
    width = max(len("contender"), *(len(contender.name) for contender in plans))
    head = f"{'contender':<{width}}  epochs   n  {'plain':>17}  {'own views':>17}  seconds"
    return [head, *(f"{c.name:<{width}}  {table_row(c, p, rows)}" for c, p in plans.items())]


def table_row(contender: Contender, plan: RunPlan, rows: Sequence[Row]) -> str:
    """The figures of a contender's runs."""
    own = [row for row in rows if identity(row) == identity(start_of(contender, plan, row["seed"]))]
    ended = [row for row in own if "nonfinite_step" not in row]
    scores = "  ".join(f"{spread([row[name] for row in ended]):>17}" for name in SCORES)
    seconds = f"{statistics.mean(row['train_seconds'] for row in ended):7.1f}" if ended else "-"
    lost = len(own) - len(ended)
    note = f"  ({lost} not finite)" if lost else ""
    return f"{contender.recipe.epochs:>6} {len(ended):>3}  {scores}  {seconds:>7}{note}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in words."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}"


def load_all(
    contenders: Sequence[Contender], packed: Path | None, data_dir: Path | None
) -> list[Splits]:
    """The splits of each contender, loaded once for each way to split."""
    loaded: dict[Any, Splits] = {}
    splits = []
    for recipe in (contender.recipe for contender in contenders):
        way = (recipe.dataset, recipe.split_sizes, recipe.split_seed, recipe.stratified)
        key = (*way, recipe.resize, recipe.follow_links)
        if key not in loaded:
            loaded[key] = read_packed(packed, recipe) if packed else load_splits(recipe, data_dir)
        splits.append(loaded[key])
    return splits


def make_race_parser() -> argparse.ArgumentParser:
    """The contenders, and how to race them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("race.jsonl"),
        metavar="PATH.jsonl",
        help="a line for each run (default: %(default)s)",
    )
    parser.add_argument("contenders", nargs="+", metavar="[NAME:] PRESET [FIELD=VALUE ...]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--epochs", type=int, help="of all contenders (default: their presets')")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="for all")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="of the whole command")
    parser.add_argument("--packed", type=Path, metavar="DIR", help="data of without_tfds pack")
    parser.add_argument("--data-dir", type=Path, help="TFDS directory (default: $TFDS_DATA_DIR)")
    parser.add_argument("--resume", action="store_true", help="skip the runs that --out holds")
    return parser


def read_contenders(parsed: argparse.Namespace) -> list[Contender]:
    """Those of a command line.

    Raises:
        RecipeError: one cannot be read, or not be raced.
    """
    common = read_settings(parsed.set)
    if parsed.epochs is not None:
        common["epochs"] = parsed.epochs
    contenders = [read_contender(text, common) for text in parsed.contenders]
    check_contenders(contenders)
    return contenders


def main() -> None:
    """Check everything, run, print the table."""
    started = time.monotonic()
    parsed = make_race_parser().parse_args()
    contenders = read_contenders(parsed)
    splits = load_all(contenders, parsed.packed, parsed.data_dir)
    plans = {
        contender: plan_contender(contender, data)
        for contender, data in zip(contenders, splits, strict=True)
    }
    out: Path = parsed.out
    rows = open_file(out, make_header(splits), resume=parsed.resume)
    rows = race(
        plans, list(dict.fromkeys(parsed.seeds)), rows, Clock(parsed.time_limit, started), out
    )
    print("\n".join(table(plans, rows)))
    print(f"{len(rows)} runs are in {out}; {jax.default_backend()}", flush=True)


if __name__ == "__main__":
    exit_with_status(main, interrupted="each run that ended is a line; continue with --resume")
