"""A CIFAR dataset: found prepared, or prepared from a local or downloaded archive, and loaded.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jaxcifar.common.digest import fingerprint, sha256_of
from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, absolute_path
from jaxcifar.common.lock import wait_for_turn
from jaxcifar.common.messages import get_logger
from jaxcifar.common.writing import make_folder
from jaxcifar.data import tfds_store
from jaxcifar.data.archive import max_bytes, read_archive
from jaxcifar.data.cache import cached, cached_labels
from jaxcifar.data.cifar_format import CifarFormat
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.download import Patience, Remote, fetch
from jaxcifar.data.tfds_layout import data_root, how_to_prepare

_log = get_logger(__name__)


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
        return self.form.counts


def prepare_cifar(
    source: ArchiveSource,
    data_dir: str | Path | None = None,
    *,
    from_archive: str | Path | None = None,
    sha256: str | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Put a CIFAR dataset into `<data_dir>/<name>/<version>/`; see `cifar10.prepare_cifar10`.

    Args:
        source: the archives and what they hold.
        data_dir, from_archive, sha256, patience, progress: as there.

    Returns:
        The directory of `dataset_info.json`.

    Raises:
        DataError: see the message; data prepared earlier is untouched.
    """
    form = source.form
    if sha256 is not None and from_archive is None:
        raise DataError("--sha256 is for a local archive only; name it with --from-archive")
    expected = None if sha256 is None else _check_digest(sha256)
    root = data_root(data_dir, must_exist=False)
    if prepared := _find(root, source):
        tfds_store.remove_unfinished(root, form)
        _log.info("%s is already prepared in %s", form.title, prepared.directory)
        return prepared.directory
    # Read before anything is written: a bad archive leaves no trace.
    local = None if from_archive is None else _read_local(from_archive, expected, source)
    try:
        make_folder(root)
        with wait_for_turn(root) as alone:
            if prepared := _find(root, source):
                return prepared.directory
            if alone:
                tfds_store.remove_unfinished(root, form, held=True)
            contents = local or _download(root / "downloads", source, patience, progress)
            directory = tfds_store.write(root, contents, form, progress=progress)
            if local is None:
                _remove_downloads(root / "downloads", source)
    except OSError as error:
        raise DataError(f"{form.title} cannot be prepared under {root}: {error}") from error
    _log.info("%s is prepared in %s", form.title, directory)
    return directory


def load_cifar(
    source: ArchiveSource,
    data_dir: str | Path | None = None,
    *,
    coarse: bool = False,
    download: bool = True,
    patience: Patience | None = None,
    progress: bool = True,
) -> tuple[Dataset, Dataset, str]:
    """The training and the test data, in TFDS's order, and their fingerprint.

    Args:
        source: the archives and what they hold.
        coarse: whether the labels are the coarse ones of CIFAR-100.
        data_dir, download, patience, progress: as in `prepare_cifar`, which is called if nothing is
            prepared and `download` is set.

    Raises:
        DataError: it is not prepared and cannot be downloaded, or it is not as expected.
    """
    root, form = data_root(data_dir), source.form
    prepared = _find(root, source)
    if prepared is None and download:
        prepare_cifar(source, data_dir, patience=patience, progress=progress)
        prepared = _find(root, source)
    if prepared is None:
        raise DataError(
            f"{form.title} is not prepared under {root}; run {how_to_prepare(form.name, root)}, or "
            "name the folder that has it with --data-dir or TFDS_DATA_DIR"
        )
    store, digest = prepared, fingerprint(prepared.files)
    splits = cached(digest, lambda: tfds_store.decode(store, form, progress=progress))
    if coarse:
        splits = _with_coarse(store, form, digest, splits)
    return splits["train"], splits["test"], digest


def _with_coarse(
    store: tfds_store.Prepared, form: CifarFormat, digest: str, splits: Mapping[str, Dataset]
) -> dict[str, Dataset]:
    """The same images with their coarse labels, which are read once and cached."""
    key = hashlib.sha256(f"coarse {digest}".encode()).hexdigest()
    labels = cached_labels(key, lambda: tfds_store.read_labels(store, form, form.labels[1]))
    return {split: Dataset(data.images, labels[split]) for split, data in splits.items()}


def _find(root: Path, source: ArchiveSource) -> tfds_store.Prepared | None:
    return tfds_store.find_prepared(root, source.form)


def _check_digest(sha256: str) -> str:
    """The digest in lower case."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise DataError(f"a SHA-256 digest must be 64 hexadecimal digits, not {sha256!r}")
    return sha256.lower()


def _read_local(
    archive: str | Path, expected: str | None, source: ArchiveSource
) -> dict[str, Dataset]:
    """Read a local archive after checking that it is a known one."""
    try:
        path = absolute_path(archive)
    except Unusable as error:
        raise DataError(f"the archive cannot be found: {error}") from None
    if not path.is_file():
        raise DataError(f"the archive {path} does not exist or is not a file")
    size, limit = path.stat().st_size, max_bytes(source.form)
    if size > limit:
        raise DataError(
            f"{path} has {size:,} bytes, more than the limit of {limit:,} for "
            f"{source.form.title}; refused"
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
    command = how_to_prepare(source.form.name, folder.parent)
    raise DataError(
        f"{source.form.title} is not prepared under {folder.parent}: {'; '.join(failures)}; if you "
        f"have the archive, run {command} --from-archive FILE"
    )


def _remove_downloads(folder: Path, source: ArchiveSource) -> None:
    for archive in source.archives:
        (folder / archive.name).unlink(missing_ok=True)
        (folder / f"{archive.name}.part").unlink(missing_ok=True)
    if not any(folder.iterdir()):  # TFDS keeps its downloads here too
        folder.rmdir()
