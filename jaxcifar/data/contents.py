"""SHA-256 of the contents of many files, computed once for each state of them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.progress import progress_bar
from jaxcifar.data.cache import cached_digests
from jaxcifar.data.chunks import cores
from jaxcifar.data.damage import damaged


def file_digests(
    name: str, state: str, files: Sequence[Path], check_unchanged: Callable[[], None]
) -> NDArray[np.uint8]:
    """The SHA-256 of each file, as uint8 `[n, 32]`, from the cache if it knows the state.

    Args:
        name: what the progress bar and messages call the files.
        state: identifies the files and their state.
        files: what to read.
        check_unchanged: raises if the files are no longer in this state; called after reading.

    Raises:
        DataError: files cannot be read; all are named.
    """

    def read() -> NDArray[np.uint8]:
        faults: list[str] = []

        def digest(file: Path) -> bytes:
            try:
                return bytes.fromhex(sha256_of(file))
            except OSError as error:
                faults.append(f"{file}: {error.strerror or error}")
                return bytes(32)

        # One thread per core: hashlib releases the interpreter lock.
        pool = ThreadPoolExecutor(max_workers=cores())
        whole = np.empty((len(files), 32), np.uint8)
        try:
            with progress_bar(f"Hashing {name}", len(files), unit=" files", enabled=True) as bar:
                for row, value in enumerate(pool.map(digest, files)):
                    whole[row] = np.frombuffer(value, np.uint8)
                    bar.update(1)
        finally:
            pool.shutdown(cancel_futures=True)
        if faults:
            raise damaged(name, sorted(faults))
        check_unchanged()
        return whole

    # A path in the state may hold bytes that are not text.
    return cached_digests(hashlib.sha256(os.fsencode(f"digests 1 {state}")).hexdigest(), read)
