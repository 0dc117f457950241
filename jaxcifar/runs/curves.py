"""The learning curves of a run, and their picture while it lasts."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxcifar.common.drawing import new_figure, own_settings, try_to_draw
from jaxcifar.common.errors import RunError
from jaxcifar.common.figure import drawn, png_path, save_figure
from jaxcifar.common.throttle import Throttle
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
def plot_curves(history: History, *, title: str, loss_unit: str | None = "nats") -> "Figure":
    """Plot loss and accuracy over the epochs side by side, train and validation in each.

    Args:
        title: above the figure.
        loss_unit: of the cross-entropy; None for a loss of the user's own.
    """
    figure = new_figure(9.6, 3.8, layout="constrained")
    figure.suptitle(drawn(title), fontsize=11)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, name, unit in (
        (loss_axes, "loss", loss_unit),
        (accuracy_axes, "accuracy", "fraction"),
    ):
        for split, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
            epochs = history if split == "train" else history.validated()
            values = epochs.column(f"{split}_{name}")
            axes.plot(
                epochs.column("epoch"), values, color=color, marker="o", markersize=3, label=split
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(name if unit is None else f"{name} ({unit})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    losses = np.concatenate([np.asarray(line.get_ydata(), float) for line in loss_axes.lines])
    if not (losses < 0).any():
        loss_axes.set_ylim(bottom=0)  # a loss of the user's own may be negative
    # Among equals the latest epoch, like the best checkpoint.
    scored = [(row["validation_accuracy"], row["epoch"]) for row in history.validated().rows]
    if scored:
        value, epoch = max(scored)
        accuracy_axes.set_title(f"best validation {value:.3f} in epoch {epoch}", fontsize=9)
    return figure


def draw_curves(
    run: History | str | Path, *, title: str | None = None, out: str | Path | None = None
) -> "Figure":
    """Draw loss and accuracy of a run over its epochs, train and validation.

    Args:
        run: a history, as `fit` returns it, or the directory of a run, complete or not. A history
            does not say what its loss is, so that the axis has no unit.
        title: above the figure; by default that of the run's own picture.
        out: a PNG to write, too.

    Returns:
        The figure, which a notebook shows. pyplot does not know it, so it need not be closed.

    Raises:
        RunError: the directory holds no run, or no epoch is complete yet.
        FigureError: it cannot be drawn.

    Example:
        >>> from jaxcifar import draw_curves
        >>> from jaxcifar.runs.history import History
        >>> row = {"train_loss": 1.5, "train_accuracy": 0.5, "validation_loss": 1.6,
        ...        "validation_accuracy": 0.4, "epoch": 1}
        >>> figure = draw_curves(History([row]))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy (fraction)']
    """
    if isinstance(run, History):
        history, default, unit = run, "learning curves", None
    else:
        run_dir = RunDirectory(Path(run))
        history, (default, unit) = run_dir.read_history(), _title_and_unit(run_dir)
    if not history.rows:
        raise RunError("there are no curves before the first epoch is complete")
    figure = plot_curves(history, title=default if title is None else title, loss_unit=unit)
    if out:
        save_figure(figure, png_path(out))
    return figure


def _title_and_unit(run_dir: RunDirectory) -> tuple[str, str | None]:
    """The experiment of a run, and the unit of its loss: None for one of the user's own."""
    config = run_dir.read_config()
    own = "loss" in (config.get("parts") or {})
    return str(config.get("experiment")), None if own else "nats"


class CurvesFile:
    """figures/curves.png of a run, kept up to date while it trains.

    Drawn from metrics.jsonl. Where it cannot be drawn, the end of the run brings one warning.
    """

    def __init__(self, run_dir: RunDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is drawn yet; `clock` returns seconds."""
        self._run_dir = run_dir
        self._path = run_dir.figures / "curves.png"
        self._throttle = Throttle(SHARE, FIRST_SECONDS, clock)
        self._failed = False
        self._epochs = 0  # that the picture shows

    def update(self) -> None:
        """Draw what is done, unless that is too soon; after a failure, wait for the end."""
        if self._failed or not self._throttle.is_due():
            return
        with self._throttle.measured():
            try:
                self._draw()
            except Exception:  # `finish` tries once more, and says why
                self._failed = True

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
            title, unit = _title_and_unit(self._run_dir)
            save_figure(plot_curves(history, title=title, loss_unit=unit), self._path)
            self._epochs = len(history.rows)
