"""Datasets: load, split and prepare them. NumPy only.

Nothing here knows JAX, networks or runs. Others import these names, `image_file`,
`pictures` and `reading`.
"""

from jaxcifar.common.errors import DataError
from jaxcifar.data.chunks import cores
from jaxcifar.data.cifar10 import prepare_cifar10
from jaxcifar.data.cifar100 import prepare_cifar100
from jaxcifar.data.damage import check_readable
from jaxcifar.data.dataset import (
    Dataset,
    LabelledSource,
    Relabelled,
    Rows,
    Source,
)
from jaxcifar.data.info import DatasetInfo
from jaxcifar.data.load import (
    DATASETS,
    check_split,
    dataset_info,
    load_dataset,
    load_labelled,
    located,
    shown_info,
)
from jaxcifar.data.split import balanced_subset, split_indices
from jaxcifar.data.splits import LabelledData, Splits

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "DatasetInfo",
    "LabelledData",
    "LabelledSource",
    "Relabelled",
    "Rows",
    "Source",
    "Splits",
    "arrays",
    "balanced_subset",
    "check_readable",
    "check_split",
    "class_names",
    "cores",
    "dataset_info",
    "image_file",
    "load_dataset",
    "load_labelled",
    "located",
    "pictures",
    "prepare_cifar10",
    "prepare_cifar100",
    "reading",
    "shown_info",
    "split_indices",
]
