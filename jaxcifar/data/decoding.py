"""Sources decoded completely, once, and kept on disk."""

import hashlib
import os
from collections.abc import Callable, Mapping

from jaxcifar.common.progress import progress_bar
from jaxcifar.data.cache import cached
from jaxcifar.data.damage import decode_all
from jaxcifar.data.dataset import Dataset, LabelledSource

# The decoder of these images; change it whenever a change of the decoder changes pixels.
_DECODER = "square 2"


def decoded(
    name: str,
    state: str,
    sources: Mapping[str, LabelledSource],
    *,
    check_unchanged: Callable[[], None],
    progress: bool = True,
) -> dict[str, Dataset]:
    """All images of each split, from the cache if they have been decoded before.

    Args:
        name: the dataset's, for messages.
        state: identifies the files and their state; another one means that they have changed.
        sources: by split, with images of one size.
        check_unchanged: raises if the files are no longer in this state; called after decoding, so
            that the cache never holds the images of another state.
        progress: whether to show a bar on a terminal.

    Raises:
        DataError: images cannot be read; the message names all of them.
    """
    splits = tuple(sources)
    side = sources[splits[0]].side

    def decode() -> dict[str, Dataset]:
        size = sum(len(source) for source in sources.values())
        with progress_bar(f"Decoding {name}", size, unit=" images", enabled=progress) as bar:
            datasets = decode_all(name, sources, bar.update)
        check_unchanged()
        return datasets

    # A path in the state may hold bytes that are not text.
    key = hashlib.sha256(os.fsencode(f"{_DECODER} {side} {state}")).hexdigest()
    return cached(key, decode, splits=splits)
