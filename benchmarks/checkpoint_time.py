"""What checkpoints cost: how long `save` blocks, and an epoch with and without a save.

  python -m benchmarks.checkpoint_time                 ResNet-18 at 32x32, batch 128, float32, Adam
  python -m benchmarks.checkpoint_time --width 4 --images 512         to try it

Uses the library's epoch over the training images of CIFAR-10 if they are available, otherwise over
digits. A save runs in the background while the next epoch trains. So an epoch during a save, timed
from the start of the save until both are done, is compared with an epoch without one. The save
itself and reading it back (verifying it against its manifest, and restoring it) are timed
separately, with nothing else running.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import compare, interleave, make_parser, save, show, start
from jaxcifar.common.errors import DataError
from jaxcifar.data import Source, load_dataset
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.step.state import init_state
from jaxcifar.step.steps import make_train_step
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.resident import make_train_epoch


def training_images(data_dir: Path | None) -> tuple[str, Source]:
    """Those of CIFAR-10 if they are available, otherwise those of digits."""
    try:
        return "cifar10", load_dataset("cifar10", data_dir=data_dir, download=False).train
    except DataError as error:
        print(f"using digits instead of CIFAR-10: {error}", flush=True)
        return "digits", load_dataset("digits", split=(1_216, 200)).train


class Run:
    """A state that is trained and saved."""

    def __init__(self, recipe: Recipe, dataset: Source, checkpoints: Checkpoints) -> None:
        """Compile."""
        model, tx = recipe.make_model(), recipe.make_optimizer()
        self._data = to_device(dataset)
        self._epoch = make_train_epoch(
            make_train_step(model, tx, normalize=recipe.make_preprocess()),
            size=len(dataset),
            batch_size=recipe.batch_size,
        )
        state = init_state(model, tx, seed=0, image_size=recipe.image_size)
        self.state: Any = self._epoch.compile(state, self._data)
        self.checkpoints = checkpoints

    def train(self) -> None:
        """Train one epoch, and wait for it."""
        self.state, _ = jax.block_until_ready(self._epoch.run(self.state, self._data))

    def train_beside_a_save(self) -> None:
        """Save the last epoch and train the next one, as `fit` does; wait for both."""
        self.save()
        self.train()
        self.checkpoints.wait()

    def save(self) -> None:
        """The part of a save that a training loop waits for."""
        self.checkpoints.save(self.state, validation_accuracy=0.5)

    def finish(self) -> None:
        """The rest of a save."""
        self.checkpoints.wait()
        # A second checkpoint of the same step would not be written.
        self.state = self.state.replace(step=self.state.step + 1)

    def last(self) -> Path:
        """The directory of the last checkpoint."""
        return self.checkpoints.directory / str(self.checkpoints.steps()[-1])

    def verify(self) -> None:
        """Compare the last checkpoint with its manifest."""
        assert not manifest.verify(self.last())

    def restore(self) -> None:
        """Restore the last checkpoint as resuming does; this also verifies it."""
        with Checkpoints(self.checkpoints.directory, read_only=True) as checkpoints:
            jax.block_until_ready(checkpoints.restore_state(self.state, "last"))


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=5, result="checkpoint_time")
    parser.add_argument("--width", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--images", type=int, help="in an epoch; default: all")
    parser.add_argument("--data-dir", type=Path, help="the directory of prepared CIFAR-10")
    parser.add_argument(
        "--directory", type=Path, help="save below this directory; default: a temporary one"
    )
    parsed = start(parser)
    name, dataset = training_images(parsed.data_dir)
    dataset = dataset.read(np.arange(parsed.images or len(dataset)))
    recipe = replace(
        get_experiment("scratch").recipe, width=parsed.width, batch_size=parsed.batch_size
    )
    with (
        tempfile.TemporaryDirectory(dir=parsed.directory) as temporary,
        Checkpoints(temporary) as checkpoints,
    ):
        run = Run(recipe, dataset, checkpoints)
        epochs = {"epoch beside a save": run.train_beside_a_save, "epoch": run.train}
        seconds = interleave(epochs, repeats=parsed.repeats, warmup=1)
        separate = {
            "save, blocking": run.save,
            "save, in the background": run.finish,
            "verify": run.verify,
            "verify and restore": run.restore,
        }
        seconds |= interleave(separate, repeats=max(parsed.repeats, 7))
        size = sum(path.stat().st_size for path in run.last().rglob("*") if path.is_file())
    timed = compare(
        seconds,
        {
            "epoch with saving / without": ("epoch beside a save", "epoch"),
            "save, blocking / epoch": ("save, blocking", "epoch"),
            "save, in the background / epoch": ("save, in the background", "epoch"),
            "verify / verify and restore": ("verify", "verify and restore"),
        },
    )
    megabytes = round(size / 1e6, 1)
    show(f"{len(dataset)} images of {name} per epoch, {megabytes} MB per checkpoint", timed)
    settings = {
        "dataset": name,
        "images": len(dataset),
        "architecture": recipe.architecture,
        "width": recipe.width,
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        "megabytes": megabytes,
    }
    save("checkpoint_time", {"settings": settings, **timed}, out=parsed.out)


if __name__ == "__main__":
    main()
