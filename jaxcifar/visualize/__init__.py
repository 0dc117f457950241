"""Pictures of a trained network at work: activations, Grad-CAM, mistakes, confusion.

Nothing here trains or changes a run. Only `pictures` writes files.
"""

__all__ = ["pictures"]
