"""Devices: where arrays and programs are, processes, memory, the machine, the compilation cache.

Nothing here knows what is trained or on which data.
"""

__all__ = [
    "backend",
    "compilation_cache",
    "layout",
    "machine",
    "memory",
    "processes",
    "processor",
]
