"""Networks as functions of variables and images, and the weights they can start from.

Nothing here trains or writes into a run; the one writer is the exporter of weights.
"""

__all__ = ["layers", "names", "pretrained", "resnet", "weights"]
