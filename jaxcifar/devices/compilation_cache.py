"""Compiled programs kept on disk, so that a second run starts at once."""

import hashlib
import platform
from pathlib import Path

import jax

from jaxcifar.common.files import cache_folder


def enable_compilation_cache() -> Path | None:
    """Turn on JAX's persistent compilation cache, unless the user has set one (or none) up.

    JAX's own setting (`JAX_COMPILATION_CACHE_DIR`, `jax_enable_compilation_cache`) wins. Programs
    compiled for one processor may not run on another, so each kind has a folder of its own (home
    directories are shared between machines). Returns the folder, or None where there is none.
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None:
        folder = cache_folder() / "xla" / _processor()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # a home that cannot be written: compile anew
            return None
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Programs that took less than this to compile are not stored. JAX's 1 s leaves out several
        # small ones, half a second together.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        chosen = folder
    return Path(chosen)


def _processor() -> str:
    """A name for the kind of processor, from the features it reports."""
    features = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        features += next((ln for ln in lines if ln.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
