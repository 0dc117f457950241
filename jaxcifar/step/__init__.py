"""One training step and one evaluation step, and their parts, as pure functions.

Nothing here knows about epochs, files or the number of devices, and nothing is written.
"""

__all__ = [
    "augment",
    "freeze",
    "freeze_text",
    "metrics",
    "muon",
    "optimizer",
    "precision",
    "schedules",
    "state",
    "steps",
    "summary",
]
