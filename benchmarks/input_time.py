"""What feeding images costs: epochs over streamed images, compared with images on the device.

  python -m benchmarks.input_time                 ResNet-18 at 32x32, batch 128, on real CIFAR-10
  python -m benchmarks.input_time --width 8       a small network, which needs images faster

The library's epoch, with the flip and rotation of the preset `mini`, runs over the same rows in
three ways: on the device; streamed from the memory-mapped cache; streamed from TFDS records that
are decoded on the way. Their losses must be identical, otherwise the exit status is 1. A fourth
loop passes a float32 batch made by NumPy to each jitted step, as notebooks do. If torch is
installed, PyTorch trains from a DataLoader, as in a notebook: ToTensor and Normalize for one image
at a time, two workers, no augmentation. At the end, three more streamed epochs run, and the memory
of the process is printed after each.
"""

import dataclasses
import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import (
    compare,
    interleave,
    make_parser,
    new_state,
    save,
    scratch_recipe,
    show,
    start,
)
from benchmarks.programs import compiled_anew
from jaxcifar.data import Rows, Source
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from jaxcifar.step.augment import NORMALIZATIONS
from jaxcifar.step.metrics import compute
from jaxcifar.step.steps import make_train_step
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.resident import make_train_epoch
from jaxcifar.training.streamed import make_streamed_epoch


def variant(
    recipe: Recipe, source: Source, *, streamed: bool
) -> tuple[Callable[[], None], list[float], float]:
    """An epoch over `source`, the list that it adds losses to, and the seconds of compiling."""
    model, tx = recipe.make_model(), recipe.make_optimizer()
    step = make_train_step(model, tx, normalize=recipe.make_preprocess())
    settings: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "augment": recipe.make_augment(),
    }
    if streamed:
        epoch = make_streamed_epoch(step, source, **settings)
    else:
        resident = make_train_epoch(step, size=len(source), **settings)
        epoch = resident.over(to_device(source))
    state, seconds = compiled_anew(lambda: epoch.compile(new_state(recipe)))
    holder = [state]
    losses: list[float] = []

    def run() -> None:
        holder[0], sums = epoch.run(holder[0])
        losses.append(compute(sums)["loss"])

    return run, losses, seconds


def host_fed(recipe: Recipe, source: Source) -> Callable[[], None]:
    """A loop of jitted steps, each with a float32 batch from the host; no augmentation."""
    model, tx = recipe.make_model(), recipe.make_optimizer()
    step = jax.jit(make_train_step(model, tx, normalize=lambda x: x), donate_argnums=0)
    holder = [new_state(recipe)]
    rng = np.random.default_rng(0)

    def run() -> None:
        order = rng.permutation(len(source))
        for first in range(0, len(source) - recipe.batch_size + 1, recipe.batch_size):
            batch = source.read(order[first : first + recipe.batch_size])
            images = batch.images.astype(np.float32) / 255 - 0.5
            holder[0], _ = step(holder[0], {"image": images, "label": batch.labels})
        jax.block_until_ready(holder[0])

    return run


def torch_loader(recipe: Recipe, source: Source) -> Callable[[], None]:
    """An epoch of eager PyTorch, channels_last, on the same images."""
    from benchmarks.peers import torch_training

    whole = source.read(np.arange(len(source)))
    normalization = NORMALIZATIONS[recipe.normalization]
    images = torch_training.Images(whole.images, whole.labels, *normalization)
    loader = torch_training.make_loader(images, batch_size=recipe.batch_size)
    step = torch_training.make_step(
        stem=recipe.stem, width=recipe.width, learning_rate=recipe.learning_rate
    )

    def run() -> None:
        for batch in torch_training.on_device(loader):
            step(*batch)
        torch_training.synchronize()

    return run


def make_runs(
    recipe: Recipe,
) -> tuple[dict[str, Callable[[], None]], dict[str, list[float]], dict[str, float]]:
    """An epoch for each input; for the library's own also their losses and compile seconds."""
    mapped = load_splits(recipe, lazy=True).train
    recipe_of_records = dataclasses.replace(recipe, dataset="tfds:cifar10")
    records = load_splits(recipe_of_records, lazy=True).train
    assert isinstance(mapped, Rows)
    assert isinstance(records, Rows)
    records = Rows(records.source, mapped.rows)  # the same images in the same order

    runs, losses, compile_seconds = {}, {}, {}
    for name, source, streamed in (
        ("on the device", mapped, False),
        ("streamed from the cache", mapped, True),
        ("streamed, decoding PNG", records, True),
    ):
        runs[name], losses[name], compile_seconds[name] = variant(recipe, source, streamed=streamed)
    runs["host-fed loop, float32"] = host_fed(recipe, mapped)
    if importlib.util.find_spec("torch") is not None:
        runs["PyTorch eager, DataLoader"] = torch_loader(recipe, mapped)
    return runs, losses, compile_seconds


def resident_mib() -> float:
    """Resident memory of this process in MiB, or 0 where the system does not report it."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return 0.0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=5, result="input_time_wWIDTH")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=5_120, help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, help="TFDS directory (default: $TFDS_DATA_DIR)")
    parsed = start(parser)
    if parsed.data_dir is not None:
        os.environ["TFDS_DATA_DIR"] = str(parsed.data_dir)
    if parsed.images % parsed.batch_size:
        parser.error(
            f"--images {parsed.images} is not a multiple of --batch-size {parsed.batch_size}; "
            "the host-fed loop takes only whole batches"
        )
    recipe = scratch_recipe(
        batch_size=parsed.batch_size,
        width=parsed.width,
        train_size=parsed.images,
        flip_rate=0.4,
        rotate_degrees=30.0,
    )
    runs, losses, compile_seconds = make_runs(recipe)
    ratios = {f"{name} / on the device": (name, "on the device") for name in list(runs)[1:]}
    about = {
        "settings": {
            "batch_size": parsed.batch_size,
            "width": parsed.width,
            "images": parsed.images,
            "dtype": "float32",
        },
        "compile_seconds": {name: round(s, 1) for name, s in compile_seconds.items()},
    }
    name = f"input_time_w{parsed.width}"

    def keep(seconds: Mapping[str, Sequence[float]]) -> None:
        result = about | {"epochs": compare(seconds, ratios)}
        save(name, result, out=parsed.out, complete=False)

    timed = compare(interleave(runs, repeats=parsed.repeats, warmup=1, keep=keep), ratios)
    show(f"an epoch of {parsed.images} images, width {parsed.width}", timed)
    same = all(values == losses["on the device"] for values in losses.values())
    print(f"  the losses are {'bit-identical' if same else 'DIFFERENT'}")

    memory = []
    for _ in range(3):
        runs["streamed, decoding PNG"]()
        gc.collect()
        memory.append(round(resident_mib(), 1))
    print(f"  memory after each of three more streamed epochs, MiB: {memory}")
    save(
        name,
        about
        | {
            "epochs": timed,
            "losses_identical": same,
            "memory_mib_after_streamed_epochs": memory,
        },
        out=parsed.out,
    )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
