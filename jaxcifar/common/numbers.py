"""Numbers: the precision of arrays, and settings that may be traced."""

from typing import Any

import jax
import jax.numpy as jnp


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` as float32; float64 stays float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def is_zero(setting: Any) -> bool:
    """Whether a setting is known to be zero; a traced one is not, as it may have any value."""
    return isinstance(setting, (int, float)) and setting == 0
