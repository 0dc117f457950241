"""Precision of numbers, and settings that are known only inside a program."""

from typing import Any

import jax
import jax.numpy as jnp


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 where it is already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def is_zero(setting: Any) -> bool:
    """Whether a setting is zero for certain; a traced one may be anything, and is not."""
    return isinstance(setting, (int, float)) and setting == 0
