"""The curves of a run in a notebook, which grow while it trains."""

import time
from collections.abc import Callable

from jaxcifar.common.drawing import png_of, try_to_draw
from jaxcifar.common.notebook import Display, Picture
from jaxcifar.common.throttle import Throttle
from jaxcifar.runs.curves import plot_curves
from jaxcifar.runs.history import History

# Of the time since the last drawing. One takes 0.15 to 0.2 s on one of two cores, so the curves
# grow every 3 to 4 s, or with every epoch that is longer.
SHARE = 1 / 20


class LiveCurves:
    """One picture in a notebook, drawn anew after an epoch; it stays when the run ends.

    Where it cannot be drawn, the end of the run brings one warning.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is shown yet; `clock` returns seconds."""
        self._title = title
        self._display = Display()
        self._throttle = Throttle(SHARE, 0.0, clock)
        self._history = History()
        self._epochs = 0  # that the picture shows
        self._failed = False

    def update(self, history: History) -> None:
        """Show these epochs, unless that is too soon; after a failure, wait for the end."""
        self._history = history
        if self._failed or not self._throttle.is_due():
            return
        with self._throttle.measured():
            try:
                self._draw()
            except Exception:  # `finish` tries once more, and says why
                self._failed = True

    def finish(self) -> None:
        """Show the epochs that were too soon."""
        try_to_draw("the curves in the notebook", self._draw, "the run is not affected")

    def _draw(self) -> None:
        epochs = len(self._history.rows)
        if epochs == self._epochs:
            return
        figure = plot_curves(self._history, title=self._title)
        self._display.show(Picture(png_of(figure), f"<curves of {epochs} epochs>"))
        self._epochs = epochs
