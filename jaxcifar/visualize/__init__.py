"""Pictures of a trained network at work: activations, Grad-CAM, mistakes, confusion.

Nothing here trains or changes a run. Only `pictures` writes files, and only where it is asked to.
"""

__all__ = ["feature_maps", "pictures", "saving"]
