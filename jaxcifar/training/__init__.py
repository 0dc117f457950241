"""A run in time: `fit` is the loop; a stage, its epochs and what a run does around them.

What reaches the disk goes through `runs`.
"""

__all__ = [
    "disk",
    "epoch",
    "evaluation",
    "features",
    "fit",
    "interruption",
    "partial",
    "plan",
    "progress",
    "resident",
    "resume",
    "run",
    "stage",
    "start",
]
