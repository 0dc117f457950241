"""SHA-256 of files."""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxcifar.common.errors import DataError


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in name order, whatever folder they lie in.

    Two threads (hashlib lets go of the interpreter lock): the 140 MB of CIFAR-10 take 0.11 s
    where one thread takes 0.14 s, on two cores with SHA instructions.
    """
    ordered = sorted(files, key=lambda file: file.name)
    with ThreadPoolExecutor(max_workers=2) as pool:
        digests = list(pool.map(sha256_of, ordered))
    lines = (f"{digest}  {file.name}\n" for digest, file in zip(digests, ordered, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_digest_form(sha256: str) -> str:
    """Returns the digest in lower case.

    Raises:
      DataError: it is not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise DataError(f"A SHA-256 digest is 64 hexadecimal digits, got {sha256!r}.")
    return sha256.lower()
