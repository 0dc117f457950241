"""Where arrays and programs are: one device or many, one process or several, memory, the cache.

Nothing here knows what is trained or on which data.
"""

__all__ = ["compilation_cache", "layout", "machine", "memory", "processes"]
