"""The history of a run: one row of plain numbers per epoch."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from jaxcifar.common.errors import RunError
from jaxcifar.common.messages import escaped
from jaxcifar.runs.history_table import html_table, text_table, value_text

Row = dict[str, Any]


@dataclass
class History:
    """The rows of a run, one per epoch, in order; a notebook shows them as a table.

    Example:
        >>> from jaxcifar import History
        >>> history = History([{"epoch": 1, "train_loss": 1.5}, {"epoch": 2, "train_loss": 1.25}])
        >>> history
        History(2 epochs)
        epoch  train loss
            1      1.5000
            2      1.2500
        >>> history.to_dict()
        {'epoch': [1, 2], 'train_loss': [1.5, 1.25]}
    """

    rows: list[Row] = field(default_factory=list)

    def __repr__(self) -> str:
        """At most ten lines: the last epochs."""
        return text_table(self._title(), self.rows)

    def _repr_html_(self) -> str:
        """The table that a notebook shows: at most 30 epochs, the first and the last ones."""
        return html_table(self._title(), self.rows)

    def _title(self) -> str:
        epochs = len(self.rows)
        title = f"{epochs:,} epoch{'' if epochs == 1 else 's'}"
        scored = [row for row in self.rows if row.get("validation_accuracy") is not None]
        try:  # among equals the latest, like the best checkpoint
            best = max(reversed(scored), key=lambda row: row["validation_accuracy"], default=None)
        except TypeError:  # a row of somebody else's, with a text for a number
            best = None
        if best is None:
            return f"History({title})"
        accuracy, epoch = (value_text(n, best.get(n)) for n in ("validation_accuracy", "epoch"))
        return f"History({title}; best validation accuracy {accuracy} in epoch {epoch})"

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

    def to_dict(self) -> dict[str, list[Any]]:
        """Metric -> its values over the epochs, None where an epoch does not have it."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: [row.get(name) for row in self.rows] for name in names}

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for each epoch, and NaN where it has no number.

        Raises:
            RunError: pandas is not installed; jaxcifar does not need it otherwise.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise RunError(
                f"a table of pandas needs pandas ({escaped(error)}): pip install pandas, or use "
                "history.to_dict(), which has the same columns as lists"
            ) from None
        return pandas.DataFrame(self.to_dict())
