"""Archives of made-up images, and folders of a test's own, apart from those of the user."""

from pathlib import Path

import pytest

from jaxcifar.data.cifar10 import ArchiveSource
from jaxcifar.data.dataset import Dataset
from tests.data import made_archives as made


@pytest.fixture(autouse=True)
def private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture(scope="session")
def images() -> tuple[Dataset, Dataset]:
    return made.made_images()


@pytest.fixture(scope="session")
def archives(
    tmp_path_factory: pytest.TempPathFactory, images: tuple[Dataset, Dataset]
) -> dict[str, Path]:
    """One archive of each kind, with the same images."""
    folder = tmp_path_factory.mktemp("archives")
    return {
        "binary": made.write_archive(folder / "binary.tar.gz", made.binary_members(*images)),
        "python": made.write_archive(folder / "python.tar.gz", made.python_members(*images)),
    }


@pytest.fixture
def source(archives: dict[str, Path]) -> ArchiveSource:
    """Both archives as the known ones, without a mirror."""
    return made.source(*(made.remote(path) for path in archives.values()))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder
