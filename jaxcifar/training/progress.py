"""The progress bar of a pass over images, and durations in words."""

from contextlib import ExitStack
from types import TracebackType

from jaxcifar.common.progress import progress_bar
from jaxcifar.step import metrics
from jaxcifar.step.metrics import Metrics


class ProgressBar:
    """A bar over the images of one pass: images per second, time left, loss and accuracy so far.

    It is drawn only while it is entered, and only in a notebook or where standard error is a
    terminal, so that log files stay readable. Nothing of it remains: a line an epoch does.
    """

    def __init__(self, label: str, images: int, enabled: bool = True) -> None:
        """A pass over `images` images."""
        self._label, self._images, self._enabled = label, images, enabled

    def __enter__(self) -> "ProgressBar":
        self._opened = ExitStack()
        self._bar = self._opened.enter_context(
            progress_bar(
                self._label,
                self._images,
                unit="img",
                enabled=self._enabled,
                leave=False,
                mininterval=0,  # it is moved every few seconds at most
                dynamic_ncols=True,
            )
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def advance(self, images: int, sums: Metrics) -> None:
        """Move by `images` and show the metrics so far, which are computed already: no wait."""
        if not self._bar.disable and int(sums["count"]):  # every step may have been skipped
            means = metrics.compute(sums)
            text = f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.3f}"
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(min(images, self._bar.total - self._bar.n))


def duration(seconds: float) -> str:
    """Seconds in short words: "42s", "3m05s", "1h02m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
