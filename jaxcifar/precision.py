"""Wider numbers where narrow ones would lose too much."""

import jax
import jax.numpy as jnp


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 where it is already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
