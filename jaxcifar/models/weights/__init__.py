"""Files of weights: PyTorch's and safetensors read, safetensors written, the hub asked.

Importing this imports NumPy and safetensors, and nothing heavier.
"""

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights.read import WeightFile, read_weights
from jaxcifar.models.weights.safetensors_file import write_safetensors

__all__ = ["WeightFile", "WeightsError", "read_weights", "write_safetensors"]
