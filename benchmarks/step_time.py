"""Time one training step of the faithful recipe: ours, with XLA's convolution, and in PyTorch.

  python -m benchmarks.step_time                  ImageNet stem at 32x32, batch 128, float32
  python -m benchmarks.step_time --stem cifar --repeats 5

Every variant trains the same ResNet-18 with Adam on the same random images, already on the device.
"XLA's convolution" is our step with `lax.conv_general_dilated` in every layer, which is what
`flax.linen.Conv` lowers to. PyTorch runs eagerly where torch is installed. A further comparison
takes ten steps as one program (the shipped epoch) and one jitted call after another.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import compare, interleave, save, show
from jaxcifar.conv import Lowering
from jaxcifar.epoch import make_train_epoch
from jaxcifar.experiments import get_experiment
from jaxcifar.resnet import Stem
from jaxcifar.state import TrainState, init_state
from jaxcifar.steps import TrainStep, make_train_step

STEPS = 10  # in one program against one after another


class Training:
    """A state and the jitted step that advances it (the step donates the state it is given)."""

    def __init__(self, stem: Stem, lowering: Lowering) -> None:
        """Initialise as the `scratch` run does."""
        recipe = dataclasses.replace(get_experiment("scratch").recipe, stem=stem)
        model = recipe.make_model().clone(lowering=lowering)
        tx = recipe.make_optimizer()
        self.step: TrainStep = make_train_step(model, tx, normalize=recipe.make_preprocess())
        self.state: TrainState = init_state(model, tx, seed=0, image_size=recipe.image_size)
        self.jitted = jax.jit(self.step, donate_argnums=0)


def step_variant(training: Training, batch: dict[str, Any]) -> tuple[Callable[[], None], float]:
    """One step, and the seconds its compilation took."""
    begun = time.perf_counter()
    compiled = training.jitted.lower(training.state, batch).compile()
    seconds = time.perf_counter() - begun

    def run() -> None:
        training.state, _ = jax.block_until_ready(compiled(training.state, batch))

    return run, seconds


def torch_variants(stem: Stem, batch: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """The same step in PyTorch, eager, in both memory formats; empty without torch."""
    try:
        import torch
    except ImportError:
        print("torch is not installed: no PyTorch rows")
        return {}
    from benchmarks.peers.torch_resnet import ResNet

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    recipe = get_experiment("scratch").recipe
    normalized = np.array(recipe.make_preprocess()(batch["image"]))

    def variant(memory_format: Any) -> Callable[[], None]:
        model = ResNet((2, 2, 2, 2), stem=stem).to(memory_format=memory_format)
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
        images = torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())
        images = images.to(memory_format=memory_format)
        labels = torch.from_numpy(np.array(batch["label"])).long()

        def run() -> None:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

        return run

    return {
        "PyTorch eager, channels_last": variant(torch.channels_last),
        "PyTorch eager, contiguous": variant(torch.contiguous_format),
    }


def epoch_variants(stem: Stem, data: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """`STEPS` steps as one program and as one jitted call after another, each with its gather."""
    size = STEPS * batch_size
    one, loop = Training(stem, "auto"), Training(stem, "auto")
    epoch = make_train_epoch(one.step, size=size, batch_size=batch_size)
    one.state = epoch.compile(one.state, data)

    @jax.jit
    def gather(index: jax.Array) -> dict[str, jax.Array]:
        return {name: values[index] for name, values in data.items()}

    def run_epoch() -> None:
        one.state, _ = jax.block_until_ready(epoch.run(one.state, data))

    def run_loop() -> None:
        order = np.random.default_rng(int(loop.state.step)).permutation(size)
        for i in range(STEPS):
            batch = gather(jnp.asarray(order[i * batch_size : (i + 1) * batch_size]))
            loop.state, _ = loop.jitted(loop.state, batch)
        jax.block_until_ready(loop.state)

    return {f"{STEPS} steps as one program": run_epoch, f"{STEPS} jitted steps": run_loop}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stem", choices=("imagenet", "cifar"), default="imagenet")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/step_time_....json")
    parsed = parser.parse_args()

    rng = np.random.default_rng(0)
    size = STEPS * parsed.batch_size
    data = {
        "image": jnp.asarray(rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, size, dtype=np.int32)),
    }
    batch = {name: values[: parsed.batch_size] for name, values in data.items()}

    ours, xla = "jaxcifar", "XLA's convolution (flax.linen.Conv)"
    variants, compile_seconds = {}, {}
    lowerings: dict[str, Lowering] = {ours: "auto", xla: "xla"}
    for name, lowering in lowerings.items():
        variants[name], compile_seconds[name] = step_variant(Training(parsed.stem, lowering), batch)
        print(f"{name}: compiled in {compile_seconds[name]:.1f} s")
    variants |= torch_variants(parsed.stem, batch)
    ratios = {f"jaxcifar / {other}": (ours, other) for other in variants if other != ours}
    steps = compare(interleave(variants, repeats=parsed.repeats), ratios)
    show(f"One training step, {parsed.stem} stem, batch {parsed.batch_size}, float32", steps)

    pair = epoch_variants(parsed.stem, data, parsed.batch_size)
    one, loop = pair
    program = compare(
        interleave(pair, repeats=max(3, parsed.repeats // 2), warmup=1),
        {"one program / one after another": (one, loop)},
    )
    show(f"{STEPS} steps", program)
    save(
        f"step_time_{parsed.stem}",
        {
            "settings": {"stem": parsed.stem, "batch_size": parsed.batch_size, "dtype": "float32"},
            "compile_seconds": compile_seconds,
            "step": steps,
            "epoch_program": program,
        },
        out=parsed.out,
    )


if __name__ == "__main__":
    main()
