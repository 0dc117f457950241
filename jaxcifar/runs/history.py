"""The history of a run: one row of plain numbers per epoch."""

from dataclasses import dataclass, field
from typing import Any

from jaxcifar.common.errors import RunError

Row = dict[str, Any]


@dataclass
class History:
    """The rows of a run, one per epoch, in order."""

    rows: list[Row] = field(default_factory=list)

    def column(self, name: str) -> list[Any]:
        """The values of one metric over the epochs.

        Raises:
            RunError: an epoch does not have it.
        """
        for row in self.rows:
            if name not in row:
                raise RunError(f"the history has no {name} for epoch {row.get('epoch')}")
        return [row[name] for row in self.rows]

    def validated(self) -> "History":
        """The epochs that were validated; the others have None as their validation accuracy."""
        accuracies = self.column("validation_accuracy")
        pairs = zip(self.rows, accuracies, strict=True)
        return History([row for row, accuracy in pairs if accuracy is not None])
