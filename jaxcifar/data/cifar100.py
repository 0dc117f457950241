"""CIFAR-100: its fine and coarse classes and its archives; `cifar` prepares and loads it."""

from pathlib import Path

from jaxcifar.data.cifar import ArchiveSource, load_cifar, prepare_cifar
from jaxcifar.data.cifar_format import CifarFormat
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.download import Patience, Remote

CLASS_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
    "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
COARSE_NAMES = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables",
    "household_electrical_devices", "household_furniture", "insects", "large_carnivores",
    "large_man-made_outdoor_things", "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates", "people",
    "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)  # fmt: skip
# Sizes and SHA-256 are those that TFDS pins for the binary version (url_checksums/cifar100.txt) and
# Keras for the python version (keras/src/datasets/cifar100.py), whose MD5 is that of torchvision,
# eb9058c3a382ffc7106e4002c42a8d85. The mirrors after the original host are, in this order, those of
# MindSpore, PyTorch and PaddlePaddle.
CIFAR100 = ArchiveSource(
    form=CifarFormat(
        records=50_000,
        train_batches=1,
        test_records=10_000,
        class_names=CLASS_NAMES,
        coarse_names=COARSE_NAMES,
        name="cifar100",
        title="CIFAR-100",
    ),
    archives=(
        Remote(
            name="cifar-100-binary.tar.gz",
            size=168_513_733,
            sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            urls=(
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/cifar-100-binary.tar.gz",
            ),
        ),
        Remote(
            name="cifar-100-python.tar.gz",
            size=169_001_437,
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            urls=(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                "https://ossci-datasets.s3.amazonaws.com/cifar/cifar-100-python.tar.gz",
                "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
            ),
        ),
    ),
)


def prepare_cifar100(
    data_dir: str | Path | None = None,
    *,
    from_archive: str | Path | None = None,
    sha256: str | None = None,
    source: ArchiveSource = CIFAR100,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Put CIFAR-100 into `<data_dir>/cifar100/<version>/`, as `prepare_cifar10` does CIFAR-10.

    Args:
        from_archive: a local `cifar-100-binary.tar.gz` or `cifar-100-python.tar.gz`; needs no
            network.
        data_dir, sha256, source, patience, progress: as in `prepare_cifar10`.

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


def load_cifar100(
    data_dir: str | Path | None = None,
    *,
    coarse: bool = False,
    download: bool = True,
    source: ArchiveSource = CIFAR100,
    patience: Patience | None = None,
    progress: bool = True,
) -> tuple[Dataset, Dataset, str]:
    """The training and the test data, in TFDS's order, and their fingerprint.

    Args:
        coarse: whether the labels are the 20 coarse ones instead of the 100 fine ones. The
            fingerprint is the same, as the files are.
        data_dir, download, source, patience, progress: as in `cifar10.load_cifar10`.

    Raises:
        DataError: it is not prepared and cannot be downloaded, or it is not as expected.
    """
    return load_cifar(
        source, data_dir, coarse=coarse, download=download, patience=patience, progress=progress
    )
