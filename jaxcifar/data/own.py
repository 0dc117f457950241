"""The user's own datasets, by the prefix of their names: one way to find and to load them."""

from collections.abc import Mapping
from pathlib import Path

from jaxcifar.common.errors import DataError
from jaxcifar.data import folder, tfds_any
from jaxcifar.data.dataset import LabelledSource
from jaxcifar.data.decoding import decoded
from jaxcifar.data.listing import warn_unread

WAYS = "folder:PATH or tfds:NAME"  # how messages say that they are named
Own = folder.Folder | tfds_any.TfdsDataset
Sources = Mapping[str, LabelledSource]


def find_own(
    name: str, data_dir: str | Path | None = None, *, follow_links: bool = False
) -> Own | None:
    """The user's own dataset as it is on disk now; None if the name has none of the prefixes.

    Args:
        name: the dataset's.
        data_dir, follow_links: as in `load.dataset_info`.

    Raises:
        DataError: it is not there, or cannot be used.
    """
    if name.startswith(folder.PREFIX):
        return folder.find_folder(name, follow_links=follow_links)
    if name.startswith(tfds_any.PREFIX):
        return tfds_any.find_tfds(name, data_dir)
    return None


def known_own(
    name: str, data_dir: str | Path | None = None, *, follow_links: bool = False
) -> Own | None:
    """As `find_own`, but looked for anew only if something on disk may have changed."""
    if name.startswith(folder.PREFIX):
        return folder.known_folder(name, follow_links=follow_links)
    if name.startswith(tfds_any.PREFIX):
        return tfds_any.known_tfds(name, data_dir)
    return None


def find_own_split(
    name: str, split: str, data_dir: str | Path | None = None, *, follow_links: bool = False
) -> Own | None:
    """As `find_own`, with this split alone; the others may be absent."""
    if name.startswith(folder.PREFIX):
        return folder.find_split(name, split, follow_links=follow_links)
    if name.startswith(tfds_any.PREFIX):
        return tfds_any.find_tfds(name, data_dir, split=split)
    return None


def load_own(own: Own, name: str, side: int | None, *, lazy: bool) -> tuple[Sources, str]:
    """The splits of the user's own data, and their fingerprint.

    Args:
        own: what was found.
        name: what messages call it.
        side: pixels, to which images of several sizes are scaled.
        lazy: decode the images when they are asked for, not all of them now.

    Raises:
        DataError: the side is missing or not positive; or the data cannot be read.
    """
    side = _check_side(name, own.side or side)
    if isinstance(own, folder.Folder):
        warn_unread(own.name, own.unread, own.loose)
    sources: Sources = own.sources(side)
    if not lazy:
        sources = decoded(own.name, own.state, sources, check_unchanged=own.check_unchanged)
    return sources, own.fingerprint()


def located(name: str) -> str:
    """A dataset's name that holds in any working directory; see `folder.located`."""
    return folder.located(name)


def _check_side(name: str, side: int | None) -> int:
    if side is None:
        raise DataError(
            f"the images of {name} have several sizes; give the side to scale them to "
            "(--resize, Recipe.resize)"
        )
    if side < 1:
        raise DataError(f"the side must be at least one pixel, not {side}")
    return side
