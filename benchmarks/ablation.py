"""What each ingredient of fast training is worth: a recipe with one ingredient changed at a time.

  python -m benchmarks.ablation                       every variant once: minutes each on a CPU
  python -m benchmarks.ablation --seeds 0 1 2 --resume       keep the runs that the JSON holds
  python -m benchmarks.ablation --only plain reference --set width=64 resize=32 dtype=bfloat16

The reference is the preset "speedrun" as it was at first, with SGD. It trains on all of CIFAR-10,
by default at a fraction of the size: width 8 instead of 64, images of 16x16 instead of 32x32
(shifts and cutouts halved too), 8 epochs, float32. The JSON is written after every run.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from benchmarks.harness import BAR_COLOR, RESULTS, make_parser, new_figure, save, start
from benchmarks.settings import parse_settings, without_paths
from benchmarks.time_to_accuracy import (
    SCORES,
    check,
    earlier_result,
    initial_state,
    make_score,
    train,
)
from jaxcifar.data import Splits
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.recipes.stage import make_stage
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.stage import resident_epoch

PRESET, BASE = "speedrun", "reference"
# The preset's settings when the variants were measured, and SGD.
REFERENCE: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.3,
    "momentum": 0.9,
    "bias_scale": 4.0,
    "freeze": "none",
    "batch_norm_decay": 0.9,
    "translate_fill": "zero",
    "test_shift_pixels": 0,
}
FRACTION: dict[str, Any] = {"width": 8, "resize": 16, "dtype": "float32", "translate_pixels": 1}
PLAIN: dict[str, Any] = {
    "learning_rate": 0.2,
    "init": "kaiming",
    "whiten": False,
    "bias_scale": 1.0,
    "lookahead_steps": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "plain": PLAIN,
    "plain, no smoothing, cutout": PLAIN
    | {"label_smoothing": 0.0, "translate_pixels": 2, "cutout_pixels": 6},
    "no whitening": {"whiten": False},
    "no identities": {"init": "kaiming"},
    "bias scale 1": {"bias_scale": 1.0},
    "bias scale 16": {"bias_scale": 16.0},
    "bias scale 64": {"bias_scale": 64.0},
    "no lookahead": {"lookahead_steps": None},
    "learning rate 0.6": {"learning_rate": 0.6},
    "learning rate 1": {"learning_rate": 1.0},
    "muon, rate 0.1": {"optimizer": "muon", "learning_rate": 0.1},
    "muon, rate 0.3": {"optimizer": "muon"},
}
Row = dict[str, Any]  # "variant", "seed", "train_losses" by epoch and the `SCORES`


def variant_recipe(name: str, epochs: int, settings: Mapping[str, Any]) -> Recipe:
    """The reference at a fraction of its size, then `settings`, then those of the variant."""
    recipe = get_experiment(PRESET).recipe
    share = recipe.warmup_epochs / recipe.epochs
    length: dict[str, Any] = {
        "epochs": epochs,
        "validate_every": epochs,
        "warmup_epochs": share * epochs,
    }
    return replace(recipe, **(FRACTION | REFERENCE | length | dict(settings) | VARIANTS[name]))


def train_variant(name: str, recipe: Recipe, seeds: Sequence[int], splits: Splits) -> Iterator[Row]:
    """A row for each seed, scored after its last epoch."""
    data, score = to_device(splits.train), make_score(recipe, to_device(splits.test))
    epoch = resident_epoch(make_stage(recipe), len(splits.train))
    for seed in seeds:
        state = initial_state(recipe, seed, splits)
        epochs = train(recipe, seed, state, epoch, data, score, score_every=recipe.epochs)
        losses = [round(row["train_loss"], 3) for row in epochs]
        scores = {which: epochs[-1][which] for which in SCORES}
        yield {"variant": name, "seed": seed, **scores, "train_losses": losses}


def summarize(rows: Sequence[Row]) -> dict[str, Row]:
    """For each variant the number of seeds, mean accuracies and the difference to the reference."""
    summaries = {}
    for name in VARIANTS:
        own = [row for row in rows if row["variant"] == name]
        if own:
            means = {score: round(statistics.mean(r[score] for r in own), 4) for score in SCORES}
            summaries[name] = {"seeds": len(own), **means}
    if BASE in summaries:
        for summary in summaries.values():
            summary["difference"] = round(summary[SCORES[0]] - summaries[BASE][SCORES[0]], 4)
    return summaries


def draw(summary: Mapping[str, Row]) -> Figure:
    """Mean test accuracies as bars."""
    figure, (axes,) = new_figure(1, 0.4 * len(summary) + 1)
    values = [row[SCORES[0]] for row in summary.values()]
    axes.barh(list(summary), values, color=BAR_COLOR)
    for i, row in enumerate(summary.values()):
        difference = f" ({row['difference']:+.3f})" if "difference" in row else ""
        axes.text(values[i], i, f"  {values[i]:.3f}{difference}", va="center")
    axes.set_xlim(min(values) - 0.05, max(values) + 0.05)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"test accuracy (fraction) and difference to {BASE}; the axis does not start at 0"
    )
    return figure


def settings_of(epochs: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be equal for a row to be reused."""
    return {
        "preset": PRESET,
        "epochs": epochs,
        **without_paths(FRACTION | REFERENCE | dict(settings)),
    }


def main() -> None:
    """Train, score, save."""
    parser = make_parser(__doc__, repeats=None, result="ablation")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="recipe fields")
    parser.add_argument("--epochs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--data-dir", type=Path, help="TFDS directory (default: $TFDS_DATA_DIR)")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the JSON holds")
    parsed = start(parser)
    changes = parse_settings(parsed.set)
    settings = settings_of(parsed.epochs, changes)
    recipes = {name: variant_recipe(name, parsed.epochs, changes) for name in parsed.only}
    out = parsed.out or RESULTS / f"ablation_{jax.default_backend()}.json"
    rows = earlier_result(out, settings).get("rows", []) if parsed.resume else []
    done = {(row["variant"], row["seed"]) for row in rows}
    for recipe in recipes.values():
        check(recipe)
    splits = load_splits(recipes[parsed.only[0]], parsed.data_dir)
    for name, recipe in recipes.items():
        left = [seed for seed in parsed.seeds if (name, seed) not in done]
        for row in train_variant(name, recipe, left, splits):
            rows.append(row)
            print(json.dumps(row), flush=True)
            record(rows, settings, out)


def record(rows: Sequence[Row], settings: Mapping[str, Any], out: Path) -> None:
    """Save the rows, their summary and its figure."""
    summary = summarize(rows)
    result = {"settings": settings, "summary": summary, "rows": rows}
    save("ablation", result, out=out, figure=draw(summary))


if __name__ == "__main__":
    main()
