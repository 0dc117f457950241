"""Datasets: load, split, and prepare CIFAR-10. Importing this imports NumPy and nothing heavier.

The folder has floors of its own; a file imports only from lower ones (and of the rest of the
project only `image_file`, which decodes pictures):

    0  errors, progress
    1  dataset, digest
    2  split, archive, download, cache, tfds_store
    3  cifar10, digits, decoding, folder, tfds_any
    4  load
"""

from jaxcifar.data.cifar10 import prepare_cifar10
from jaxcifar.data.dataset import Dataset, LabelledSource, Rows, Source, Splits, cores
from jaxcifar.data.errors import DataError
from jaxcifar.data.load import DATASETS, DatasetInfo, check_split, dataset_info, load_dataset
from jaxcifar.data.split import balanced_subset, split_indices

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "DatasetInfo",
    "LabelledSource",
    "Rows",
    "Source",
    "Splits",
    "balanced_subset",
    "check_split",
    "cores",
    "dataset_info",
    "load_dataset",
    "prepare_cifar10",
    "split_indices",
]
