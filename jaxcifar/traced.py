"""Settings that are numbers, or known only inside a program: those of a sweep's members."""

from typing import Any


def is_zero(setting: Any) -> bool:
    """Whether a setting is zero for certain; a traced one may be anything, and is not."""
    return isinstance(setting, (int, float)) and setting == 0
