"""What was loaded from which weights, for people and for config.json."""

from dataclasses import dataclass
from typing import Any

from jaxcifar.common.messages import join_lines, printable, shown
from jaxcifar.models.preprocessing import Preprocessing

COUNTER = "num_batches_tracked"  # of torch's BatchNorm; unused where BatchNorm has a momentum


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from where; `str` of it is a text of a few lines."""

    source: str  # as given: a path, or the name of a repository or a run
    sha256: str  # of the file; for a run's weights, of the tensors in the order of their names
    params: int  # number of parameter leaves filled from the source
    batch_stats: int  # number of statistics leaves filled from the source
    new: tuple[str, ...]  # leaves that were drawn at random instead
    unused: tuple[str, ...]  # keys of the file that were skipped: an old head, torch's counters
    adapted: str | None  # how the stem was changed
    preprocessing: Preprocessing | None  # None if the file does not record it
    prefix: str = ""  # taken off the keys of the file, such as "module."

    def __str__(self) -> str:
        lines = [
            f"weights from {self.source} (SHA-256 {self.sha256[:12]}...): {self.params} parameter "
            f"leaves and {self.batch_stats} statistics leaves"
        ]
        if self.prefix:
            lines.append(f"  the prefix {shown(self.prefix)} was taken off the file's keys")
        if self.new:
            lines.append(f"  new: {', '.join(self.new)}")
        skipped = [key for key in self.unused if not key.endswith(COUNTER)]
        if skipped:
            lines.append(f"  left out: {printable(', '.join(skipped), most=2_000)}")
        if self.adapted:
            lines.append(f"  {self.adapted}")
        if self.preprocessing is not None:
            size = "" if self.preprocessing.size is None else f", {self.preprocessing.size} pixels"
            mean, std = (" ".join(map(str, x)) for x in self.preprocessing_values())
            lines.append(f"  trained on images with mean {mean}, std {std}{size}")
        else:
            lines.append("  the file does not record the mean and std of the training images")
        return join_lines(lines)

    def preprocessing_values(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std); both empty if the file does not record them."""
        known = self.preprocessing
        return ((), ()) if known is None else (known.mean, known.std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        known = self.preprocessing
        return {
            "source": self.source,
            "sha256": self.sha256,
            "prefix": self.prefix,
            "new": list(self.new),
            "adapted": self.adapted,
            "preprocessing": None
            if known is None
            else {"mean": list(known.mean), "std": list(known.std), "size": known.size},
        }
