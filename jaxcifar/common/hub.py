"""huggingface_hub, the library of the Hugging Face hub, for datasets and for weights.

It is imported only when something of the hub is asked for.
"""

import importlib
from typing import Any

from jaxcifar.common.messages import reason_of


def import_hub() -> tuple[Any, Any]:
    """The library, and its module of errors.

    Raises:
        ImportError: it is not installed, or cannot be imported.
    """
    hub, errors = map(importlib.import_module, ("huggingface_hub", "huggingface_hub.errors"))
    return hub, errors


def not_kept(name: str, error: Exception) -> str:
    """The message for a file of the hub that this machine's disk did not take; no full stop."""
    return (
        f"{name} cannot be kept in the cache of the Hugging Face hub ({reason_of(error)}): make "
        "room, or name another folder by HF_HUB_CACHE"
    )
