"""The cells of Parquet files: labels without pictures, and encoded pictures row by row.

A column is compressed page by page, so a row cannot be read without those before it in its row
group. `Pictures` reads forward in blocks of rows and keeps the last of them: rows in order, and
random rows of data that fit into what is kept, are read once.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import printable
from jaxcifar.data.chunks import cores
from jaxcifar.data.listing import Picture, make_picture
from jaxcifar.data.parquet_schema import (
    MAX_CLASSES,
    Columns,
    Group,
    open_parquet,
    reading,
)

Cell = bytes | None
_BLOCK_ROWS = 256
_BLOCK_BYTES = 4 << 20  # of a block, on average; photographs of 100 kB make 40 rows
_KEPT_BYTES = 256 << 20  # encoded pictures in memory; CIFAR's 50,000 have 113 MB
_OPEN_FILES = 4
_LABELS_AT_ONCE = 65_536
_MAX_NAME = 1_000  # characters of a label that is a text
_WITHOUT_THEM = (
    "remove such rows; or, if they are test images and there are validation images, copy the files "
    "of the other splits to a folder and name it parquet:PATH: validation then stands for test"
)


@dataclass(frozen=True)
class Shard:
    """A file of a split.

    Attributes:
        path: where it is.
        columns: those that are used.
        groups: its row groups.
        found: its size, times and inode before anything of it was read.
    """

    path: Path
    columns: Columns
    groups: tuple[Group, ...]
    found: Picture

    @property
    def rows(self) -> int:
        """Number of images."""
        return sum(group.rows for group in self.groups)

    def check_unchanged(self) -> None:
        """Look at the file again: other pictures would get the labels of those that were there.

        Raises:
            DataError: it is not as it was found.
        """
        if not look_at(self.path).has_contents_of(self.found):
            raise DataError(f"{self.path} changed while it was read; load it again")


def look_at(path: Path) -> Picture:
    """The size, times and inode of a file, of a link those of what it leads to.

    Raises:
        DataError: it is not there, or may not be looked at.
    """
    try:
        return make_picture(os.fspath(path), os.stat(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def read_numbers(shard: Shard, classes: int) -> NDArray[np.int32]:
    """The labels of a file, int32 `[n]`, that are whole numbers.

    Args:
        shard: the file.
        classes: labels must be less.

    Raises:
        DataError: naming the first row whose label is none, or not one of 0 to `classes` - 1.
    """
    from pyarrow import compute

    parts = []
    for start, column in _label_batches(shard):
        _check_nulls(shard, column, start)
        with reading(shard.path):
            values = compute.cast(column, "int64").to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero((values < 0) | (values >= classes))
        if len(wrong):
            value = int(values[wrong[0]])
            note = " (-1 means unlabelled on the Hugging Face hub)" if value == -1 else ""
            raise DataError(
                f"{shard.path}: row {start + int(wrong[0])}, column {shard.columns.label}: the "
                f"label is {value}{note}; expected one of 0 to {classes - 1}: {_WITHOUT_THEM}"
            )
        parts.append(values.astype(np.int32))
    return np.concatenate([np.zeros(0, np.int32), *parts])


def read_texts(shard: Shard, known: dict[str, int], *, grow: bool) -> NDArray[np.int32]:
    """The labels of a file that are texts, as int32 `[n]` positions in `known`.

    Args:
        shard: the file.
        known: the position of each text.
        grow: whether other texts are added to `known`, at its end.

    Raises:
        DataError: naming the first row whose label is none or not known.
    """
    parts = []
    for start, column in _label_batches(shard):
        _check_nulls(shard, column, start)
        with reading(shard.path):
            encoded = column if hasattr(column, "dictionary") else column.dictionary_encode()
            texts = encoded.dictionary.to_pylist()
            indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        lookup = np.full(len(texts), -1, np.int32)
        for i in np.unique(indices):
            text = texts[i]
            if text not in known and grow:
                _check_class(shard, text, len(known))
                known[text] = len(known)
            lookup[i] = known.get(text, -1)
        labels = lookup[indices]
        wrong = np.flatnonzero(labels < 0)
        if len(wrong):
            raise DataError(
                f"{shard.path}: row {start + int(wrong[0])}, column {shard.columns.label}: the "
                f"label {printable(str(texts[indices[wrong[0]]]))!r} is not one of the "
                f"{len(known):,} classes of the training data: remove such rows"
            )
        parts.append(labels)
    return np.concatenate([np.zeros(0, np.int32), *parts])


def _check_class(shard: Shard, text: Any, count: int) -> None:
    if not isinstance(text, str) or len(text) > _MAX_NAME or count >= MAX_CLASSES:
        raise DataError(
            f"{shard.path}: the column {shard.columns.label} holds no classes: more than "
            f"{MAX_CLASSES:,} texts, or one of more than {_MAX_NAME:,} characters; name another "
            "column, as in #label=COLUMN"
        )


def _label_batches(shard: Shard) -> Iterator[tuple[int, Any]]:
    """The first row of each part of the column of labels, and the part."""
    start = 0
    with reading(shard.path), open_parquet(shard.path) as file:
        for batch in file.iter_batches(
            _LABELS_AT_ONCE, columns=[shard.columns.label], use_threads=False
        ):
            column = batch.column(0)
            yield start, column
            start += len(column)
    shard.check_unchanged()
    _check_rows(shard, start)


def _check_rows(shard: Shard, found: int) -> None:
    if found != shard.rows:
        raise DataError(
            f"{shard.path} declares {shard.rows:,} rows, but {found:,} can be read: it is damaged; "
            "get the file again"
        )


def _check_nulls(shard: Shard, column: Any, start: int) -> None:
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(
            f"{shard.path}: row {row}, column {shard.columns.label}: there is no label (null); "
            f"{_WITHOUT_THEM}"
        )


def digest_pictures(
    shards: Sequence[Shard], labels: NDArray[np.int32], on_read: Callable[[int], object]
) -> bytes:
    """SHA-256 of the encoded pictures and labels of a split, in order.

    How the rows are divided into files, row groups and pages does not change it.

    Args:
        shards: the files of the split.
        labels: int32 `[n]`.
        on_read: called with the number of pictures just read.

    Raises:
        DataError: a file cannot be read.
    """
    whole = hashlib.sha256(labels.astype("<i4").tobytes())
    pool = ThreadPoolExecutor(max_workers=cores())  # hashlib and pyarrow release the lock
    try:
        for digests in pool.map(_digests, shards):
            whole.update(digests)
            on_read(len(digests) // 32)
    finally:
        pool.shutdown(cancel_futures=True)
    return whole.digest()


def _digests(shard: Shard) -> bytes:
    """The SHA-256 of each picture; zeros where there is none."""
    digests = bytearray()
    with reading(shard.path), open_parquet(shard.path) as file:
        for group in range(len(shard.groups)):
            for block in _blocks(file, shard, group):
                for cell in block:
                    digests += bytes(32) if cell is None else hashlib.sha256(cell).digest()
    return bytes(digests)


def _block_rows(group: Group) -> int:
    average = max(1, group.size // max(1, group.rows))
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // average))


def _blocks(file: Any, shard: Shard, group: int) -> Iterator[list[Cell]]:
    """The pictures of a row group, `_block_rows` at a time.

    Raises:
        DataError: there are not as many as the file declares.
    """
    from pyarrow import compute

    size, found = _block_rows(shard.groups[group]), 0
    image, in_struct = shard.columns.image, shard.columns.in_struct
    wanted = f"{image}.bytes" if in_struct else image
    pending: list[Cell] = []
    for batch in file.iter_batches(size, row_groups=[group], columns=[wanted], use_threads=False):
        column = batch.column(batch.schema.names.index(image))
        cells = compute.struct_field(column, "bytes") if in_struct else column
        pending += cells.to_pylist()
        found += len(cells)
        while len(pending) >= size:
            yield pending[:size]
            pending = pending[size:]
    if found != shard.groups[group].rows:
        raise DataError(
            f"{shard.path}: row group {group} declares {shard.groups[group].rows:,} rows, but "
            f"{found:,} can be read: it is damaged; get the file again"
        )
    if pending:
        yield pending


@dataclass(eq=False)
class _OpenFile:
    """A file that is being read forward.

    Attributes:
        file: of pyarrow.
        group: the row group.
        blocks: the rest of its blocks.
        at: the number of the next of them.
    """

    file: Any
    group: int = -1
    blocks: Iterator[list[Cell]] = field(default_factory=lambda: iter(()))
    at: int = 0


class Pictures:
    """The encoded pictures of a split by row; several threads may read at once.

    They take turns at the files; decoding, which takes longer, is left to them.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Nothing is opened yet."""
        self._shards = tuple(shards)
        groups = [
            (i, j, group) for i, shard in enumerate(shards) for j, group in enumerate(shard.groups)
        ]
        self._places = [(i, j, _block_rows(group)) for i, j, group in groups]
        self._ends = np.cumsum([group.rows for _, _, group in groups], dtype=np.int64)
        self._first_rows = np.cumsum([0, *(shard.rows for shard in self._shards)])[:-1]
        self._lock = threading.Lock()
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int, int], list[Cell]] = OrderedDict()
        self._kept_bytes = 0

    def read(self, rows: NDArray[np.int64]) -> list[Cell]:
        """The picture of each row, as it is in the file; None where there is none.

        Raises:
            DataError: a file cannot be read.
        """
        places = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends])
        cells: list[Cell] = [None] * len(rows)
        with self._lock:
            for i in np.argsort(rows, kind="stable"):  # forward in each file
                shard, group, size = self._places[places[i]]
                block, at = divmod(int(rows[i] - starts[places[i]]), size)
                cells[i] = self._block(shard, group, block)[at]
        return cells

    def where(self, row: int) -> str:
        """The file, the row in it and the column, for messages."""
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        found = self._shards[shard]
        start = int(self._first_rows[shard])
        return f"{found.path}, row {row - start}, column {found.columns.image}"

    def _block(self, shard: int, group: int, block: int) -> list[Cell]:
        key = shard, group, block
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        with reading(self._shards[shard].path):
            opened = self._open(shard)
            if opened.group != group or opened.at > block:
                opened.blocks = _blocks(opened.file, self._shards[shard], group)
                opened.group, opened.at = group, 0
            cells: list[Cell] = []
            while opened.at <= block:
                try:
                    cells = next(opened.blocks)
                    self._shards[shard].check_unchanged()
                except BaseException as error:
                    self._close(shard)
                    if isinstance(error, StopIteration):
                        raise DataError("there are fewer rows than it declares") from None
                    raise
                self._keep((shard, group, opened.at), cells)
                opened.at += 1
        return cells

    def _open(self, shard: int) -> _OpenFile:
        if shard not in self._files:
            while len(self._files) >= _OPEN_FILES:
                self._close(next(iter(self._files)))
            self._files[shard] = _OpenFile(open_parquet(self._shards[shard].path))
        self._files.move_to_end(shard)
        self._shards[shard].check_unchanged()
        return self._files[shard]

    def _close(self, shard: int) -> None:
        self._files.pop(shard).file.close()

    def _keep(self, key: tuple[int, int, int], cells: list[Cell]) -> None:
        if key in self._kept:
            return
        self._kept[key] = cells
        self._kept_bytes += _size(cells)
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= _size(self._kept.popitem(last=False)[1])


def _size(cells: Sequence[Cell]) -> int:
    return sum(len(cell) for cell in cells if cell is not None)
