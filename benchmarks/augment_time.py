"""What augmentation costs: the time of an epoch with it over the time of the same epoch without.

  python -m benchmarks.augment_time                ResNet-18 at 32x32, batch 128, float32, Adam
  python -m benchmarks.augment_time --side 64      resized to 64x64

The library's epoch runs over ten batches of random images on the device, without augmentation and
with several combinations of it. On a noisy machine the difference of two epochs is lost in the
noise, so each combination is also timed without training, on ten batches in one program. With a
side other than 32, every variant resizes its images.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.failures import try_variant
from benchmarks.harness import (
    Variant,
    compare,
    epoch_variant,
    interleave,
    make_parser,
    new_state,
    random_data,
    save,
    scratch_recipe,
    show,
    start,
)
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage

STEPS = 10  # in one timed program
TURN = {"flip_rate": 0.4, "rotate_degrees": 30.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "flip": {"flip_rate": 0.4},
    "mini: flip, rotate (nearest)": TURN,
    "flip, rotate (bilinear)": TURN | {"interpolation": "bilinear"},
    "flip, translate, cutout": {"flip_rate": 0.5, "translate_pixels": 4, "cutout_pixels": 12},
    "all (bilinear)": TURN
    | {"interpolation": "bilinear", "translate_pixels": 4, "cutout_pixels": 12},
}


def variant(recipe: Recipe, data: dict[str, jax.Array]) -> Variant:
    """An epoch of `STEPS` steps."""
    stage = make_stage(recipe)
    size, batch_size = STEPS * recipe.batch_size, recipe.batch_size
    return epoch_variant(
        stage.make_train_step(),
        new_state(recipe),
        data,
        size=size,
        batch_size=batch_size,
        augment=stage.augment,
    )


def augmentation_only(recipe: Recipe, data: dict[str, jax.Array]) -> Callable[[], None]:
    """The augmentation of `STEPS` batches, without training."""
    augment, n = recipe.make_augment(), recipe.batch_size
    assert augment is not None

    @jax.jit
    def program(images: jax.Array, key: jax.Array) -> jax.Array:
        def body(i: jax.Array, total: jax.Array) -> jax.Array:
            batch = jax.lax.dynamic_slice_in_dim(images, i * n, n)
            keys = jax.random.split(jax.random.fold_in(key, i), n)
            return total + augment(keys, batch).astype(jnp.float32)  # or XLA would skip the work

        total = jnp.zeros((n, recipe.image_size, recipe.image_size, 3), jnp.float32)
        return jax.lax.fori_loop(0, STEPS, body, total)

    key = jax.random.key(0)

    def run() -> None:
        jax.block_until_ready(program(data["image"], key))

    return run


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=9, result="augment_time_SIDE")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=32, help="pixels (default: %(default)s)")
    parsed = start(parser)
    n = parsed.batch_size
    base = scratch_recipe(batch_size=n, resize=None if parsed.side == 32 else parsed.side)
    data = random_data(STEPS * n, 32)
    runs, compile_seconds = {}, {}
    left_out: dict[str, str] = {}
    for name, settings in VARIANTS.items():
        recipe = dataclasses.replace(base, **settings)
        epoch = try_variant(name, partial(variant, recipe, data), left_out)
        if epoch is None:
            continue
        runs[name], compile_seconds[name] = epoch.run, epoch.compile_seconds
        print(f"compiled {name} in {compile_seconds[name]:.1f} s", flush=True)
    augmented = [name for name in VARIANTS if name != "none"]
    for name in augmented:
        recipe = dataclasses.replace(base, **VARIANTS[name])
        runs[f"only {name}"] = augmentation_only(recipe, data)
    ratios = {f"{name} / none": (name, "none") for name in runs if name != "none"}
    about = {
        "settings": {"batch_size": n, "side": parsed.side, "dtype": "float32", "steps": STEPS},
        "variants": VARIANTS,
        "compile_seconds": {name: round(s, 1) for name, s in compile_seconds.items()},
    }

    def keep(seconds: Mapping[str, Sequence[float]], *, complete: bool = False) -> None:
        result = about | {"epochs": compare(seconds, ratios), "left_out": left_out}
        save(f"augment_time_{parsed.side}", result, out=parsed.out, complete=complete)

    seconds = interleave(runs, repeats=parsed.repeats, warmup=1, left_out=left_out, keep=keep)
    timed = compare(seconds, ratios)
    show(f"{STEPS} training steps at {parsed.side} pixels, batch {n}, float32", timed)
    keep(seconds, complete=True)


if __name__ == "__main__":
    main()
