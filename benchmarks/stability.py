"""How stable a recipe's validation accuracy is, by the form of the convolutions, and in PyTorch.

  python -m benchmarks.stability                             three seeds, three epochs, CIFAR-10
  python -m benchmarks.stability --only auto xla --seeds 0 --resume      keep the JSON's rows
  python -m benchmarks.stability --set width=8 --epochs 1    a quick look
  python -m benchmarks.stability --every 8 --images 1280 --epochs 2 --seeds 0 --only auto torch \
      --out benchmarks/results/stability_within_epochs_cpu.json      within the epochs, too

All variants of a seed start with the same weights and see the same batches in the same order, so
they differ only in rounding. After each epoch, the same program measures all of them:

* validation loss and accuracy with the running statistics, as a run reports them, and accuracy with
  the statistics of each validation batch of 128 images;
* the largest logit in absolute value;
* the largest ratio between the running variance and the mean variance of the validation batches (or
  its inverse, if that is larger), over all channels of all BatchNorms, and the layer where it is.

"falls" counts the epochs whose validation accuracy is more than 0.1 below that of the epoch before,
"dips" those in which it is more than 0.1 below the accuracy with batch statistics. With `--every`
both count measurements. The JSON is written after every epoch; `--keep FOLDER` keeps the weights
for `benchmarks.conv_error`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import RESULTS, make_parser, new_figure, recipe_step, save, start
from benchmarks.settings import parse_settings, without_paths
from benchmarks.time_to_accuracy import earlier_result, initial_state
from jaxcifar.data import Dataset, Splits
from jaxcifar.models.conv import Lowering
from jaxcifar.models.layers import BATCH_NORM_DECAY
from jaxcifar.models.names import named_leaves
from jaxcifar.models.normalization import EPSILON
from jaxcifar.models.pretrained import export_weights, fill_model
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.step.metrics import compute
from jaxcifar.step.state import TrainState
from jaxcifar.step.steps import make_eval_step
from jaxcifar.training.epoch import Data, EpochPlan, make_draw_order
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.resident import make_evaluation, make_train_epoch

TORCH = "torch"
VARIANTS = ("auto", "patches", "xla", TORCH)
FALL = 0.1
STATISTICS_BATCH = 128
# What a recipe may have otherwise than `scratch`. The variants augment nothing, and PyTorch's has
# Adam, the cross-entropy and BatchNorm's usual decay.
FREE = (
    *("dataset", "train_size", "validation_size", "follow_links", "stratified", "split_seed"),
    *("normalization", "resize", "width", "stem", "epochs", "batch_size", "eval_batch_size"),
    *("learning_rate", "schedule", "t_max", "schedule_unit", "warmup_epochs", "start_scale"),
    *("final_scale", "after_schedule", "restart_epochs", "seed"),
)
COLORS = {"auto": "#1f5fa8", "patches": "#2a8a57", "xla": "#8a5fb0", TORCH: "#c8571b"}
Row = dict[str, Any]
Variables = Mapping[str, Any]
Score = Callable[[Variables], Row]
# For each part of the training: the steps so far, its mean training loss, the variables after it.
Parts = Iterator[tuple[int, float, Variables]]


def train_jax(
    recipe: Recipe, lowering: Lowering, state: TrainState, data: Data, every: int
) -> Parts:
    """The library's epoch with one form for all convolutions, in parts of `every` steps."""
    size = len(data["label"])
    epoch = make_train_epoch(recipe_step(recipe, lowering), size=size, batch_size=recipe.batch_size)
    while int(state.step) < recipe.epochs * recipe.steps_per_epoch:
        left = every

        def allow(count: int) -> int:
            nonlocal left
            count = min(count, left)
            left -= count
            return count

        state, sums = epoch.run(state, data, allow=allow)
        # A copy, because the program of the next part reuses the memory of the state.
        variables = jax.tree.map(jnp.copy, state.variables)
        yield int(state.step), compute(sums)["loss"], variables


def train_torch(recipe: Recipe, state: TrainState, train: Dataset, every: int) -> Parts:
    """The PyTorch twin, with the same initial weights, batches and parts."""
    import torch

    from benchmarks.peers.torch_resnet import ResNet, load_from_flax
    from benchmarks.peers.torch_training import device, memory_format, to_device

    model = ResNet((2, 2, 2, 2), stem=recipe.stem, width=recipe.width)
    load_from_flax(model, jax.device_get(state.variables))
    model = model.to(device(), memory_format=memory_format(True))
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    schedule, steps = recipe.make_schedule(), recipe.steps_per_epoch
    draw_order = make_draw_order(EpochPlan(len(train), recipe.batch_size, None))
    preprocess = jax.jit(recipe.make_preprocess())
    for epoch in range(recipe.epochs):
        order = np.asarray(draw_order(replace(state, step=jnp.int32(epoch * steps))))
        losses = images_seen = 0.0
        for step in range(steps):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            preprocessed = np.asarray(preprocess(train.images[rows]))
            images, labels = to_device(preprocessed, train.labels[rows])
            for group in optimizer.param_groups:
                group["lr"] = float(schedule(epoch * steps + step))
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses, images_seen = losses + loss.item() * len(rows), images_seen + len(rows)
            if (step + 1) % every and step + 1 < steps:
                continue
            tensors = {name: value.numpy(force=True) for name, value in model.state_dict().items()}
            variables, _ = fill_model(recipe.make_model(), tensors, source=TORCH, sha256="")
            yield epoch * steps + step + 1, losses / images_seen, variables
            losses = images_seen = 0.0


def misfit_of(recipe: Recipe) -> str | None:
    """Why the variants cannot train a recipe, or None if they can."""
    plain, values = get_experiment("scratch").recipe.to_dict(), recipe.to_dict()
    for name, usual in plain.items():
        if name not in FREE and values[name] != usual:
            return (
                f"{name} {values[name]}: the variants train without it, so only recipes with "
                f"{name} {usual} can be measured"
            )
    return None


def make_score(recipe: Recipe, validation: Dataset) -> Score:
    """Build the function that measures a network after an epoch, for all variants alike."""
    model, preprocess = recipe.make_model(), recipe.make_preprocess()
    evaluation = make_evaluation(
        make_eval_step(model, normalize=preprocess),
        size=len(validation),
        batch_size=recipe.eval_batch_size,
    )
    data = to_device(validation)

    @jax.jit
    def of_batch(variables: Variables, images: jax.Array, labels: jax.Array) -> tuple[Any, ...]:
        images = preprocess(images)
        largest = jnp.abs(jnp.asarray(model.apply(variables, images, train=False))).max()
        empty = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        own, updated = model.apply(
            {"params": variables["params"], "batch_stats": empty},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        # One update of statistics that are zero leaves a known share of the batch's statistics.
        statistics = jax.tree.map(lambda x: x / (1 - BATCH_NORM_DECAY), updated["batch_stats"])
        return largest, jnp.sum(own.argmax(-1) == labels), statistics

    def score(variables: Variables) -> Row:
        measured = compute(evaluation.run(variables, data))
        batches = [
            of_batch(variables, *(data[name][i : i + STATISTICS_BATCH] for name in data))
            for i in range(0, len(validation) - STATISTICS_BATCH + 1, STATISTICS_BATCH)
        ]
        scored = STATISTICS_BATCH * len(batches)
        mean = jax.tree.map(lambda *x: np.mean(x, 0), *(batch[2] for batch in batches))
        ratio, layer = largest_ratio(variables["batch_stats"], mean)
        return {
            "validation_loss": round(measured["loss"], 4),
            "validation_accuracy": round(measured["accuracy"], 4),
            "accuracy_by_batch_statistics": round(int(sum(b[1] for b in batches)) / scored, 4),
            "largest_logit": round(float(max(b[0] for b in batches)), 1),
            "largest_variance_ratio": round(ratio, 2),
            "in_layer": layer,
        }

    return score


def largest_ratio(running: Any, batch: Any) -> tuple[float, str]:
    """The largest ratio between two trees of BatchNorm statistics, in either direction.

    Returns:
        The ratio of the variances, each with BatchNorm's epsilon added, and the name of its layer.
    """
    of_batch = named_leaves(batch)
    ratios: dict[str, float] = {}
    for name, variance in named_leaves(running).items():
        if name.endswith(".var"):
            ratio = np.asarray(variance) + EPSILON
            ratio = ratio / (of_batch[name] + EPSILON)
            ratios[name.removesuffix(".var")] = float(np.max(np.maximum(ratio, 1 / ratio)))
    layer = max(ratios, key=lambda name: ratios[name])
    return ratios[layer], layer


def summarize(rows: Sequence[Row]) -> dict[str, Row]:
    """For each variant the falls, lowest and last accuracies, and the extremes of its rows."""
    summaries = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        curves = _curves(rows, variant)
        own = [row for row in rows if row["variant"] == variant]
        accuracies = [row["validation_accuracy"] for row in own]
        pairs = [pair for curve in curves.values() for pair in pairwise(curve)]
        summaries[variant] = {
            "seeds": len(curves),
            "measurements": len(own),
            "falls": sum(before - after > FALL for before, after in pairs),
            "dips": sum(
                row["accuracy_by_batch_statistics"] - row["validation_accuracy"] > FALL
                for row in own
            ),
            "lowest_accuracy_after_the_first_epoch": min(
                (after for _, after in pairs), default=accuracies[-1]
            ),
            "last_accuracies": {str(seed): curve[-1] for seed, curve in curves.items()},
            "last_train_losses": {
                str(row["seed"]): row["train_loss"]
                for row in own
                if row["epoch"] == max(r["epoch"] for r in own if r["seed"] == row["seed"])
            },
            "largest_gap_to_batch_statistics": round(
                max(
                    row["accuracy_by_batch_statistics"] - row["validation_accuracy"] for row in own
                ),
                4,
            ),
            "largest_variance_ratio": max(row["largest_variance_ratio"] for row in own),
            "largest_logit": max(row["largest_logit"] for row in own),
        }
    return summaries


def _curves(rows: Sequence[Row], variant: str) -> dict[int, list[float]]:
    """The validation accuracy of each epoch, for each seed."""
    curves: dict[int, list[float]] = {}
    for row in rows:
        if row["variant"] == variant:
            curves.setdefault(row["seed"], []).append(row["validation_accuracy"])
    return curves


def draw(rows: Sequence[Row]) -> Figure:
    """Validation accuracy by epoch: lines with running statistics, dots with batch statistics."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    last = max(row["epoch"] for row in rows)
    figure, panels = new_figure(len(variants), 3.6)
    for axes, variant in zip(panels, variants, strict=True):
        color = COLORS.get(variant, "#444444")
        own = [row for row in rows if row["variant"] == variant]
        for seed, curve in _curves(rows, variant).items():
            epochs = [row["epoch"] for row in own if row["seed"] == seed]
            axes.plot(epochs, curve, color=color, lw=1.4)
        axes.plot(
            [row["epoch"] for row in own],
            [row["accuracy_by_batch_statistics"] for row in own],
            "o",
            color=color,
            alpha=0.4,
            markersize=5,
        )
        axes.set_title(variant, fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_xticks(range(1, int(last) + 1))
        axes.set_xlim(min(0.9, *(row["epoch"] for row in rows)), last + 0.1)
        axes.set_ylim(0, 0.8)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("validation accuracy (fraction)\nlines: running, dots: batch statistics")
    return figure


def measure(
    recipe: Recipe,
    variant: str,
    seed: int,
    splits: Splits,
    score: Score,
    *,
    every: int | None = None,
    keep: Path | None = None,
) -> Iterator[Row]:
    """A row for each epoch of a variant and seed, or for each `every` steps of it."""
    state, steps = initial_state(recipe, seed, splits), recipe.steps_per_epoch
    if variant == TORCH:
        assert isinstance(splits.train, Dataset)
        parts = train_torch(recipe, state, splits.train, every or steps)
    else:
        data = to_device(splits.train)
        parts = train_jax(recipe, variant, state, data, every or steps)  # type: ignore[arg-type]
    for step, loss, variables in parts:
        number = step // steps if step % steps == 0 else round(step / steps, 4)
        row = {"variant": variant, "seed": seed, "epoch": number, "train_loss": round(loss, 4)}
        yield row | score(variables)
        if keep is not None and step % steps == 0:
            keep.mkdir(parents=True, exist_ok=True)
            export_weights(
                variables, keep / f"{variant}_{seed}_{number}.safetensors", overwrite=True
            )


def main() -> None:
    """Train, score, save."""
    parser = make_parser(__doc__, repeats=None, result="stability_EXPERIMENT")
    parser.add_argument("experiment", nargs="?", default="scratch", help="default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=["auto", "patches", TORCH], metavar="VARIANT"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="recipe fields")
    parser.add_argument("--epochs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--every", type=int, metavar="STEPS", help="measure every STEPS steps, not only every epoch"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="measure on the first N validation images"
    )
    parser.add_argument("--data-dir", type=Path, help="TFDS directory (default: $TFDS_DATA_DIR)")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="write the weights of each epoch there"
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows that the JSON holds")
    parsed = start(parser)
    changes = parse_settings(parsed.set) | {"epochs": parsed.epochs}
    recipe = replace(get_experiment(parsed.experiment).recipe, **changes)
    if problem := misfit_of(recipe):
        parser.error(problem)
    values = {name: value for name, value in recipe.to_dict().items() if name != "seed"}
    settings = {"experiment": parsed.experiment, "recipe": without_paths(values)}
    settings |= {k: v for k in ("every", "images") if (v := getattr(parsed, k)) is not None}
    name = f"stability_{parsed.experiment}"
    out = parsed.out or RESULTS / f"{name}_{jax.default_backend()}.json"
    rows = earlier_result(out, settings).get("rows", []) if parsed.resume else []
    complete = {(r["variant"], r["seed"]) for r in rows if r["epoch"] == parsed.epochs}
    rows = [row for row in rows if (row["variant"], row["seed"]) in complete]
    splits = load_splits(recipe, parsed.data_dir)
    images = parsed.images or len(splits.validation)
    score = make_score(recipe, splits.validation.read(np.arange(images)))
    for variant in parsed.only:
        for seed in parsed.seeds:
            if (variant, seed) in complete:
                continue
            for row in measure(
                recipe, variant, seed, splits, score, every=parsed.every, keep=parsed.keep
            ):
                rows.append(row)
                print(json.dumps(row), flush=True)
                result = {"settings": settings, "summary": summarize(rows), "rows": rows}
                save(name, result, out=out, figure=draw(rows))


if __name__ == "__main__":
    main()
