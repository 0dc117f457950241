"""A recipe: every setting of a run, what it must satisfy, and the named presets.

A recipe builds the parts of a run; it does not train, and it writes nothing.
"""

__all__ = [
    "numbers",
    "own",
    "parts",
    "presets",
    "recipe",
    "settings",
    "sides",
    "splits",
    "stage",
    "unused",
]
