"""The learning curves of a run, and their picture while it lasts."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxcifar.common.drawing import new_figure, own_settings, try_to_draw
from jaxcifar.common.figure import drawn, save_figure
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
TRAIN_COLOR, VALIDATION_COLOR = "#1f5fa8", "#d1601f"
# A drawing waits until it has taken at most this part of the time since the last one.
SHARE = 1 / 50
# Seconds that the first drawing is expected to take at most, with the import of matplotlib: 0.49
# were measured on one of two cores, and then 0.13 for 2 epochs, 0.16 for 300.
FIRST_SECONDS = 1.0


@own_settings()
def plot_curves(history: History, *, title: str) -> "Figure":
    """Plot loss and accuracy over the epochs side by side, train and validation in each."""
    figure = new_figure(9.6, 3.8, layout="constrained")
    figure.suptitle(drawn(title), fontsize=11)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, name, unit in ((loss_axes, "loss", "nats"), (accuracy_axes, "accuracy", "fraction")):
        for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
            epochs = history if split == "train" else history.validated()
            values = epochs.column(f"{split}_{name}")
            axes.plot(
                epochs.column("epoch"), values, color=color, marker="o", markersize=3, label=split
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{name} ({unit})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    loss_axes.set_ylim(bottom=0)
    # Among equals the latest epoch, like the best checkpoint.
    scored = [(row["validation_accuracy"], row["epoch"]) for row in history.validated().rows]
    if scored:
        value, epoch = max(scored)
        accuracy_axes.set_title(f"best validation {value:.3f} in epoch {epoch}", fontsize=9)
    return figure


class CurvesFile:
    """figures/curves.png of a run, kept up to date while it trains.

    Drawn from metrics.jsonl. Where it cannot be drawn, the end of the run brings one warning.
    """

    def __init__(self, run_dir: RunDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is drawn yet; `clock` returns seconds."""
        self._run_dir, self._clock = run_dir, clock
        self._path = run_dir.figures / "curves.png"
        self._last, self._took = clock(), FIRST_SECONDS
        self._failed = False
        self._epochs = 0  # that the picture shows

    def update(self) -> None:
        """Draw what is done, unless that is too soon; after a failure, wait for the end."""
        started = self._clock()
        if self._failed or (started - self._last) * SHARE < self._took:
            return
        try:
            self._draw()
        except Exception:  # `finish` tries once more, and says why
            self._failed = True
        self._last = self._clock()
        self._took = self._last - started

    def finish(self, then: str) -> None:
        """Draw all that is done, if the picture does not show it yet.

        Args:
            then: how the run stands, for the warning of a failure.
        """
        try_to_draw(self._path, self._draw, then)

    def finish_if_absent(self, then: str) -> None:
        """As `finish`, where there is no picture."""
        if not self._path.is_file():
            self.finish(then)

    def _draw(self) -> None:
        history = self._run_dir.read_history()
        missing = not self._path.is_file() and bool(history.rows)
        if missing or len(history.rows) > self._epochs:
            title = str(self._run_dir.read_config().get("experiment"))
            save_figure(plot_curves(history, title=title), self._path)
            self._epochs = len(history.rows)
