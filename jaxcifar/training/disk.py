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

    def note_asked_to_stop(self, epoch: int, epochs: int) -> None:
        """Keep that `on_epoch` ended the run after this epoch."""

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

    def note_asked_to_stop(self, epoch: int, epochs: int) -> None:
        """See `RunDirectory.note_asked_to_stop`."""
        self.run_dir.note_asked_to_stop(epoch, epochs)

    def saved_steps(self) -> list[int]:
        """See `Checkpoints.steps`."""
        return self.checkpoints.steps()

    def stopped(self, epochs: int, trained: int) -> Stopped | None:
        """Where a run of this many epochs, which has trained so many, ended early; or None."""
        summary = self.run_dir.read_summary()
        if summary is not None and self.is_complete(epochs) and summary.get("stopped_by"):
            return Stopped(summary["stopped_after_epoch"], summary["stopped_by"])
        asked = self.run_dir.read_config().get("asked_to_stop")
        # Its last checkpoint may be lost, or it was to go further since.
        if asked == {"after_epoch": trained, "of": epochs}:
            return Stopped(trained, "on_epoch")
        return None

    def is_complete(self, epochs: int) -> bool:
        """Whether the summary of a run of this many epochs is there."""
        summary = self.run_dir.read_summary()
        return summary is not None and summary.get("epochs") == epochs
