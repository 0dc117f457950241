"""Compiled programs kept on disk, so that later runs start without compiling."""

import os
from pathlib import Path

import jax

from jaxcifar.common.files import cache_folder
from jaxcifar.devices.processor import processor_key

_NEVER = 1e9  # seconds


def enable_compilation_cache() -> Path | None:
    """Turn on JAX's persistent compilation cache, unless the user has already configured it.

    JAX's own settings (`JAX_COMPILATION_CACHE_DIR`, `jax_enable_compilation_cache`) win. A program
    compiled for one processor may not run on another, and machines may share a home directory, so
    each kind of processor has its own folder.

    Returns:
        The folder, or None without a cache: it is switched off, or the folder cannot be written and
        has nothing to read.

    Example:
        >>> import jax
        >>> from jaxcifar import enable_compilation_cache
        >>> jax.config.update("jax_enable_compilation_cache", False)  # the user's choice wins
        >>> print(enable_compilation_cache())
        None
        >>> jax.config.update("jax_enable_compilation_cache", True)
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None:
        try:
            folder = cache_folder() / "xla" / processor_key()
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # the home directory is not known or not writable: compile every time
            return None
        writable = os.access(folder, os.W_OK | os.X_OK)
        if not (writable or _holds_any(folder)):
            return None
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Programs that compile faster than this are not stored. JAX's default of 1 s leaves out
        # several small ones, which take half a second together. Where none can be stored, JAX would
        # warn of each.
        least = 0.1 if writable else _NEVER
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        chosen = folder
    return Path(chosen)


def _holds_any(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
