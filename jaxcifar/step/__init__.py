"""One training step and one evaluation step as pure functions, and what they are made of.

Nothing here knows epochs, files or how many devices there are; nothing is written.
"""

__all__ = ["augment", "freeze", "metrics", "optimizer", "schedules", "state", "steps"]
