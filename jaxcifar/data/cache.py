"""Decoded images kept on disk, keyed by the SHA-256 of what they were decoded from.

`<cache>/data/<fingerprint>/v1/` holds four `.npy` files (two, where only labels are kept) and
`checks.json` with a CRC-32 of each.
Reading all of CIFAR-10 from it takes 0.2 s where decoding takes 14 s. The CRCs are checked at every
load (0.08 s for 184 MB): they guard against truncation and flipped bits, while that the data is the
right data is what the fingerprint in the path says.
"""

import json
import logging
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import cache_folder, read_json
from jaxcifar.data.dataset import Dataset

_log = logging.getLogger(__name__)
_VERSION = "v1"  # of this file format; a new one gets a new folder
_CHECKS = "checks.json"
_SPLITS = ("train", "test")
_IMAGES, _LABELS = "images", "labels"
_BUILDING = ".building-"
Arrays = Mapping[tuple[str, str], NDArray]  # by split and part
_ABANDONED = 3600.0  # seconds after which a folder in building belongs to a killed process


def cached(
    fingerprint: str, decode: Callable[[], dict[str, Dataset]], *, folder: Path | None = None
) -> dict[str, Dataset]:
    """Returns the decoded "train" and "test" data, decoding at most once per fingerprint.

    Args:
      fingerprint: SHA-256 (hex) of what `decode` reads.
      decode: called only where no sound copy is kept.
      folder: the cache; `cache_folder()` unless given.

    Returns:
      Datasets whose images are read-only memory maps; or, with a warning, plain arrays where the
      cache cannot be written.
    """

    def arrays() -> Arrays:
        decoded = decode()
        return {
            (split, part): getattr(decoded[split], part)
            for split in _SPLITS
            for part in (_IMAGES, _LABELS)
        }

    kept = _cached_arrays(fingerprint, (_IMAGES, _LABELS), arrays, folder)
    return {split: Dataset(kept[split, _IMAGES], kept[split, _LABELS]) for split in _SPLITS}


def cached_labels(
    key: str, read: Callable[[], dict[str, NDArray[np.int32]]], *, folder: Path | None = None
) -> dict[str, NDArray[np.int32]]:
    """Returns the labels of "train" and "test", reading them at most once per key.

    Args:
      key: a SHA-256 (hex) of what `read` reads, and not one whose images are kept.
      read: called only where no sound copy is kept; gives int32 `[n]` of each.
      folder: as of `cached`.
    """

    def arrays() -> Arrays:
        return {(split, _LABELS): labels for split, labels in read().items()}

    kept = _cached_arrays(key, (_LABELS,), arrays, folder)
    return {split: kept[split, _LABELS] for split in _SPLITS}


def _cached_arrays(
    key: str, parts: Sequence[str], make: Callable[[], Arrays], folder: Path | None
) -> Arrays:
    home = (folder or cache_folder()) / "data" / key
    kept = _load(home / _VERSION, parts)
    if kept is not None:
        return kept
    made = make()
    try:
        _save(home, made, parts)
    except OSError as error:
        warnings.warn(
            f"What was decoded cannot be kept in {home} ({error}); it will be decoded again "
            "at the next start. Set JAXCIFAR_CACHE_DIR to a folder that can be written.",
            stacklevel=3,
        )
        return made
    return _load(home / _VERSION, parts) or made


def _load(place: Path, parts: Sequence[str]) -> Arrays | None:
    """What is kept at `place`, or None where it is absent or damaged."""
    if not (place / _CHECKS).exists():
        return None
    try:
        checks = read_json(place / _CHECKS)
        files = {(split, part): _file(place, split, part) for split in _SPLITS for part in parts}
        if not all(file.is_file() for file in files.values()):  # a pipe would wait
            raise DataError("a file is absent")
        with ThreadPoolExecutor(max_workers=2) as pool:
            found = list(pool.map(_crc32, files.values()))
        if any(checks[file.name] != crc for file, crc in zip(files.values(), found, strict=True)):
            raise DataError("a checksum differs")
        # Mapped, so that a header which declares more than the file has is refused, not allotted.
        mapped = {
            key: np.load(file, mmap_mode="r", allow_pickle=False) for key, file in files.items()
        }
        kept = {
            key: array if key[1] == _IMAGES else np.array(array) for key, array in mapped.items()
        }
        if _IMAGES in parts:
            for split in _SPLITS:
                Dataset(kept[split, _IMAGES], kept[split, _LABELS])  # which go together
        return kept
    except Exception as error:  # NumPy's, too, about a header that it cannot follow
        _log.warning("The decoded images in %s are damaged (%s); decoding again.", place, error)
        return None


def _file(place: Path, split: str, part: str) -> Path:
    return place / f"{split}_{part}.npy"


def _save(home: Path, made: Arrays, parts: Sequence[str]) -> None:
    """Writes beside the final place and renames, so that no reader sees half of it."""
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=home))
    try:
        new = building / "new"
        new.mkdir()
        for (split, part), array in made.items():
            np.save(_file(new, split, part), array)
        checks = {file.name: _crc32(file) for file in sorted(new.iterdir())}
        (new / _CHECKS).write_text(json.dumps(checks, indent=2))
        _put_in_place(new, home / _VERSION, parts)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _put_in_place(new: Path, final: Path, parts: Sequence[str]) -> None:
    """Renames `new` to `final`, unless another process was faster with the same content."""
    tries = 10
    for attempt in range(tries):
        try:
            new.rename(final)
            return
        except OSError:
            if _load(final, parts) is not None:
                return
            if attempt == tries - 1:
                raise
            # It is damaged: moved out of the way, if another process has not just done so.
            with suppress(OSError):
                final.rename(new.with_name(f"old{attempt}"))


def _sweep(home: Path) -> None:
    for left in home.glob(f"{_BUILDING}*"):
        with suppress(FileNotFoundError):  # another process may be done with it
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _crc32(path: Path) -> int:
    """CRC-32 of a file; zlib lets go of the interpreter lock, so two can run at once."""
    with path.open("rb") as file:
        crc = 0
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return crc
