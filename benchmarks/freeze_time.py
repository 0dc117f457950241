"""What freezing saves: FLOPs and time of a training step, with and without cached features.

  python -m benchmarks.freeze_time                 ResNet-18 at 32x32, batch 128, float32, Adam

Every variant is the shipped step of a preset with clipping and the gradient's norm switched on
(both read every gradient there is, which is where freezing by the optimizer alone loses its
savings), on the same random images, already on the device. A cached variant's step takes features
in their place; the pass that makes them is timed once, apart. What is timed is the shipped epoch
over ten batches: on one batch repeated XLA would take the frozen front out of the loop.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import compare, interleave, save, show
from jaxcifar.epoch import make_train_epoch
from jaxcifar.experiments import get_experiment
from jaxcifar.features import cache_features, cut_point
from jaxcifar.partition import count_params, split_params
from jaxcifar.state import init_state
from jaxcifar.steps import make_train_step

# (preset, on cached features)
VARIANTS = (
    ("finetune", False),
    ("freeze_a", False),
    ("freeze_b", False),
    ("freeze_a_bn_frozen", True),
    ("freeze_b_bn_frozen", True),
)
STEPS = 10  # in one timed program: a step on cached features is too short to time alone


def variant(
    preset: str, data: dict[str, Any], batch_size: int, *, cached: bool
) -> tuple[Callable[[], None], dict[str, Any]]:
    """An epoch of `STEPS` steps, and what is known of it without running."""
    recipe = dataclasses.replace(get_experiment(preset).recipe, clip_norm=1.0)
    model, tx, labels = recipe.make_model(1), recipe.make_optimizer(), recipe.make_labels(1)
    normalize = recipe.make_preprocess()
    cut = cut_point(model, labels) if cached else None
    step = make_train_step(
        model, tx, normalize=normalize, labels=labels, start=cut, log_gradient_norm=True
    )
    state = init_state(model, tx, seed=0, image_size=recipe.image_size)
    trainable, _ = split_params(state.params, labels)
    facts: dict[str, Any] = {
        "trainable_parameters": count_params(trainable),
        "trainable_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(trainable)),
        "optimizer_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)),
    }
    if cut is not None:
        begun = time.perf_counter()
        data = dict(cache_features(model, state.variables, data, cut, normalize=normalize))
        facts["features_after"] = cut
        facts["caching_seconds_with_compiling"] = round(time.perf_counter() - begun, 3)
    batch = {name: values[:batch_size] for name, values in data.items()}
    analysis = jax.jit(step).lower(state, batch).compile().cost_analysis()
    assert analysis is not None
    facts["step_flops"] = analysis["flops"]
    begun = time.perf_counter()
    epoch = make_train_epoch(step, size=STEPS * batch_size, batch_size=batch_size)
    holder = [epoch.compile(state, data)]
    facts["compile_seconds"] = round(time.perf_counter() - begun, 1)

    def run() -> None:
        holder[0], _ = jax.block_until_ready(epoch.run(holder[0], data))

    return run, facts


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/freeze_time_....json")
    parsed = parser.parse_args()
    rng = np.random.default_rng(0)
    n = parsed.batch_size
    data = {
        "image": jnp.asarray(rng.integers(0, 256, (STEPS * n, 32, 32, 3), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, STEPS * n, dtype=np.int32)),
    }
    variants, facts = {}, {}
    for preset, cached in VARIANTS:
        name = f"{preset}, cached" if cached else preset
        variants[name], facts[name] = variant(preset, data, n, cached=cached)
        print(f"{name}: {facts[name]}", flush=True)
    ratios = {f"{name} / finetune": (name, "finetune") for name in variants if name != "finetune"}
    timed = compare(interleave(variants, repeats=parsed.repeats, warmup=1), ratios)
    show(f"{STEPS} training steps, batch {n}, float32", timed)
    flops = {
        n: round(f["step_flops"] / facts["finetune"]["step_flops"], 4) for n, f in facts.items()
    }
    print("FLOPs of a step / finetune's:", flops)
    save(
        "freeze_time",
        {
            "settings": {"batch_size": n, "dtype": "float32", "steps": STEPS, "clip_norm": 1.0},
            "variants": facts,
            "flops_ratio": flops,
            "steps": timed,
        },
        out=parsed.out,
    )


if __name__ == "__main__":
    main()
