"""Networks as functions of variables and images, and the weights they can start from.

Nothing here trains or writes into a run; only `pretrained.export_weights` writes a file.
"""

__all__ = ["load_report", "names", "preprocessing", "pretrained", "resnet", "weights"]
