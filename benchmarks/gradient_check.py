"""Are the gradients on this device those of the CPU?  One training step, module by module.

  python -m benchmarks.gradient_check                  ResNet-18 at full width, batch 128
  python -m benchmarks.gradient_check speedrun --width 8 --batch-size 32

A preset's step runs with the same weights and images on the default device and, in the forms for a
CPU, on the CPU of the same process: both in float32 with the highest precision, which a GPU or TPU
has only if it is asked for. For each block of the network it prints the norm of the difference over
the norm of the CPU's gradient, and exits with 1 if one is above 1e-3: rounding was up to 1e-5 (see
the table of `conv_error` in docs/benchmarks.md). Where the default device is the CPU, all are zero.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax

from jaxcifar.commands.exit_status import exit_with_status
from jaxcifar.common.target import built_for
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step.state import TrainState, init_state

LIMIT = 1e-3


def keep_gradients() -> optax.GradientTransformation:
    """An optimizer that changes nothing and whose state is the last gradients."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del state, params
        return jax.tree.map(jax.numpy.zeros_like, gradients), gradients

    return optax.GradientTransformation(lambda p: jax.tree.map(jax.numpy.zeros_like, p), update)


def gradients_on(device: jax.Device, recipe: Recipe, batch: Any, state: TrainState) -> Any:
    """The gradients of the recipe's first step, as NumPy arrays in a tree."""
    with (
        built_for(device.platform),
        jax.default_device(device),
        jax.default_matmul_precision("highest"),
    ):
        step = make_stage(recipe)._replace(tx=keep_gradients()).make_train_step()
        placed = jax.device_put((state, batch), device)
        after, _ = jax.jit(step)(*placed)
        return jax.tree.map(np.asarray, after.opt_state)


def first_step(recipe: Recipe) -> tuple[TrainState, dict[str, Any]]:
    """New weights, and random images and labels, made on the CPU."""
    with built_for("cpu"), jax.default_device(jax.devices("cpu")[0]):
        side = recipe.image_size
        state = init_state(recipe.make_model(1), keep_gradients(), seed=0, image_size=side)
    rng = np.random.default_rng(0)
    n, classes = recipe.batch_size, recipe.dataset_info.num_classes
    images = rng.integers(0, 256, (n, side, side, 3), np.uint8)
    return state, {"image": images, "label": rng.integers(0, classes, n, np.int32)}


def blocks_of(gradients: Any) -> dict[str, np.ndarray]:
    """The gradients of each module, flat; of the residual stages, of each block."""
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        names = [str(getattr(key, "key", key)) for key in path]
        block = "/".join(names[: min(2 if names[0].startswith("layer") else 1, len(names) - 1)])
        parts.setdefault(block, []).append(np.ravel(leaf).astype(np.float64))
    return {name: np.concatenate(leaves) for name, leaves in parts.items()}


def errors(ours: Any, reference: Any) -> dict[str, float]:
    """For each block the norm of the difference over that of the reference; nan if not finite."""
    ours, reference = blocks_of(ours), blocks_of(reference)
    return {
        name: float(np.linalg.norm(ours[name] - there)) / max(float(np.linalg.norm(there)), 1e-30)
        for name, there in reference.items()
    }


def compare(recipe: Recipe, gradients: Callable[..., Any] = gradients_on) -> dict[str, float]:
    """The errors of a recipe's first step on the default device against the CPU."""
    state, batch = first_step(recipe)
    devices = (jax.devices()[0], jax.devices("cpu")[0])
    return errors(*(gradients(device, recipe, batch, state) for device in devices))


def main() -> None:
    """Print the errors; the exit status says whether all are small."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", nargs="?", default="scratch", help="default: %(default)s")
    parser.add_argument("--width", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parsed = parser.parse_args()
    recipe = replace(
        get_experiment(parsed.preset).recipe,
        dtype="float32",
        width=parsed.width,
        batch_size=parsed.batch_size,
    )
    found = compare(recipe)
    for name, error in found.items():
        print(f"{name:<24} {error:.2e}")
    # Not `max`, which a nan may pass unseen.
    bad = [name for name, error in found.items() if not error <= LIMIT]
    device = jax.devices()[0].device_kind
    print(f"{device} against the CPU: {'FAILED: ' + ', '.join(bad) if bad else 'all are the same'}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    exit_with_status(main)
