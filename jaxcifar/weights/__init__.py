"""Files of weights: PyTorch's and safetensors read, safetensors written, the hub asked.

Importing this imports NumPy and safetensors, and nothing heavier. The folder has floors of its
own; a file imports only from lower ones:

    0  errors, digest, numbers
    1  torch_pickle
    2  torch_file, safetensors_file, hub
    3  files
"""

from jaxcifar.weights.errors import WeightsError
from jaxcifar.weights.files import WeightFile, read_weights
from jaxcifar.weights.safetensors_file import write_safetensors

__all__ = ["WeightFile", "WeightsError", "read_weights", "write_safetensors"]
