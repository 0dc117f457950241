"""The curves of a run in a notebook, which grow while it trains."""

import time
from collections.abc import Callable
from contextlib import nullcontext

from jaxcifar.common.drawing import png_of, try_to_draw
from jaxcifar.common.messages import counted
from jaxcifar.common.notebook import Display, Picture
from jaxcifar.common.throttle import Throttle
from jaxcifar.runs.curves import plot_curves
from jaxcifar.runs.history import History

# Of the time since the last drawing. In a kernel one took 0.2 s on one of two cores, so the curves
# grow every 4 s, or with every epoch if it is longer: 3.6 % of a run of 30 epochs of a second.
SHARE = 1 / 20
# Expected of the second drawing: the first one, with the import of matplotlib and its fonts, took
# 0.6 s and is no measure.
SECONDS = 0.2


class LiveCurves:
    """One picture in a notebook, drawn anew after an epoch; it stays when the run ends.

    Where it cannot be drawn, the end of the run brings one warning.
    """

    def __init__(
        self,
        title: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        loss_unit: str | None = "nats",
    ) -> None:
        """Nothing is shown yet; `clock` returns seconds."""
        self._title, self._loss_unit, self._clock = title, loss_unit, clock
        self._display = Display()
        self._throttle: Throttle | None = None
        self._history = History()
        self._epochs = 0  # that the picture shows
        self._failed = False

    def update(self, history: History) -> None:
        """Show these epochs, unless that is too soon; after a failure, wait for the end."""
        self._history = history
        if self._failed or (self._throttle is not None and not self._throttle.is_due()):
            return
        try:
            with nullcontext() if self._throttle is None else self._throttle.measured():
                self._draw()
        except Exception:  # `finish` tries once more, and says why
            self._failed = True
        self._throttle = self._throttle or Throttle(SHARE, SECONDS, self._clock)

    def finish(self) -> None:
        """Show the epochs that were too soon."""
        try_to_draw("the curves in the notebook", self._draw, "the run is not affected")

    def _draw(self) -> None:
        epochs = len(self._history.rows)
        if epochs == self._epochs:
            return
        figure = plot_curves(self._history, title=self._title, loss_unit=self._loss_unit)
        self._display.show(Picture(png_of(figure), f"<curves of {counted(epochs, 'epoch')}>"))
        self._epochs = epochs
