"""What a run prints."""

from types import TracebackType

from jaxcifar.common.messages import counted, say
from jaxcifar.common.notebook import in_notebook
from jaxcifar.devices.machine import describe_machine
from jaxcifar.models.names import children_of, named_leaves
from jaxcifar.recipes.parts import name_of
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.sides import sides_text, train_side
from jaxcifar.recipes.stage import make_labels
from jaxcifar.runs.history import History, Row
from jaxcifar.runs.patience import Stopped, best_score
from jaxcifar.runs.shapes import COLUMNS
from jaxcifar.step.freeze import FROZEN, Labels
from jaxcifar.step.summary import summarize
from jaxcifar.training.live import LiveCurves
from jaxcifar.training.plan import RunPlan
from jaxcifar.training.progress import ProgressBar, duration
from jaxcifar.training.run import Run

_FROZEN_STATISTICS = {"batch": "of each batch, still moving", "frozen": "frozen, too"}


class Console:
    """A run's lines and progress bars, and in a notebook its curves; or nothing.

    It is entered for as long as the run lasts.
    """

    def __init__(self, plan: RunPlan, *, enabled: bool) -> None:
        """Print only if `enabled`."""
        self.plan, self.enabled = plan, enabled
        self._was_complete = False  # when it was opened: nothing was trained
        self._curves: LiveCurves | None = None
        if enabled and in_notebook():
            self._curves = LiveCurves(
                f"{plan.recipe.architecture} on {plan.splits.name}",
                loss_unit="nats" if plan.parts.loss is None else None,
            )

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._curves is not None:
            self._curves.finish()

    def bar(self, label: str, images: int) -> ProgressBar:
        """A progress bar over this many images."""
        return ProgressBar(label, images, self.enabled)

    def opening(self, run: Run) -> None:
        """What is trained, on what, and from where."""
        if not self.enabled:
            return
        recipe, splits, layout = self.plan.recipe, self.plan.splits, self.plan.layout
        machine = describe_machine()
        say(
            f"{self._network()} on {splits.name}: {len(splits.train):,} train, "
            f"{len(splits.validation):,} validation, {len(splits.test):,} test images; "
            f"{machine['device']} ({machine['cores']} cores, JAX {machine['versions']['jax']})"
        )
        if recipe.limit_batches is not None:
            say(f"smoke run: {limit_text(recipe.limit_batches)}")
        if recipe.train_resize is not None:
            say(f"training images: {sides_text(recipe)}; evaluation: {recipe.image_size} pixels")
        streamed = self.plan.input == "stream"
        if layout.size > 1 or streamed:
            images = "read from the host" if streamed else "on the devices"
            say(f"{layout.describe()}; images {images}")
        if self.plan.weights is not None:
            say(*str(self.plan.weights.report).split("\n"))
        if run.partial.epoch == 1 and run.partial.sums is None:
            labels = None if recipe.freeze == "none" else make_labels(recipe, self.plan.parts)
            say(*summarize(run.state.params, labels).split("\n"))
            if labels is not None and self.plan.parts.model is None:
                statistics = _FROZEN_STATISTICS[recipe.bn]
                say(f"BatchNorm of frozen modules: statistics {statistics}", flush=True)
                say(*random_and_frozen(recipe, labels), flush=True)
        else:
            self._resuming(run)

    def _network(self) -> str:
        model = self.plan.parts.model
        return self.plan.recipe.architecture if model is None else name_of(model)

    def _resuming(self, run: Run) -> None:
        epochs, done, run_dir = self.plan.recipe.epochs, run.partial, self.plan.run_dir
        assert run_dir is not None
        if run.disk.is_complete(epochs):
            self._was_complete = True
            length = counted(epochs, "epoch")
            if run.stopped is not None:
                length = stop_text(run.stopped, self.plan.recipe)
            say(f"{run_dir.path} is complete: {length}; --overwrite trains it again")
            return
        where = f"after epoch {done.epoch - 1}"
        if done.sums is not None:
            in_epoch = self.plan.recipe.steps_per_epoch
            steps = int(run.state.step) - done.steps_before(in_epoch)
            where = f"in epoch {done.epoch}, after {steps} of its {in_epoch} steps"
        say(f"resuming {run_dir.path} {where}, of {counted(epochs, 'epoch')}", flush=True)

    def epoch(self, history: History) -> None:
        """A line for the last epoch; the curves stand above the first one's."""
        if self._curves is not None:
            self._curves.update(history)
        if self.enabled:
            say(epoch_line(history, self.plan.recipe), flush=True)

    def closing(self, run: Run) -> None:
        """Why the run ended early, its scores and files."""
        run_dir, limit = self.plan.run_dir, self.plan.recipe.limit_batches
        if self.enabled and run.stopped is not None and not self._was_complete:
            say(stop_text(run.stopped, self.plan.recipe))
        if not self.enabled or run_dir is None:
            return
        summary = run_dir.read_summary()
        assert summary is not None
        if not self._was_complete:
            say(f"trained in {duration(summary['train_seconds'])}")
        if limit is not None:
            say(f"scores of a smoke run: {limit_text(limit)}")
        for which in ("best", "last"):
            scores = summary[which]
            say(
                f"{which + ' checkpoint':<16} validation {scores['validation_accuracy']:.4f}"
                f"  test {scores['test']['accuracy']:.4f}"
            )
        curves = "figures/curves.png, " if (run_dir.figures / "curves.png").is_file() else ""
        say(f"wrote {run_dir.path}: {curves}metrics.jsonl, summary.json, checkpoints/")


def random_and_frozen(recipe: Recipe, labels: Labels) -> list[str]:
    """A line that names the modules whose random kernels are never trained; or none."""
    if recipe.weights is not None:
        return []
    known = {"conv1.kernel"} if recipe.whiten else set()
    kernels = {name: label for name, label in named_leaves(labels).items() if "kernel" in name}
    frozen = {name for name, label in kernels.items() if label == FROZEN} - known
    modules = []
    for child in children_of(frozen):
        own = {name for name in kernels if name.split(".")[0] == child}
        modules += [child] if own <= frozen else sorted(n.rpartition(".")[0] for n in own & frozen)
    if not modules:
        return []
    names = ", ".join(modules)
    return [f"frozen at their random initial values: {names}; --weights names trained ones"]


def limit_text(batches: int) -> str:
    """What `limit_batches` means for the figures."""
    return f"at most {batches} batches of each split are used (--limit-batches)"


def stop_text(stopped: Stopped, recipe: Recipe) -> str:
    """Where a run ended before its last epoch, and why."""
    why = "on_epoch asked for it"
    if stopped.reason == "patience":
        name = recipe.patience_metric.replace("_", " ")
        count = f"{recipe.patience} validation{'s' * (recipe.patience != 1)}"
        by = f" by more than {recipe.patience_min_delta:g}" if recipe.patience_min_delta else ""
        why = f"the {name} had not improved{by} for {count} (--patience)"
    return f"stopped after epoch {stopped.epoch} of {recipe.epochs}: {why}"


def epoch_line(history: History, recipe: Recipe) -> str:
    """The last epoch's numbers on one line, and the time left."""
    row, epochs = history.rows[-1], recipe.epochs
    validated = " " * len("  validation 0.0000 0.0000 best")
    if row["validation_accuracy"] is not None:
        scores = [best_score(recipe, row) for row in history.validated().rows]
        validated = (
            f"  validation {row['validation_loss']:.4f} {row['validation_accuracy']:.4f}"
            f"{' best' if scores[-1] >= max(scores) else '     '}"
        )
    rate = "" if row["learning_rate"] is None else f"  lr {row['learning_rate']:.2e}"
    return (
        f"epoch {row['epoch']:>3}/{epochs}"
        f"  train {row['train_loss']:.4f} {row['train_accuracy']:.4f}"
        f"{validated}"
        f"{_own_metrics(row)}"
        f"{rate}"
        f"  {row['images_per_second']:,.0f} img/s"
        f"  {duration(seconds_left(history, recipe))} left"
    )


def _own_metrics(row: Row) -> str:
    """The user's metrics on the validation images."""
    names = [n.removeprefix("train_") for n in row if n.startswith("train_") and n not in COLUMNS]
    return "".join(f"  {name} {_number(row, name)}" for name in names)


def _number(row: Row, name: str) -> str:
    value = row.get(f"validation_{name}")
    return "     -" if value is None else f"{value:6.4g}"


def seconds_left(history: History, recipe: Recipe) -> float:
    """An estimate from the last three epochs and validations.

    Training takes time by the area of the images. Validations count as soon as there has been one.
    """
    recent = history.rows[-3:]
    areas = [train_side(recipe, epoch) ** 2 for epoch in range(1, recipe.epochs + 1)]
    done = sum(areas[row["epoch"] - 1] for row in recent)
    ahead = areas[recent[-1]["epoch"] :]
    training = sum(row["seconds"] for row in recent) / done * sum(ahead)
    validated = [r["validation_seconds"] for r in history.rows if recipe.validates(r["epoch"])][-3:]
    if not validated:
        return training
    coming = sum(map(recipe.validates, range(recent[-1]["epoch"] + 1, recipe.epochs + 1)))
    return training + sum(validated) / len(validated) * coming
