"""Pictures named one by one or by the folders that hold them, without classes."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from jaxcifar.common.errors import DataError, ImageFileError
from jaxcifar.common.messages import printable
from jaxcifar.data.listing import SUFFIXES, Listing, unread_note, warn_unread


def list_pictures(paths: Iterable[str | Path], *, follow_links: bool = False) -> tuple[Path, ...]:
    """The pictures at some paths, in order; nothing is read.

    Args:
        paths: a file is itself, whatever its suffix; a folder gives all pictures in it and in its
            subfolders, folder by folder and by name. Hidden ones are skipped.
        follow_links: whether links in a folder are followed to folders, and out of it.

    Returns:
        The paths, each below the one it was found by; a picture that is named twice is there twice.

    Raises:
        ImageFileError: a path does not exist, or is a pipe or the like.
        DataError: a folder holds no pictures, or cannot be listed.
    """
    listed: list[Path] = []
    for path in map(Path, paths):
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            reason = getattr(error, "strerror", None) or error
            raise ImageFileError(
                f"there is no image file {printable(str(path), 4_096)}: {reason}"
            ) from None
        if stat.S_ISDIR(mode):
            listed += _list_folder(path, follow_links)
        elif stat.S_ISREG(mode):
            listed.append(path)
        else:
            raise ImageFileError(f"{path} is neither a regular file nor a folder")
    return tuple(listed)


def _list_folder(path: Path, follow_links: bool) -> list[Path]:
    listing = Listing(path.resolve(), follow_links=follow_links)
    pictures = listing.pictures(listing.root)
    listing.check()
    if not pictures:
        raise DataError(
            f"{path} has no pictures ({' '.join(SUFFIXES)}){unread_note(listing.unread)}"
        )
    warn_unread(str(path), listing.unread)
    return [path / picture.name for picture in pictures]
