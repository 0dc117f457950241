"""A trained network at work: predictions, scores, features, activations and Grad-CAM.

Nothing here trains, draws, or writes into a run. The functions are pure; `network` composes them.
"""

__all__ = [
    "activations",
    "gradcam",
    "load",
    "network",
    "photos",
    "predictions",
    "scoring",
]
