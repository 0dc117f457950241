"""Sources decoded completely, once, and kept on disk."""

import hashlib
import os
from collections.abc import Mapping

from jaxcifar.data.cache import cached
from jaxcifar.data.dataset import Dataset, LabelledSource, read_all
from jaxcifar.data.progress import progress_bar

# The decoder of these images; change it whenever a change of the decoder changes pixels.
_DECODER = "square 2"


def decoded(
    name: str, state: str, sources: Mapping[str, LabelledSource], *, progress: bool = True
) -> dict[str, Dataset]:
    """All of "train" and "test", from the cache if they have been decoded before.

    Args:
        name: the dataset's, for the progress bar.
        state: identifies the files and their state; another one means that they have changed.
        sources: "train" and "test", with images of one size.
        progress: whether to show a bar on a terminal.

    Raises:
        DataError: an image cannot be read.
    """
    side = sources["train"].side

    def decode() -> dict[str, Dataset]:
        size = sum(len(source) for source in sources.values())
        with progress_bar(f"Decoding {name}", size, unit=" images", enabled=progress) as bar:
            return {split: read_all(source, bar.update) for split, source in sources.items()}

    # A path in the state may hold bytes that are not text.
    key = hashlib.sha256(os.fsencode(f"{_DECODER} {side} {state}")).hexdigest()
    return cached(key, decode)
