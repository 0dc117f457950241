"""Data is what its files contain, at the time it is loaded."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcifar.common.errors import DataError
from jaxcifar.data import Dataset, contents, dataset_info, load_dataset
from tests.data.made_tfds import encoded, prepare

SIDE = 8


def write(path: Path, color: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (color, color, color)).save(path.with_suffix(".bmp"))
    return path.with_suffix(".bmp")


@pytest.fixture
def pets(tmp_path):
    """Pictures of one size in bytes, each of one colour."""
    for i in range(6):
        write(tmp_path / "pets" / "train" / ("cat", "dog")[i % 2] / str(i), i)
    for i, name in enumerate(("cat", "dog")):
        write(tmp_path / "pets" / "test" / name / str(i), 100 + i)
    return tmp_path / "pets"


def load(pets, **options):
    return load_dataset(f"folder:{pets}", side=SIDE, split=(4, 2), **options)


def colours(splits) -> list[int]:
    return sorted(
        int(image[0, 0, 0])
        for split in (splits.train, splits.validation, splits.test)
        for image in split.load().images
    )


def replace(path: Path, color: int) -> None:
    """By another picture with the same name, size and time of modification."""
    before = path.stat()
    new = write(path.with_name("new"), color)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)
    assert path.stat()[6:9:2] == before[6:9:2]


def overwrite(path: Path, color: int) -> None:
    """As `replace`, in the same file."""
    before = path.stat()
    data = write(path.parent.parent / "new", color)
    path.write_bytes(data.read_bytes())
    data.unlink()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("change", [replace, overwrite])
def test_a_picture_replaced_by_one_of_the_same_size_and_time_is_seen(pets, change, lazy):
    first = load(pets, lazy=lazy)
    assert colours(first) == [0, 1, 2, 3, 4, 5, 100, 101]
    change(pets / "train" / "cat" / "0.bmp", 50)
    second = load(pets, lazy=lazy)
    assert colours(second) == [1, 2, 3, 4, 5, 50, 100, 101]
    assert second.fingerprint != first.fingerprint


def swap(a: Path, b: Path) -> None:
    for old, new in ((a, a.with_name("x")), (b, a), (a.with_name("x"), b)):
        old.rename(new)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("train/cat/0.bmp", "train/dog/1.bmp"),
        ("train/cat/0.bmp", "test/cat/0.bmp"),
        ("train/cat", "train/dog"),
    ],
)
def test_exchanged_pictures_are_other_data(pets, a, b):
    if (pets / a).is_dir():  # with the same names
        (pets / "train/dog").rename(pets / "train/d")
        for i in (1, 3, 5):
            (pets / "train/d" / f"{i}.bmp").rename(pets / "train/d" / f"{i - 1}.bmp")
        (pets / "train/d").rename(pets / "train/dog")
    first = load(pets)
    swap(pets / a, pets / b)
    second = load(pets)
    assert second.fingerprint != first.fingerprint
    assert second.names_and_sizes == first.names_and_sizes
    back = load(pets) if swap(pets / a, pets / b) is None else None
    assert back.fingerprint == first.fingerprint


def test_the_fingerprint_holds_in_another_place_and_at_another_time(pets, tmp_path):
    first = load(pets).fingerprint
    for file in pets.rglob("*.bmp"):
        os.utime(file, (5, 5))
    assert load(pets.rename(tmp_path / "moved")).fingerprint == first


def test_a_class_that_only_has_another_name_is_other_data(pets):
    first = load(pets).fingerprint
    for split in ("train", "test"):
        (pets / split / "dog").rename(pets / split / "emu")
    assert load(pets).fingerprint != first


def test_pictures_added_and_removed_are_seen_in_the_same_process(pets):
    assert dataset_info(f"folder:{pets}").pool == 6
    load(pets)
    write(pets / "train" / "cat" / "9", 60)
    assert dataset_info(f"folder:{pets}").pool == 7
    assert len(load_dataset(f"folder:{pets}", side=SIDE).train) == 6
    (pets / "train" / "cat" / "9.bmp").unlink()
    assert dataset_info(f"folder:{pets}").pool == 6


def test_a_bad_picture_that_is_deleted_is_forgotten(pets):
    bad = pets / "train" / "cat" / "bad.bmp"
    bad.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"bad\.bmp"):
        load(pets)
    bad.unlink()
    assert colours(load(pets)) == [0, 1, 2, 3, 4, 5, 100, 101]


def test_a_subfolder_added_deep_inside_is_seen(pets):
    for folder in (pets, *(p for p in pets.rglob("*") if p.is_dir())):
        os.utime(folder, (5, 5))  # all are trusted
    assert dataset_info(f"folder:{pets}").pool == 6
    write(pets / "train" / "cat" / "more" / "9", 9)
    assert dataset_info(f"folder:{pets}").pool == 7
    os.utime(pets / "train" / "cat", (5, 5))
    os.utime(pets / "train" / "cat" / "more", (5, 5))
    assert dataset_info(f"folder:{pets}").pool == 7
    write(pets / "train" / "cat" / "more" / "10", 9)
    assert dataset_info(f"folder:{pets}").pool == 8


def test_the_contents_are_hashed_once_for_each_state(pets, monkeypatch):
    hashed, real = [], contents.sha256_of
    monkeypatch.setattr(contents, "sha256_of", lambda path: hashed.append(path) or real(path))
    counts = []
    for change in (None, None, 77):
        if change:
            overwrite(pets / "test" / "cat" / "0.bmp", change)
        before = len(hashed)
        load(pets, lazy=True)
        counts.append(len(hashed) - before)
    assert counts == [8, 0, 8]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_picture_that_changes_while_it_is_read_does_not_get_into_the_cache(
    pets, monkeypatch, lazy
):
    module, function = (contents, "sha256_of") if lazy else (Dataset, "__init__")
    real, path = getattr(module, function), pets / "train" / "cat" / "0.bmp"

    def meddling(*arguments):
        monkeypatch.setattr(module, function, real)
        overwrite(path, 50)
        return real(*arguments)

    monkeypatch.setattr(module, function, meddling)
    with pytest.raises(DataError, match=r"0\.bmp changed while the pictures were read"):
        load(pets, lazy=lazy)
    assert 50 in colours(load(pets, lazy=lazy))


def test_a_picture_that_cannot_be_hashed_is_named(pets, monkeypatch):
    def gone(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(contents, "sha256_of", gone)
    with pytest.raises(DataError, match=r"8 pictures of folder:.* cannot be read") as caught:
        load(pets, lazy=True)
    assert len(caught.value.args) == 9


def test_a_tfds_shard_of_the_same_size_and_time_is_other_data(tmp_path):
    def rows(seed):
        images = np.random.default_rng(seed).integers(0, 256, (6, 4, 4, 3), np.uint8)
        return [(encoded(image, "BMP"), i % 3) for i, image in enumerate(images)]

    fingerprints, seen = [], []
    for seed in range(2):
        (tmp_path / str(seed)).mkdir()
        made = prepare(tmp_path / str(seed), {"train": rows(seed), "test": rows(9)})
        for file in made.iterdir():
            os.utime(file, (5, 5))
    for _ in range(2):
        splits = load_dataset("tfds:made", data_dir=tmp_path / "0", side=4, split=(4, 2))
        fingerprints.append(splits.fingerprint)
        seen.append({image.tobytes() for image in splits.train.images})
        (tmp_path / "0").rename(tmp_path / "old")
        (tmp_path / "1").rename(tmp_path / "0")
        (tmp_path / "old").rename(tmp_path / "1")
    assert fingerprints[0] != fingerprints[1]
    assert not seen[0] & seen[1]


def test_pictures_exchanged_after_a_lazy_load_do_not_get_the_labels_of_each_other(pets):
    for file in pets.rglob("*.bmp"):
        os.utime(file, (5, 5))
    splits = load(pets, lazy=True)
    swap(pets / "test/cat/0.bmp", pets / "test/dog/1.bmp")
    with pytest.raises(DataError, match=r"changed after the folder was read"):
        splits.test.load()
    assert colours(load(pets, lazy=True)) == [0, 1, 2, 3, 4, 5, 100, 101]


def test_a_change_of_rights_after_a_lazy_load_changes_nothing(pets):
    splits = load(pets, lazy=True)
    for file in pets.rglob("*.bmp"):
        file.chmod(0o600)
    assert len(splits.test.load()) == len(splits.test)
