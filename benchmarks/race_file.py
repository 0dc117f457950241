"""The file of a race: a header of the machine, the code and the data, then a line for each run."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import describe
from jaxcifar.common.errors import RunError
from jaxcifar.common.writing import append_line, make_folder
from jaxcifar.data import Splits

ROOT = Path(__file__).parents[1]
# What the figures of a run depend on; a page of docs or another benchmark may change between runs.
OWN_SOURCES = ("race", "race_file", "contenders", "settings", "without_tfds")
SOURCES = ("jaxcifar/**/*.py", *(f"benchmarks/{name}.py" for name in OWN_SOURCES))
HEADER = {"machine", "code", "data"}
RUN = {"name", "preset", "settings", "seed", "train_seconds", "compile_seconds", "seconds"}
Row = dict[str, Any]


def make_header(splits: Iterable[Splits]) -> Row:
    """The machine, the versions, the code and the data: a line before the runs they belong to."""
    data = sorted({f"{each.name} {each.fingerprint}" for each in splits})
    return {"machine": describe(), "commit": commit(), "code": code_digest(), "data": data}


def commit() -> str | None:
    """The commit that is checked out; None outside of a clone."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def code_digest() -> str:
    """SHA-256 (hex) of `SOURCES` as they are, which may differ from any commit."""
    whole = hashlib.sha256()
    for path in (path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))):
        whole.update(f"{path.relative_to(ROOT).as_posix()}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def open_file(out: Path, header: Row, *, resume: bool) -> list[Row]:
    """The runs that `out` holds under this header, which is written unless it is the last one.

    Raises:
        RunError: the file holds runs, and they are not to be continued; or it is no such file.
    """
    text = _text_of(out)
    rows = _rows_of(text)
    if rows is None:
        raise RunError(f"{out} was not written by a race: choose another --out")
    kept: list[Row] = []
    last: Row = {}
    for row in rows:
        if "machine" in row:
            last = row
        elif _compared(last) == _compared(header):
            kept.append(row)
    if any("name" in row for row in rows) and not resume:
        raise RunError(f"{out} holds runs already: continue with --resume, or choose another --out")
    make_folder(out.parent)
    if text and not text.endswith("\n"):
        append_line(out, "")
    if _compared(last) != _compared(header):
        append_line(out, json.dumps(header))
    return kept


def _rows_of(text: str) -> list[Row] | None:
    """The headers and runs of a race's file; None if it is none."""
    rows: list[Row] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            if not _is_cut(line):
                return None
            continue
        known = isinstance(row, dict) and (HEADER if "machine" in row else RUN) <= set(row)
        if not known or (not rows and "machine" not in row):
            return None
        rows.append(row)
    return rows


def _is_cut(line: str) -> bool:
    """Whether it is the beginning of a header or of a run, which a kill cut short."""
    return any(line[: len(start)] == start[: len(line)] for start in ('{"machine": ', '{"name": '))


def _text_of(out: Path) -> str:
    """What the file holds; "" if there is none."""
    try:
        return out.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{out} cannot be read ({error}): choose another --out") from None


def _compared(header: Row) -> Row:
    """A header without the commit: most commits change nothing that runs, see `code_digest`.

    And without the data of all contenders: those of a run are in its line.
    """
    return {name: value for name, value in header.items() if name not in ("commit", "data")}


def identity(row: Row) -> str:
    """What two lines of one header have in common if they are the same run."""
    names = ("name", "preset", "settings", "data", "weights_sha256", "seed")
    return json.dumps([row.get(name) for name in names], sort_keys=True)
