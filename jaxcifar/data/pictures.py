"""TEMPORARY."""

from collections.abc import Sequence
from pathlib import Path

from jaxcifar.common.errors import DataError, ImageFileError


def list_pictures(paths: Sequence[Path], *, follow_links: bool = False) -> tuple[Path, ...]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix in (".png", ".jpg"))
        elif not path.exists():
            raise ImageFileError(f"there is no image file {path}")
        else:
            found.append(path)
    if not found:
        raise DataError("no pictures")
    return tuple(found)
