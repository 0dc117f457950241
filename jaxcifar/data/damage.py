"""Sources of encoded pictures, and all of their damaged pictures named at once."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.progress import progress_bar
from jaxcifar.data.chunks import in_chunks
from jaxcifar.data.dataset import Dataset, LabelledSource, Relabelled, Rows, Source
from jaxcifar.data.listing import one_error

_CHECKED_AT_ONCE = 64  # pictures; all of them are in memory in each thread


class _Report:
    """What is wrong with a source, found out once, by the first thread that asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[str] | None = None

    def get(self, find: Callable[[], list[str]]) -> list[str]:
        with self._lock:
            if self._faults is None:
                self._faults = find()
            return self._faults


@dataclass(frozen=True, eq=False)
class PictureSource(ABC):
    """Encoded pictures as images of `side` pixels, decoded as they are read: a `LabelledSource`."""

    _report: _Report = field(default_factory=_Report, init=False, repr=False)

    @property
    @abstractmethod
    def title(self) -> str:
        """What messages and progress bars call it."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int32]:
        """int32 `[n]`."""

    @abstractmethod
    def try_read(self, rows: NDArray[np.int64], /) -> tuple[Dataset, list[str]]:
        """The given rows, and what is wrong with those that cannot be read, which are black.

        Raises:
            DataError: nothing can be read.
        """

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: NDArray[np.int64], /) -> Dataset:
        """The given rows: see `image_file.decode_square`.

        Raises:
            DataError: some are gone, damaged or too large. Then all pictures of the source are
                decoded once, without keeping them, so that the message names all that are.
        """
        data, faults = self.try_read(rows)
        if faults:
            # None if somebody has mended them since.
            raise damaged(self.title, self._report.get(lambda: find_faults(self)) or faults)
        return data


def find_faults(source: PictureSource) -> list[str]:
    """What is wrong with each picture of a source that cannot be read; shows a progress bar."""
    with progress_bar(f"Checking {source.title}", len(source), unit=" images", enabled=True) as bar:

        def check(rows: NDArray[np.int64]) -> list[str]:
            return source.try_read(rows)[1]

        chunks = in_chunks(len(source), check, bar.update, at_once=_CHECKED_AT_ONCE)
        return [fault for faults in chunks for fault in faults]


def check_readable(source: Source) -> None:
    """Decode every picture of a source that is decoded as it is read, and keep none.

    Raises:
        DataError: some cannot be read; the message names all of them.
    """
    pictures = source
    while isinstance(pictures, (Rows, Relabelled)):
        pictures = pictures.source
    if not isinstance(pictures, PictureSource):
        return
    with progress_bar(
        f"Checking {pictures.title}", len(source), unit=" images", enabled=True
    ) as bar:

        def read(rows: NDArray[np.int64]) -> None:
            source.read(rows)

        for _ in in_chunks(len(source), read, bar.update, at_once=_CHECKED_AT_ONCE):
            pass


def decode_all(
    name: str, sources: Mapping[str, LabelledSource], on_read: Callable[[int], object]
) -> dict[str, Dataset]:
    """Every image of some sources, in memory.

    Args:
        name: what messages call them all.
        sources: by split.
        on_read: called with the number of images just decoded.

    Raises:
        DataError: some cannot be read; the message names all of them, at most 20.
    """
    faults: list[str] = []

    def decode(source: LabelledSource) -> Dataset:
        images = np.empty((len(source), source.side, source.side, 3), np.uint8)

        def read(rows: NDArray[np.int64]) -> list[str]:
            if isinstance(source, PictureSource):
                data, wrong = source.try_read(rows)
            else:
                data, wrong = source.read(rows), []
            images[rows] = data.images
            return wrong

        for wrong in in_chunks(len(source), read, on_read):
            faults.extend(wrong)
        return Dataset(images, source.labels)

    datasets = {split: decode(source) for split, source in sources.items()}
    if faults:
        raise damaged(name, faults)
    return datasets


def damaged(name: str, faults: list[str]) -> DataError:
    """The error about pictures that cannot be read; each fault names its picture."""
    if len(faults) == 1:
        return DataError(f"a picture cannot be read: {faults[0]}")
    return one_error(f"{len(faults):,} pictures of {name} cannot be read:", faults)
