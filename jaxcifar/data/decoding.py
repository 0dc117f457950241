"""Sources decoded whole, once, and kept on disk."""

import hashlib
from collections.abc import Mapping

from jaxcifar.data.cache import cached
from jaxcifar.data.dataset import Dataset, LabelledSource, read_all
from jaxcifar.data.progress import progress_bar

# What the images below are decoded by; another number where their pixels become others.
_DECODER = "square 1"


def decoded(
    name: str, state: str, sources: Mapping[str, LabelledSource], *, progress: bool = True
) -> dict[str, Dataset]:
    """The whole of "train" and "test", from the cache if they were decoded before.

    Args:
      name: of the dataset, for the progress bar.
      state: says of the files that are read whether they are still the same.
      sources: "train" and "test", of one side.
      progress: whether to show a bar on a terminal.

    Raises:
      DataError: an image that cannot be read.
    """
    side = sources["train"].side

    def decode() -> dict[str, Dataset]:
        size = sum(len(source) for source in sources.values())
        with progress_bar(f"Decoding {name}", size, unit=" images", shown=progress) as bar:
            return {split: read_all(source, bar.update) for split, source in sources.items()}

    return cached(hashlib.sha256(f"{_DECODER} {side} {state}".encode()).hexdigest(), decode)
