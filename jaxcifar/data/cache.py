"""Decoded images kept on disk, keyed by the SHA-256 of what they were decoded from.

`<cache>/data/<fingerprint>/v1/` holds four `.npy` files and `checks.json` with a CRC-32 of each.
Reading all of CIFAR-10 from it takes 0.2 s where decoding takes 14 s. The CRCs are checked at every
load (0.08 s for 184 MB): they guard against truncation and flipped bits, while that the data is the
right data is what the fingerprint in the path says.
"""

import json
import logging
import os
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from jaxcifar.data.dataset import Dataset
from jaxcifar.data.errors import DataError
from jaxcifar.untrusted import read_json

_log = logging.getLogger(__name__)
_VERSION = "v1"  # of this file format; a new one gets a new folder
_CHECKS = "checks.json"
_SPLITS = ("train", "test")
_BUILDING = ".building-"
_ABANDONED = 3600.0  # seconds after which a folder in building belongs to a killed process


def cache_folder() -> Path:
    """`$JAXCIFAR_CACHE_DIR`, else `$XDG_CACHE_HOME/jaxcifar`, else `~/.cache/jaxcifar`."""
    if own := os.environ.get("JAXCIFAR_CACHE_DIR"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jaxcifar"


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
    home = (folder or cache_folder()) / "data" / fingerprint
    kept = _load(home / _VERSION)
    if kept is not None:
        return kept
    decoded = decode()
    try:
        _save(home, decoded)
    except OSError as error:
        warnings.warn(
            f"The decoded images cannot be kept in {home} ({error}); they will be decoded again "
            "at the next start. Set JAXCIFAR_CACHE_DIR to a folder that can be written.",
            stacklevel=2,
        )
        return decoded
    return _load(home / _VERSION) or decoded


def _load(place: Path) -> dict[str, Dataset] | None:
    """What is kept at `place`, or None where it is absent or damaged."""
    if not (place / _CHECKS).exists():
        return None
    try:
        checks = read_json(place / _CHECKS)
        files = [
            place / f"{split}_{part}.npy" for split in _SPLITS for part in ("images", "labels")
        ]
        if not all(file.is_file() for file in files):  # a pipe would wait
            raise DataError("a file is absent")
        with ThreadPoolExecutor(max_workers=2) as pool:
            found = list(pool.map(_crc32, files))
        if any(checks[file.name] != crc for file, crc in zip(files, found, strict=True)):
            raise DataError("a checksum differs")
        return {split: _load_split(place, split) for split in _SPLITS}
    except Exception as error:  # NumPy's, too, about a header that it cannot follow
        _log.warning("The decoded images in %s are damaged (%s); decoding again.", place, error)
        return None


def _load_split(place: Path, split: str) -> Dataset:
    images = np.load(place / f"{split}_images.npy", mmap_mode="r", allow_pickle=False)
    # Mapped, so that a header which declares more than the file has is refused, not allotted.
    labels = np.load(place / f"{split}_labels.npy", mmap_mode="r", allow_pickle=False)
    return Dataset(images, np.array(labels))


def _save(home: Path, decoded: dict[str, Dataset]) -> None:
    """Writes beside the final place and renames, so that no reader sees half of it."""
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=home))
    try:
        new = building / "new"
        new.mkdir()
        for split in _SPLITS:
            np.save(new / f"{split}_images.npy", decoded[split].images)
            np.save(new / f"{split}_labels.npy", decoded[split].labels)
        checks = {file.name: _crc32(file) for file in sorted(new.iterdir())}
        (new / _CHECKS).write_text(json.dumps(checks, indent=2))
        _put_in_place(new, home / _VERSION)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _put_in_place(new: Path, final: Path) -> None:
    """Renames `new` to `final`, unless another process was faster with the same content."""
    tries = 10
    for attempt in range(tries):
        try:
            new.rename(final)
            return
        except OSError:
            if _load(final) is not None:
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
