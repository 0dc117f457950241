"""What a run prints."""

from jaxcifar.data import Splits
from jaxcifar.devices.layout import Input, Layout
from jaxcifar.devices.machine import describe_machine
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History
from jaxcifar.runs.transfer import Start
from jaxcifar.step.freeze import summarize
from jaxcifar.step.state import TrainState
from jaxcifar.training.progress import duration
from jaxcifar.training.run import PartialEpoch, _is_complete

_BN_SAID = {"batch": "of each batch, still moving", "frozen": "frozen, too"}


def _print_opening(
    recipe: Recipe,
    splits: Splits,
    state: TrainState,
    start: Start | None,
    part: PartialEpoch,
    files: RunDirectory | None,
    layout: Layout,
    place: Input,
) -> None:
    machine = describe_machine()
    print(
        f"{recipe.architecture} on {splits.name}: {len(splits.train):,} train, "
        f"{len(splits.validation):,} validation, {len(splits.test):,} test images; "
        f"{machine['device']} ({machine['cores']} cores, JAX {machine['versions']['jax']})"
    )
    if layout.size > 1 or place == "stream":
        images = "read from the host" if place == "stream" else "on the devices"
        print(f"{layout.describe()}; images {images}")
    if start is not None:
        print(start[1])
    if part.epoch == 1 and part.sums is None:
        labels = None if recipe.freeze == "none" else recipe.make_labels()
        print(summarize(state.params, labels))
        if labels is not None:
            print(f"BatchNorm of frozen modules: statistics {_BN_SAID[recipe.bn]}", flush=True)
    elif files is not None and _is_complete(files, recipe):
        print(f"{files.path} is complete: {recipe.epochs} epochs; --overwrite trains it again")
    elif files is not None:
        where = f"after epoch {part.epoch - 1}"
        if part.sums is not None:
            done = int(state.step) - part.complete_steps(recipe)
            where = f"in epoch {part.epoch}, after {done} of its {recipe.steps_per_epoch} steps"
        print(f"resuming {files.path} {where}, of {recipe.epochs} epochs", flush=True)


def _epoch_line(history: History, epochs: int) -> str:
    row = history.rows[-1]
    validated = " " * len("  validation 0.0000 0.0000 best")
    if row["validation_accuracy"] is not None:
        accuracies = history.validated().column("validation_accuracy")
        validated = (
            f"  validation {row['validation_loss']:.4f} {row['validation_accuracy']:.4f}"
            f"{' best' if accuracies[-1] >= max(accuracies) else '     '}"
        )
    recent = history.rows[-3:]
    a_epoch = sum(r["seconds"] + r["validation_seconds"] for r in recent) / len(recent)
    return (
        f"epoch {row['epoch']:>3}/{epochs}"
        f"  train {row['train_loss']:.4f} {row['train_accuracy']:.4f}"
        f"{validated}"
        f"  lr {row['learning_rate']:.2e}"
        f"  {row['images_per_second']:,.0f} img/s"
        f"  {duration(a_epoch * (epochs - row['epoch']))} left"
    )


def _print_closing(files: RunDirectory) -> None:
    summary = files.read_summary()
    assert summary is not None
    print(f"trained in {duration(summary['train_seconds'])}")
    for which in ("best", "last"):
        part = summary[which]
        print(
            f"{which + ' checkpoint':<16} validation {part['validation_accuracy']:.4f}"
            f"  test {part['test']['accuracy']:.4f}"
        )
    print(f"wrote {files.path}: figures/curves.png, metrics.jsonl, summary.json, checkpoints/")
