"""The base of every folder: errors, files and locks, JSON, messages, notebooks, numbers, figures.

Nothing here knows the project: no dataset, no network, no run.
"""

__all__ = [
    "digest",
    "drawing",
    "errors",
    "figure",
    "files",
    "hub",
    "json_shape",
    "lock",
    "messages",
    "notebook",
    "numbers",
    "progress",
    "summaries",
    "target",
    "throttle",
    "writing",
]
