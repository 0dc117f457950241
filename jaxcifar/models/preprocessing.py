"""How the images were prepared that a network was trained on, as a weights file records it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxcifar.common.errors import WeightsError


@dataclass(frozen=True)
class Preprocessing:
    """The input a network was trained on: (RGB in [0, 1] - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None  # height and width, pixels

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], source: str = "the weights"
    ) -> "Preprocessing | None":
        """Read the metadata of a weights file; None if it has no mean or no std.

        Args:
            metadata: "mean" and "std" (numbers separated by blanks), and "size" (pixels).
            source: the name of the file in an error message.

        Raises:
            WeightsError: a value is malformed.
        """
        if "mean" not in metadata or "std" not in metadata:
            return None
        mean, std = (_parse_numbers(metadata[name]) for name in ("mean", "std"))
        size = metadata.get("size")
        problem = None
        if len(mean) != 3 or len(std) != 3 or not all(number > 0 for number in std):
            problem = "mean and std must each be three numbers, and those of std positive"
        elif size is not None and not re.fullmatch("[1-9][0-9]{0,3}", size):
            problem = "size must be a number of pixels below 10,000"
        if problem:
            raise WeightsError(f"the metadata of {source} cannot be read: {problem}")
        return cls(mean, std, None if size is None else int(size))

    def to_metadata(self) -> dict[str, str]:
        """The metadata that `from_metadata` reads."""
        metadata = {name: " ".join(map(str, getattr(self, name))) for name in ("mean", "std")}
        return metadata | ({} if self.size is None else {"size": str(self.size)})


def _parse_numbers(text: str) -> tuple[float, ...]:
    """The finite numbers in `text`, at most four; none if a word is not such a number."""
    try:
        numbers = tuple(float(word) for word in text[:200].split()[:4])
    except ValueError:
        return ()
    return numbers if all(abs(number) < 1e6 for number in numbers) else ()
