"""The user's own datasets, by the prefix of their names: one way to find and to load them."""

from collections.abc import Mapping
from pathlib import Path

from jaxcifar.common.errors import DataError
from jaxcifar.data import folder, hub_datasets, parquet_any, parquet_name, tfds_any
from jaxcifar.data.dataset import LabelledSource
from jaxcifar.data.decoding import decoded
from jaxcifar.data.listing import warn_unread

WAYS = (
    "folder:PATH, tfds:NAME, parquet:PATH or hf:OWNER/NAME"  # how messages say that they are named
)
Own = folder.Folder | tfds_any.TfdsDataset | parquet_any.ParquetDataset
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
    if name.startswith(parquet_name.PREFIX):
        return parquet_any.find_parquet(name, follow_links=follow_links)
    if name.startswith(hub_datasets.PREFIX):
        return hub_datasets.find_hub_dataset(name)
    return None


def known_own(
    name: str, data_dir: str | Path | None = None, *, follow_links: bool = False
) -> Own | None:
    """As `find_own`, but looked for anew only if something on disk may have changed."""
    if name.startswith(folder.PREFIX):
        return folder.known_folder(name, follow_links=follow_links)
    if name.startswith(tfds_any.PREFIX):
        return tfds_any.known_tfds(name, data_dir)
    if name.startswith(parquet_name.PREFIX):
        return parquet_any.known_parquet(name, follow_links=follow_links)
    if name.startswith(hub_datasets.PREFIX):
        return hub_datasets.known_hub_dataset(name)
    return None


def find_own_split(
    name: str, split: str, data_dir: str | Path | None = None, *, follow_links: bool = False
) -> Own | None:
    """As `find_own`, with this split alone; the others may be absent."""
    if name.startswith(folder.PREFIX):
        return folder.find_split(name, split, follow_links=follow_links)
    if name.startswith(tfds_any.PREFIX):
        return tfds_any.find_tfds(name, data_dir, split=split)
    if name.startswith(parquet_name.PREFIX):
        return parquet_any.find_parquet(name, split=split, follow_links=follow_links)
    if name.startswith(hub_datasets.PREFIX):
        return hub_datasets.find_hub_dataset(name, split=split)
    return None


def has_train_split(
    name: str, data_dir: str | Path | None = None, *, follow_links: bool = False
) -> bool | None:
    """Whether the user's own data have images to train on; None if they are not the user's own."""
    try:
        found = find_own_split(name, "train", data_dir, follow_links=follow_links)
    except DataError:
        return False
    return None if found is None else True


def load_own(own: Own, name: str, side: int | None, *, lazy: bool) -> Sources:
    """The splits of the user's own data.

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
    return sources


def located(name: str) -> str:
    """A dataset's name that holds in any working directory.

    Args:
        name: of any dataset; that of a folder or of Parquet files gets `~` expanded and its path
            absolute. Links in it are not resolved. Other names are returned as they are.

    Raises:
        DataError: there is no path, or it leads nowhere; see `files.absolute_path`.
    """
    if name.startswith(parquet_name.PREFIX):
        return parquet_name.located(name)
    return folder.located(name)


def revision_of(own: Own | None) -> str | None:
    """The commit on the Hugging Face hub that the data are of; None if they are not from there."""
    return own.revision if isinstance(own, parquet_any.ParquetDataset) else None


def _check_side(name: str, side: int | None) -> int:
    if side is None:
        raise DataError(
            f"the images of {name} have several sizes; give the side to scale them to "
            "(--resize, Recipe.resize)"
        )
    if side < 1:
        raise DataError(f"the side must be at least one pixel, not {side}")
    return side
