"""What a run keeps on disk while it trains, or nothing: two forms of one interface."""

from typing import Any

from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.curves import CurvesFile
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import Row
from jaxcifar.runs.patience import Stopped
from jaxcifar.step.state import TrainState


class NoDisk:
    """A run without a directory: nothing is kept."""

    def append_row(self, row: Row) -> None:
        """Keep an epoch's row."""

    def save(
        self,
        state: TrainState,
        *,
        validation_accuracy: float | None,
        progress: dict[str, Any] | None = None,
        best_score: float | None = None,
    ) -> None:
        """Keep a checkpoint, in the background."""

    def wait(self) -> None:
        """Wait for the checkpoint that is being written."""

    def update_curves(self) -> None:
        """Draw the curves, if that is due."""

    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints there are."""
        return []

    def is_complete(self, epochs: int) -> bool:
        """Whether a run of this many epochs is finished."""
        return False


class Disk(NoDisk):
    """A run directory and its checkpoints."""

    def __init__(self, run_dir: RunDirectory, checkpoints: Checkpoints) -> None:
        """Both are open."""
        self.run_dir, self.checkpoints = run_dir, checkpoints
        self.curves = CurvesFile(run_dir)

    def append_row(self, row: Row) -> None:
        """Add it to metrics.jsonl."""
        self.run_dir.append_row(row)

    def save(
        self,
        state: TrainState,
        *,
        validation_accuracy: float | None,
        progress: dict[str, Any] | None = None,
        best_score: float | None = None,
    ) -> None:
        """See `Checkpoints.save`."""
        self.checkpoints.save(
            state,
            validation_accuracy=validation_accuracy,
            progress=progress,
            best_score=best_score,
        )

    def wait(self) -> None:
        """See `Checkpoints.wait`."""
        self.checkpoints.wait()

    def update_curves(self) -> None:
        """See `CurvesFile.update`."""
        self.curves.update()

    def saved_steps(self) -> list[int]:
        """See `Checkpoints.steps`."""
        return self.checkpoints.steps()

    def stopped(self, epochs: int) -> Stopped | None:
        """Where a complete run of this many epochs ended early; None if it did not."""
        summary = self.run_dir.read_summary()
        if summary is None or not self.is_complete(epochs) or summary.get("stopped_by") is None:
            return None
        return Stopped(summary["stopped_after_epoch"], summary["stopped_by"])

    def is_complete(self, epochs: int) -> bool:
        """Whether the summary of a run of this many epochs is there."""
        summary = self.run_dir.read_summary()
        return summary is not None and summary.get("epochs") == epochs
