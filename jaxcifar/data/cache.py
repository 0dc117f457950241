"""Decoded images kept on disk, keyed by the SHA-256 of the data they were decoded from.

`<cache>/data/<fingerprint>/v1/` holds four `.npy` files (two if only labels are kept) and
`checks.json` with the CRC-32 of each. Reading all of CIFAR-10 from it takes 0.2 s, decoding it
takes 14 s. Every load checks the CRCs (0.08 s for 184 MB): they detect truncation and flipped bits,
while the fingerprint in the path identifies the data.
"""

import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import cache_folder, read_json
from jaxcifar.common.lock import wait_for_turn
from jaxcifar.common.messages import get_logger, warn
from jaxcifar.common.writing import make_folder, remove, sync_folder
from jaxcifar.data.dataset import Dataset

_log = get_logger(__name__)
_VERSION = "v1"  # of the file format; a new format gets a new folder
_CHECKS = "checks.json"
_SPLITS = ("train", "test")
_IMAGES, _LABELS = "images", "labels"
_BUILDING = ".building-"
Arrays = Mapping[tuple[str, str], NDArray]  # by split and field


def cached(
    fingerprint: str, decode: Callable[[], dict[str, Dataset]], *, folder: Path | None = None
) -> dict[str, Dataset]:
    """The decoded "train" and "test" data, decoded at most once per fingerprint.

    Args:
        fingerprint: SHA-256 (hex) of the data that `decode` reads.
        decode: called only if the cache has no intact copy.
        folder: the cache; by default `cache_folder()`.

    Returns:
        Datasets whose images are read-only memory maps; or, with a warning, plain arrays if the
        cache cannot be written.
    """

    def decode_arrays() -> Arrays:
        datasets = decode()
        return {
            (split, field): getattr(datasets[split], field)
            for split in _SPLITS
            for field in (_IMAGES, _LABELS)
        }

    arrays = _cached_arrays(fingerprint, (_IMAGES, _LABELS), decode_arrays, folder)
    return {split: Dataset(arrays[split, _IMAGES], arrays[split, _LABELS]) for split in _SPLITS}


def cached_labels(
    key: str, read: Callable[[], dict[str, NDArray[np.int32]]], *, folder: Path | None = None
) -> dict[str, NDArray[np.int32]]:
    """The labels of "train" and "test", read at most once per key.

    Args:
        key: a SHA-256 (hex) of the data that `read` reads; not a key of `cached`.
        read: called only if the cache has no intact copy; returns int32 `[n]` for each split.
        folder: as in `cached`.
    """

    def read_arrays() -> Arrays:
        return {(split, _LABELS): labels for split, labels in read().items()}

    arrays = _cached_arrays(key, (_LABELS,), read_arrays, folder)
    return {split: arrays[split, _LABELS] for split in _SPLITS}


def _cached_arrays(
    key: str, fields: Sequence[str], make: Callable[[], Arrays], folder: Path | None
) -> Arrays:
    home = (folder or cache_folder()) / "data" / key
    arrays = _load(home / _VERSION, fields)
    if arrays is not None:
        if any(home.glob(f"{_BUILDING}*")):
            with suppress(OSError), wait_for_turn(home, wait=False) as alone:
                if alone:
                    _remove_unfinished(home)
        return arrays
    made = make()
    try:
        _save(home, made, fields)
    except OSError as error:
        warn(
            f"the decoded data cannot be kept in {home} ({error}) and will be decoded again at the "
            "next start; set JAXCIFAR_CACHE_DIR to a writable folder",
            stacklevel=3,
        )
        return made
    return _load(home / _VERSION, fields) or made


def _load(folder: Path, fields: Sequence[str]) -> Arrays | None:
    """The arrays kept in `folder`, or None if they are absent or damaged."""
    if not (folder / _CHECKS).exists():
        return None
    try:
        checks = read_json(folder / _CHECKS)
        files = {
            (split, field): _file(folder, split, field) for split in _SPLITS for field in fields
        }
        if not all(file.is_file() for file in files.values()):  # reading a pipe would block
            raise DataError("a file is absent")
        with ThreadPoolExecutor(max_workers=2) as pool:
            crcs = list(pool.map(_crc32, files.values()))
        if any(checks[file.name] != crc for file, crc in zip(files.values(), crcs, strict=True)):
            raise DataError("a checksum differs")
        # Mapping refuses a header that declares more than the file holds; reading would allocate.
        mapped = {
            key: np.load(file, mmap_mode="r", allow_pickle=False) for key, file in files.items()
        }
        arrays = {
            key: array if key[1] == _IMAGES else np.array(array) for key, array in mapped.items()
        }
        if _IMAGES in fields:
            for split in _SPLITS:
                Dataset(arrays[split, _IMAGES], arrays[split, _LABELS])  # checks that they match
        return arrays
    except Exception as error:  # NumPy raises various errors for a damaged header
        _log.warning("the decoded images in %s are damaged (%s); decoding again", folder, error)
        return None


def _file(folder: Path, split: str, field: str) -> Path:
    return folder / f"{split}_{field}.npy"


def _save(home: Path, arrays: Arrays, fields: Sequence[str]) -> None:
    """Write next to the final folder and rename, so that no reader sees half of it."""
    make_folder(home)
    with wait_for_turn(home) as alone:
        if alone:
            _remove_unfinished(home)
        building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=home))
        try:
            new = building / "new"
            new.mkdir()
            for (split, field), array in arrays.items():
                np.save(_file(new, split, field), array)
            checks = {file.name: _crc32(file) for file in sorted(new.iterdir())}
            (new / _CHECKS).write_text(json.dumps(checks, indent=2))
            _move_into_place(new, home / _VERSION, fields)
            sync_folder(home)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _remove_unfinished(home: Path) -> None:
    """Remove what killed processes left; the caller holds the folder."""
    for folder in home.glob(f"{_BUILDING}*"):
        remove(folder)


def _move_into_place(new: Path, final: Path, fields: Sequence[str]) -> None:
    """Rename `new` to `final`, unless another process was faster with the same content."""
    tries = 10
    for attempt in range(tries):
        try:
            new.rename(final)
            return
        except OSError:
            if _load(final, fields) is not None:
                return
            if attempt == tries - 1:
                raise
            # It is damaged: move it away, unless another process has just done so.
            with suppress(OSError):
                final.rename(new.with_name(f"old{attempt}"))


def _crc32(path: Path) -> int:
    """CRC-32 of a file; zlib releases the interpreter lock, so two can run at once."""
    with path.open("rb") as file:
        crc = 0
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return crc
