"""Looking inside a trained network: activations, Grad-CAM, predictions, and their pictures.

Nothing here trains or changes a run. Only `pictures` writes files.
"""

__all__ = ["network", "pictures"]
