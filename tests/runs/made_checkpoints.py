"""States to save, and ways to damage or refuse what is saved."""

import errno
import os

import jax.numpy as jnp
import optax

TX = optax.adam(0.1)


def at(state, step, **changes):
    return state.replace(step=jnp.asarray(step, jnp.int32), **changes)


def flip(path):
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def largest_file(folder):
    return max(files_of(folder), key=lambda path: path.stat().st_size)


def no_space(directory):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
