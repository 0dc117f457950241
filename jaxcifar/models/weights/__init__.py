"""Weight files: read PyTorch's and safetensors, write safetensors, fetch from the hub.

Importing this package imports only NumPy and safetensors.
"""

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights.read import WeightFile, read_weights
from jaxcifar.models.weights.safetensors_file import write_safetensors

__all__ = ["WeightFile", "WeightsError", "read_weights", "write_safetensors"]
