"""The rows of a history as a table of a few lines, in text and in HTML.

The rows may come from a file, with more metrics than ours and with any names: everything is
escaped, and shortened to the width of its column.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcifar.common.summaries import LINES, WIDTH, shortened
from jaxcifar.runs.shapes import COLUMNS

HTML_ROWS = 30
LONGEST = 24  # characters of a heading or a value
# Heading and format of our metrics; others have their name and 6 digits.
_FORMATS = {
    "epoch": ("epoch", "d"),
    "step": ("step", ",d"),
    "learning_rate": ("lr", ".2e"),
    "train_loss": ("train loss", ".4f"),
    "train_accuracy": ("train acc", ".4f"),
    "validation_loss": ("val loss", ".4f"),
    "validation_accuracy": ("val acc", ".4f"),
    "seconds": ("train s", ",.1f"),
    "validation_seconds": ("val s", ",.1f"),
    "images_per_second": ("img/s", ",.0f"),
    "gradient_norm": ("gradient norm", ".3g"),
    "skipped_steps": ("skipped steps", ",d"),
}
_NOTHING = "-"
_TIMES = ("seconds", "validation_seconds", "images_per_second")

Rows = Sequence[Mapping[str, Any]]


def text_table(title: str, rows: Rows) -> str:
    """The last rows, below their headings.

    Metrics that have no room are left out, and the title counts them.

    Args:
        title: one printable line.
        rows: metric -> value.
    """
    names = _names(rows)
    cells = {name: _cells(name, rows[-(LINES - 3) :], short=True) for name in names}
    if not cells:
        return title
    room, shown = WIDTH, set[str]()
    for name in sorted(names, key=_rank):
        width = max(map(len, cells[name])) + (2 if shown else 0)
        if width <= room:
            room -= width
            shown.add(name)
    columns = [cells[name] for name in names if name in shown]
    if len(shown) < len(names):
        title += f"; {len(names) - len(shown)} more columns in to_dict()"
    before = len(rows) - (LINES - 3)
    lines = [title[:WIDTH]] + ([f"... after {before:,} earlier ones"] if before > 0 else [])
    table = [""] * len(columns[0])
    for column in columns:
        width, gap = max(map(len, column)), "  " if table[0] else ""
        table = [f"{line}{gap}{cell:>{width}}" for line, cell in zip(table, column, strict=True)]
    return "\n".join(lines + table)


def _rank(name: str) -> int:
    """Which metrics find room first: ours, the user's on validation, times, the others."""
    if name in ("epoch", "step") or (name in COLUMNS and name not in _TIMES):
        return 0
    if name in _TIMES:
        return 2
    return 1 if name.startswith("validation_") else 3


def html_table(title: str, rows: Rows) -> str:
    """All metrics of the first and the last rows, at most `HTML_ROWS`, with a "…" between them."""
    names = _names(rows)
    half = HTML_ROWS // 2
    cut = len(rows) > HTML_ROWS
    shown = [*rows[:half], *rows[-half:]] if cut else rows
    columns = [_cells(name, shown, short=False) for name in names]
    lines = [_row("th", [column[0] for column in columns])] if columns else []
    for i in range(len(shown) if columns else 0):
        if cut and i == half:
            lines.append(_row("td", ["…"] * len(columns)))
        lines.append(_row("td", [column[i + 1] for column in columns]))
    caption = f"<caption>{html.escape(title)}</caption>"
    return "<table>\n" + "\n".join([caption, *lines]) + "\n</table>"


def _names(rows: Rows) -> list[str]:
    """The metrics, ours first."""
    there = dict.fromkeys(name for row in rows for name in row)
    return [name for name in _FORMATS if name in there] + [n for n in there if n not in _FORMATS]


def _cells(name: str, rows: Rows, *, short: bool) -> list[str]:
    """The heading of a column and its values, as text."""
    heading = _FORMATS[name][0] if short and name in _FORMATS else str(name).replace("_", " ")
    return [shortened(heading, LONGEST), *(value_text(name, row.get(name)) for row in rows)]


def value_text(name: str, value: object) -> str:
    """The value of a metric, rounded for its unit: at most `LONGEST` printable characters."""
    form = _FORMATS[name][1] if name in _FORMATS else ".6g"
    if value is None:
        return _NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return shortened(value, LONGEST)
    form = form.replace("d", "g") if isinstance(value, float) and form.endswith("d") else form
    try:
        return shortened(format(value, form), LONGEST)
    except (ValueError, OverflowError):  # an integer beyond every float
        return shortened(hex(value) if isinstance(value, int) else value, LONGEST)


def _row(tag: str, texts: Sequence[str]) -> str:
    cells = "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
    return f"<tr>{cells}</tr>"
