"""SHA-256 of files."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in name order; their folders do not matter.

    Two threads (hashlib releases the interpreter lock): the 140 MB of CIFAR-10 take 0.11 s instead
    of 0.14 s with one thread, on two cores with SHA instructions.
    """
    ordered = sorted(files, key=lambda file: file.name)
    with ThreadPoolExecutor(max_workers=2) as pool:
        digests = list(pool.map(sha256_of, ordered))
    lines = (f"{digest}  {file.name}\n" for digest, file in zip(digests, ordered, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
