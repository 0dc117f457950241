"""What every room stands on: errors, files, messages, numbers, digests, the page of a figure.

Nothing here knows the project: no dataset, no network, no run.
"""

__all__ = ["digest", "errors", "figure", "files", "messages", "numbers"]
