"""A setting of a recipe: a dataclass field that --help can describe."""

import dataclasses
from typing import Any


def setting(group: str, default: Any, text: str, unset: str | None = None) -> Any:
    """A field with the group and text that `jaxcifar train --help` shows.

    Args:
        unset: what None means, shown as the default.
    """
    metadata = {"group": group, "help": text, "unset": unset}
    return dataclasses.field(default=default, metadata=metadata)
