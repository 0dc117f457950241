"""How long training takes to reach an accuracy on the test images, over several seeds.

  python -m benchmarks.time_to_accuracy                       the preset "speedrun", five seeds
  python -m benchmarks.time_to_accuracy scratch --set width=16 epochs=8 --seeds 0 1
  python -m benchmarks.time_to_accuracy --resume              keep the seeds that the JSON holds

Uses the recipe's own step, epoch and data, and one program for all seeds. Compiling and scoring are
not timed. After every epoch the test images are scored twice: unchanged, and with the logits
averaged over image and mirror image. (`benchmarks.race` scores at the end, plain and with the
recipe's own views.) FLOPs are those of the algorithm (`harness.algorithm_flops`), without
augmentation. The JSON is written after every seed.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from benchmarks.harness import (
    BAR_COLOR,
    IDEAL_COLOR,
    RESULTS,
    algorithm_flops,
    describe,
    make_parser,
    new_figure,
    save,
    start,
    timed,
)
from benchmarks.programs import compiled_anew
from benchmarks.settings import parse_settings, without_paths
from benchmarks.without_tfds import read_packed
from jaxcifar.data import Splits
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.recipes.stage import make_stage, stage_epochs
from jaxcifar.step.metrics import compute
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import make_eval_step
from jaxcifar.training.epoch import Data
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.resident import TrainEpoch, make_evaluation
from jaxcifar.training.stage import resident_epoch
from jaxcifar.training.start import first_state

SCORES = ("accuracy", "accuracy_mirrored")
Score = Callable[[TrainState], dict[str, float]]


def initial_state(recipe: Recipe, seed: int, splits: Splits) -> TrainState:
    """The state with which `fit` starts."""
    return first_state(replace(recipe, seed=seed), splits)


def make_score(recipe: Recipe, data: Data) -> Score:
    """Build the function that scores all images, without and with mirror averaging."""
    evaluations = {
        name: make_evaluation(
            make_eval_step(recipe.make_model(1), normalize=recipe.make_preprocess(), mirror=mirror),
            size=len(data["label"]),
            batch_size=recipe.eval_batch_size,
        )
        for name, mirror in zip(SCORES, (False, True), strict=True)
    }

    def score(state: TrainState) -> dict[str, float]:
        return {
            name: compute(evaluation.run(state.variables, data))["accuracy"]
            for name, evaluation in evaluations.items()
        }

    return score


def epoch_flops(recipe: Recipe, data: Data) -> float:
    """FLOPs of an epoch's steps; the last batch may be smaller."""

    def of_batch(n: int) -> float:
        return algorithm_flops(recipe, {name: values[:n] for name, values in data.items()})

    whole, rest = divmod(len(data["label"]), recipe.batch_size)
    return whole * of_batch(recipe.batch_size) + (of_batch(rest) if rest else 0)


def train(
    recipe: Recipe,
    seed: int,
    state: TrainState,
    epoch: TrainEpoch,
    data: Data,
    score: Score,
    *,
    score_every: int = 1,
) -> list[dict[str, Any]]:
    """Train a seed: a row for each epoch, with scores in every `score_every`-th.

    "seconds" counts the training time from the first step on.
    """
    seconds = 0.0
    rows = []
    for number in range(1, recipe.epochs + 1):
        (state, sums), taken = timed(lambda state=state: epoch.run(state, data))  # type: ignore[misc]
        if int(state.step) != number * recipe.steps_per_epoch:
            raise FloatingPointError(
                f"seed {seed}: the numbers are not finite after step {int(state.step)}"
            )
        seconds += taken
        row = {
            "epoch": number,
            "seconds": round(seconds, 4),
            "train_loss": round(compute(sums)["loss"], 5),
            **(score(state) if number % score_every == 0 else {}),
        }
        rows.append(row)
        print(
            f"seed {seed}:", ", ".join(f"{name} {value}" for name, value in row.items()), flush=True
        )
    return rows


def summarize(
    seeds: dict[str, list[dict[str, Any]]], targets: Sequence[float], flops: float
) -> dict[str, Any]:
    """Mean and standard deviation at the end, and when the mean first reaches each target.

    Args:
        seeds: the rows of each seed.
        targets: accuracies.
        flops: of one epoch.
    """
    summary: dict[str, Any] = {}
    for score in SCORES:
        means = mean_curve(seeds, score)
        last = [rows[-1][score] for rows in seeds.values()]
        summary[score] = {
            "final_mean": round(statistics.mean(last), 5),
            "final_std": round(statistics.stdev(last), 5) if len(last) > 1 else None,
            "reached": {},
        }
        for target in targets:
            epoch = next((i for i, (_, mean) in enumerate(means, 1) if mean >= target), None)
            summary[score]["reached"][str(target)] = epoch and {
                "epoch": epoch,
                "seconds": round(means[epoch - 1][0], 3),
                "flops": epoch * flops,
            }
    return summary


def mean_curve(seeds: dict[str, list[dict[str, Any]]], score: str) -> list[tuple[float, float]]:
    """(seconds, accuracy) after each epoch, means over the seeds."""
    return [
        (statistics.mean(r["seconds"] for r in rows), statistics.mean(r[score] for r in rows))
        for rows in zip(*seeds.values(), strict=True)
    ]


def draw(seeds: dict[str, list[dict[str, Any]]], targets: Sequence[float]) -> Figure:
    """Accuracy against seconds: a thin line per seed, a thick one for the mean, dashed targets."""
    figure, panels = new_figure(len(SCORES), 3.8)
    for axes, score in zip(panels, SCORES, strict=True):
        for rows in seeds.values():
            axes.plot(
                [r["seconds"] for r in rows], [r[score] for r in rows], color=BAR_COLOR, lw=0.6
            )
        axes.plot(*zip(*mean_curve(seeds, score), strict=True), color=BAR_COLOR, lw=2.4, marker="o")
        for target in targets:
            axes.axhline(target, color=IDEAL_COLOR, linestyle="--", lw=0.8)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel(f"test {score.replace('_', ', ')} (fraction)")
        axes.set_title(f"{len(seeds)} seeds and their mean", fontsize=9)
        axes.grid(alpha=0.3)
    return figure


def settings_of(experiment: str, recipe: Recipe) -> dict[str, Any]:
    """The settings that must be equal for a seed to be reused."""
    values = {name: value for name, value in recipe.to_dict().items() if name != "seed"}
    return {"experiment": experiment, "recipe": without_paths(values)}


def earlier_result(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The result in `path`, or an empty one if there is no such file.

    Raises:
        SystemExit: it has other settings or comes from another machine.
    """
    if not path.is_file():
        return {}
    result = json.loads(path.read_text())
    if result["settings"] != settings or result["machine"] != describe():
        raise SystemExit(
            f"{path} has other settings or comes from another machine; choose another --out"
        )
    return result


def check(recipe: Recipe) -> None:
    """Refuse a recipe that needs more than one program, or trains on features."""
    if recipe.cache_features or stage_epochs(recipe, 1)[1] != recipe.epochs:
        raise SystemExit(
            "this benchmark takes only recipes of one program: without cached features, thawing "
            "layers and several sides of train_resize"
        )


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=None, result="time_to_accuracy_EXPERIMENT")
    parser.add_argument("experiment", nargs="?", default="speedrun", help="default: %(default)s")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="recipe fields")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--target", type=float, nargs="+", default=[0.94, 0.95, 0.96])
    parser.add_argument("--packed", type=Path, metavar="DIR", help="data of without_tfds pack")
    parser.add_argument("--data-dir", type=Path, help="TFDS directory (default: $TFDS_DATA_DIR)")
    parser.add_argument("--resume", action="store_true", help="keep the seeds that the JSON holds")
    parsed = start(parser)
    recipe = replace(get_experiment(parsed.experiment).recipe, **parse_settings(parsed.set))
    check(recipe)
    name, settings = f"time_to_accuracy_{parsed.experiment}", settings_of(parsed.experiment, recipe)
    out = parsed.out or RESULTS / f"{name}_{jax.default_backend()}.json"
    earlier = earlier_result(out, settings) if parsed.resume else {}
    seeds = earlier.get("seeds", {})
    remaining = [seed for seed in parsed.seeds if str(seed) not in seeds]

    packed: Path | None = parsed.packed
    splits = read_packed(packed, recipe) if packed else load_splits(recipe, parsed.data_dir)
    data, test = to_device(splits.train), to_device(splits.test)
    epoch, score = resident_epoch(make_stage(recipe), len(splits.train)), make_score(recipe, test)
    flops = epoch_flops(recipe, data)
    compile_seconds = earlier.get("compile_seconds", 0.0)
    if remaining:
        state = initial_state(recipe, remaining[0], splits)
        state, compile_seconds = compiled_anew(lambda: epoch.compile(state, data))
        print(f"compiled in {compile_seconds:.1f} s; an epoch is {flops:.4g} FLOPs", flush=True)
        score(state)
    for seed in remaining:
        seeds[str(seed)] = train(
            recipe, seed, initial_state(recipe, seed, splits), epoch, data, score
        )
        result = {
            "settings": settings,
            "compile_seconds": round(compile_seconds, 2),
            "epoch_flops": flops,
            "training_flops": recipe.epochs * flops,
            "steps": recipe.epochs * recipe.steps_per_epoch,
            "training_seconds_mean": mean_curve(seeds, SCORES[0])[-1][0],
            "test": summarize(seeds, parsed.target, flops),
            "seeds": seeds,
        }
        save(name, result, out=out, figure=draw(seeds, parsed.target))
    for score_name, summary in summarize(seeds, parsed.target, flops).items():
        print(f"{score_name}: {json.dumps(summary)}")


if __name__ == "__main__":
    main()
