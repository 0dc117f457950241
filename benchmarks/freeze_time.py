"""What freezing saves: FLOPs, time and memory of training, and whether the time follows the FLOPs.

  python -m benchmarks.freeze_time                 ResNet-18 at 32x32, batch 128, float32, Adam
  python -m benchmarks.freeze_time --images 6400

Every variant is the library's epoch with a preset, over --images random images on the device.
Clipping and the gradient norm are switched on: both read every gradient, so freezing only in the
optimizer would save little. The statistics of a frozen BatchNorm follow the batch ("bn batch") or
are frozen too ("bn frozen"). A "cached" variant trains on features instead of images; the pass that
computes them is timed once, separately. With a cached head an epoch takes milliseconds, and its
fixed cost would count too much. So there an epoch has ten times the steps, still fewer than in a
run. FLOPs are those of the algorithm (`harness.algorithm_flops`). "Off by" is the ratio of times
to "finetune" over the ratio of FLOPs: 1 if the time falls as much as the FLOPs.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.failures import try_variant
from benchmarks.harness import (
    Variant,
    add_network_options,
    algorithm_flops,
    compare,
    epoch_variant,
    make_parser,
    memory_of,
    new_state,
    random_data,
    save,
    seconds_per_step,
    show,
    start,
    timed,
)
from jaxcifar.models.names import count_params
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step.freeze import split_params
from jaxcifar.training.features import cache_features, cut_point
from jaxcifar.training.resident import make_train_epoch

BASE = "finetune"
HEAD_EPOCHS = 10  # joined into one, for a head on cached features
# Name -> (preset, whether on cached features)
VARIANTS = {
    BASE: ("finetune", False),
    "freeze_a, bn batch": ("freeze_a", False),
    "freeze_a, bn frozen": ("freeze_a_bn_frozen", False),
    "freeze_a, bn frozen, cached": ("freeze_a_bn_frozen", True),
    "freeze_b, bn batch": ("freeze_b", False),
    "freeze_b, bn frozen": ("freeze_b_bn_frozen", False),
    "freeze_b, bn frozen, cached": ("freeze_b_bn_frozen", True),
}


def variant(
    preset: str, cached: bool, data: dict[str, Any], parsed: argparse.Namespace
) -> tuple[Variant, dict[str, Any]]:
    """The epoch, and its figures that need no timing."""
    recipe = replace(
        get_experiment(preset).recipe,
        clip_norm=1.0,
        log_gradient_norm=True,
        stem=parsed.stem,
        width=parsed.width,
        batch_size=parsed.batch_size,
    )
    model, labels = recipe.make_model(1), recipe.make_labels(1)
    cut = cut_point(model, labels) if cached else None
    state = new_state(recipe, parsed.image_size)
    trainable, _ = split_params(state.params, labels)
    facts: dict[str, Any] = {
        "trainable_parameters": count_params(trainable),
        "trainable_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(trainable)),
        "optimizer_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)),
    }
    if cut is not None:
        normalize = recipe.make_preprocess()
        features, seconds = timed(
            lambda: cache_features(model, state.variables, data, cut, normalize=normalize)
        )
        data = dict(features)
        facts |= {"features_after": cut, "caching_seconds_with_compiling": round(seconds, 3)}
    step = make_stage(recipe).make_train_step(cut)
    sizes = {"size": parsed.images, "batch_size": parsed.batch_size}
    facts["memory"] = memory_of(make_train_epoch(step, **sizes).lower(state, data))
    if cut == "avgpool":
        data = {name: jnp.concatenate([values] * HEAD_EPOCHS) for name, values in data.items()}
        sizes["size"] *= HEAD_EPOCHS
    epoch = epoch_variant(step, state, data, **sizes)
    batch = {name: values[: parsed.batch_size] for name, values in data.items()}
    facts["step_flops"] = algorithm_flops(recipe, batch, cut)
    facts["compile_seconds"] = round(epoch.compile_seconds, 1)
    return epoch, facts


def against_base(compared: dict[str, Any], facts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each variant the ratios to "finetune", and the ratio of time over the ratio of FLOPs."""
    ratios = {}
    for name, row in compared["results"].items():
        flops = facts[name]["step_flops"] / facts[BASE]["step_flops"]
        seconds = row["median_ms"] / compared["results"][BASE]["median_ms"]
        ratios[name] = {
            "step_ms": row["median_ms"],
            "flops": round(flops, 4),
            "time": round(seconds, 4),
            "off_by": round(seconds / flops, 3),
            "memory": round(facts[name]["memory"] / facts[BASE]["memory"], 3),
            "optimizer": round(facts[name]["optimizer_bytes"] / facts[BASE]["optimizer_bytes"], 3),
        }
    return ratios


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=9, result="freeze_time")
    add_network_options(parser)
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--images", type=int, help="in an epoch (default: ten batches)")
    parsed = start(parser)
    parsed.images = parsed.images or 10 * parsed.batch_size
    data = random_data(parsed.images, parsed.image_size)
    epochs: dict[str, Variant] = {}
    facts: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}

    def keep(*, complete: bool = False, **results: Any) -> None:
        result = {"settings": settings_of(parsed), "variants": facts, "left_out": left_out}
        save("freeze_time", result | results, out=parsed.out, complete=complete)

    for name, (preset, cached) in VARIANTS.items():
        built = try_variant(name, partial(variant, preset, cached, data, parsed), left_out)
        if built is None:
            continue
        epochs[name], facts[name] = built
        facts[name]["steps"] = epochs[name].steps
        print(f"{name}: {facts[name]}", flush=True)
        keep()
    ratios = {f"{name} / {BASE}": (name, BASE) for name in epochs if name != BASE}
    seconds = seconds_per_step(
        epochs,
        repeats=parsed.repeats,
        left_out=left_out,
        keep=lambda seconds: keep(steps=compare(seconds, ratios)),
    )
    compared = compare(seconds, ratios)
    if BASE not in seconds:
        keep(steps=compared)
        raise SystemExit(f"{BASE} was left out ({left_out[BASE]}); nothing can be compared with it")
    show(f"a step of an epoch as one program, batch {parsed.batch_size}, float32", compared)
    against = against_base(compared, facts)
    print(f"  {'ratio to finetune':<32}" + "".join(f"{key:>11}" for key in against[BASE]))
    for name, row in against.items():
        print(f"  {name:<32}" + "".join(f"{value:>11.4g}" for value in row.values()), flush=True)
    keep(complete=True, against_finetune=against, steps=compared)


def settings_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """The settings in the JSON file."""
    names = ("stem", "width", "image_size", "batch_size", "images")
    settings = {name: getattr(parsed, name) for name in names}
    return settings | {"dtype": "float32", "clip_norm": 1.0}


if __name__ == "__main__":
    main()
