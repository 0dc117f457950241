"""The base of every folder: errors, files, JSON shapes, messages, numbers, digests, figure pages.

Nothing here knows the project: no dataset, no network, no run.
"""

__all__ = ["digest", "errors", "figure", "files", "json_shape", "messages", "numbers"]
