"""Decoded images kept on disk, keyed by the SHA-256 of the data they were decoded from.

`<cache>/data/<fingerprint>/v1/` holds two `.npy` files for each split (one if only labels are kept;
one in all for the digests of files) and `checks.json` with the CRC-32 of each. Reading all of
CIFAR-10 from it takes 0.2 s, decoding it takes 14 s. Every load checks the CRCs (0.08 s for
184 MB): they detect truncation and flipped bits, while the key in the path identifies the data.
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
_DIGESTS = ("files", "digests")
_BUILDING = ".building-"
Names = Sequence[tuple[str, str]]  # split and field, of which the files have their names
Arrays = Mapping[tuple[str, str], NDArray]


def cached(
    fingerprint: str,
    decode: Callable[[], dict[str, Dataset]],
    *,
    splits: Sequence[str] = _SPLITS,
    folder: Path | None = None,
) -> dict[str, Dataset]:
    """The decoded data of each split, decoded at most once per fingerprint.

    Args:
        fingerprint: SHA-256 (hex) of the data that `decode` reads.
        decode: called only if the cache has no intact copy.
        splits: what `decode` returns; always the same for one fingerprint.
        folder: the cache; by default `cache_folder()`.

    Returns:
        Datasets whose images are read-only memory maps; or, with a warning, plain arrays if the
        cache cannot be written.
    """

    def decode_arrays() -> Arrays:
        datasets = decode()
        return {(split, field): getattr(datasets[split], field) for split, field in names}

    names = [(split, field) for split in splits for field in (_IMAGES, _LABELS)]
    arrays = _cached_arrays(fingerprint, names, decode_arrays, folder)
    return {split: Dataset(arrays[split, _IMAGES], arrays[split, _LABELS]) for split in splits}


def cached_labels(
    key: str,
    read: Callable[[], dict[str, NDArray[np.int32]]],
    *,
    splits: Sequence[str] = _SPLITS,
    folder: Path | None = None,
) -> dict[str, NDArray[np.int32]]:
    """The labels of each split, read at most once per key.

    Args:
        key: a SHA-256 (hex) of the data that `read` reads; not a key of `cached`.
        read: called only if the cache has no intact copy; returns int32 `[n]` for each split.
        splits, folder: as in `cached`.
    """

    def read_arrays() -> Arrays:
        return {(split, _LABELS): labels for split, labels in read().items()}

    names = [(split, _LABELS) for split in splits]
    arrays = _cached_arrays(key, names, read_arrays, folder)
    return {split: arrays[split, _LABELS] for split in splits}


def cached_digests(
    key: str, read: Callable[[], NDArray[np.uint8]], *, folder: Path | None = None
) -> NDArray[np.uint8]:
    """The digests of files, uint8 `[n, 32]`, computed at most once per key.

    Args:
        key: a SHA-256 (hex) of the state of the files; not a key of `cached`.
        read: called only if the cache has no intact copy.
        folder: as in `cached`.
    """
    return _cached_arrays(key, [_DIGESTS], lambda: {_DIGESTS: read()}, folder)[_DIGESTS]


def _cached_arrays(
    key: str, names: Names, make: Callable[[], Arrays], folder: Path | None
) -> Arrays:
    try:
        home = (folder or cache_folder()) / "data" / key
    except OSError as error:  # no home folder
        made = make()
        _warn_uncached("anywhere", error)
        return made
    arrays = _load(home / _VERSION, names)
    if arrays is not None:
        if any(home.glob(f"{_BUILDING}*")):
            with suppress(OSError), wait_for_turn(home, wait=False) as alone:
                if alone:
                    _remove_unfinished(home)
        return arrays
    made = make()
    try:
        _save(home, made, names)
    except OSError as error:
        _warn_uncached(f"in {home}", error)
        return made
    return _load(home / _VERSION, names) or made


def _warn_uncached(where: str, error: OSError) -> None:
    warn(
        f"what was read from the data cannot be kept {where} ({error}) and will be "
        "read and decoded again at the next start; set JAXCIFAR_CACHE_DIR to a writable folder",
        stacklevel=4,
    )


def _load(folder: Path, names: Names, *, again: bool = False) -> Arrays | None:
    """The arrays kept in `folder`, or None if they are absent or damaged.

    Args:
        folder, names: what to load.
        again: damage has been logged before.
    """
    try:
        if not (folder / _CHECKS).exists():
            return None
        checks = read_json(folder / _CHECKS)
        files = {name: _file(folder, *name) for name in names}
        if not all(file.is_file() for file in files.values()):  # reading a pipe would block
            raise DataError("a file is absent")
        with ThreadPoolExecutor(max_workers=2) as pool:
            crcs = list(pool.map(_crc32, files.values()))
        if any(checks[file.name] != crc for file, crc in zip(files.values(), crcs, strict=True)):
            raise DataError("a checksum differs")
        # Mapping refuses a header that declares more than the file holds; reading would allocate.
        mapped = {
            name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in files.items()
        }
        arrays = {
            name: array if name[1] == _IMAGES else np.array(array) for name, array in mapped.items()
        }
        for split, field in names:
            if field == _IMAGES:
                Dataset(arrays[split, _IMAGES], arrays[split, _LABELS])  # checks that they match
        return arrays
    except Exception as error:  # NumPy raises various errors for a damaged header
        if not again:
            text = "the decoded images in %s are damaged (%s); decoding again"
            _log.warning(text, folder, error)
        return None


def _file(folder: Path, split: str, field: str) -> Path:
    return folder / f"{split}_{field}.npy"


def _save(home: Path, arrays: Arrays, names: Names) -> None:
    """Write next to the final folder and rename, so that no reader sees half of it."""
    make_folder(home)
    with wait_for_turn(home) as alone:
        if alone:
            _remove_unfinished(home)
        if _load(home / _VERSION, names, again=True) is not None:
            return  # another process has written it meanwhile
        building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=home))
        try:
            new = building / "new"
            new.mkdir()
            for (split, field), array in arrays.items():
                np.save(_file(new, split, field), array)
            checks = {file.name: _crc32(file) for file in sorted(new.iterdir())}
            (new / _CHECKS).write_text(json.dumps(checks, indent=2))
            _move_into_place(new, home / _VERSION, names)
            sync_folder(home)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _remove_unfinished(home: Path) -> None:
    """Remove what killed processes left; the caller holds the folder."""
    for folder in home.glob(f"{_BUILDING}*"):
        remove(folder)


def _move_into_place(new: Path, final: Path, names: Names) -> None:
    """Rename `new` to `final`, unless another process was faster with the same content."""
    tries = 10
    for attempt in range(tries):
        try:
            new.rename(final)
            return
        except OSError:
            if _load(final, names, again=True) is not None:
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
