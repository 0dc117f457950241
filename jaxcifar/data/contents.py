"""SHA-256 of the contents of many files, computed once for each state of them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.progress import progress_bar
from jaxcifar.data.cache import cached_digests
from jaxcifar.data.chunks import in_chunks
from jaxcifar.data.damage import damaged

_MOST_AT_ONCE = 256  # files


def file_digests(
    name: str, state: str, root: Path, files: Sequence[str], check_unchanged: Callable[[], None]
) -> NDArray[np.uint8]:
    """The SHA-256 of each file, as uint8 `[n, 32]`, from the cache if it knows the state.

    Args:
        name: what the progress bar and messages call the files.
        state: identifies the files and their state.
        root: the folder that they lie in.
        files: their paths below it.
        check_unchanged: raises if the files are no longer in this state; called after reading.

    Raises:
        DataError: files cannot be read; all are named.
    """

    def read() -> NDArray[np.uint8]:
        faults: list[str] = []
        whole = np.zeros((len(files), 32), np.uint8)

        def digest(rows: NDArray[np.int64]) -> None:
            for row in rows:
                file = root / files[row]
                try:
                    whole[row] = np.frombuffer(bytes.fromhex(sha256_of(file)), np.uint8)
                except OSError as error:
                    faults.append(f"{file}: {error.strerror or error}")

        # Hashlib releases the interpreter lock. A few files may be shards of gigabytes.
        at_once = min(_MOST_AT_ONCE, 1 + len(files) // 1_000)
        with progress_bar(f"Hashing {name}", len(files), unit=" files", enabled=True) as bar:
            for _ in in_chunks(len(files), digest, bar.update, at_once=at_once):
                pass
        if faults:
            raise damaged(name, sorted(faults))
        check_unchanged()
        return whole

    # A path in the state may hold bytes that are not text.
    return cached_digests(hashlib.sha256(os.fsencode(f"digests 1 {state}")).hexdigest(), read)
