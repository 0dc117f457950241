"""A run on disk: its directory, history, checkpoints and weights.

Nothing here trains; who may write the directory is decided here and nowhere else.
"""

__all__ = [
    "checkpoints",
    "curves",
    "description",
    "directory",
    "extending",
    "history",
    "opening",
    "own_parts",
    "patience",
    "restore",
    "shapes",
    "transfer",
]
