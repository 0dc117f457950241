"""Links are followed only if the user says so."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcifar.common.errors import DataError
from jaxcifar.data import check_split, dataset_info, load_dataset, load_labelled
from jaxcifar.data.folder import find_folder
from jaxcifar.data.pictures import list_pictures

SIDE = 4
WAY_IN = r"use --follow-links \(follow_links=True\)"


def write(path: Path, color: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (color, color, color)).save(path)
    return path


@pytest.fixture
def pool(tmp_path):
    """All pictures, without splits."""
    for i in range(10):
        write(tmp_path / "pool" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    return tmp_path / "pool"


def by_files(pool, folder):
    for i in range(10):
        name = ("cat", "dog")[i % 2]
        link = folder / ("train" if i < 8 else "test") / name / f"{i}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(pool / name / f"{i}.png")


def by_classes(pool, folder):
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            (folder / split / name).symlink_to(pool / name)


def by_splits(pool, folder):
    folder.mkdir()
    for split in ("train", "test"):
        (folder / split).symlink_to(pool)


def by_subfolders(pool, folder):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "more").symlink_to(pool / name)


MAKERS = [by_files, by_classes, by_splits, by_subfolders]


@pytest.mark.parametrize("make", MAKERS)
def test_links_are_refused_with_the_way_in(pool, tmp_path, make):
    make(pool, tmp_path / "linked")
    name = f"folder:{tmp_path / 'linked'}"
    for ask in (dataset_info, check_split, find_folder, load_labelled):
        with pytest.raises(DataError, match=WAY_IN):
            ask(name)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("lazy", [False, True])
def test_links_are_followed_when_asked(pool, tmp_path, make, lazy):
    make(pool, tmp_path / "linked")
    name = f"folder:{tmp_path / 'linked'}"
    info = dataset_info(name, follow_links=True)
    assert info.class_names == ("cat", "dog")
    assert info.pool == (8 if make is by_files else 10)
    assert check_split(name, (2, 2), follow_links=True) == (2, 2)
    test = load_dataset(name, side=SIDE, follow_links=True, lazy=lazy).test.load()
    expected = {8, 9} if make is by_files else set(range(10))
    assert set(test.images[:, 0, 0, 0].tolist()) == expected
    labelled = load_labelled(name, side=SIDE, follow_links=True)
    rows = np.arange(len(labelled.source))
    np.testing.assert_array_equal(labelled.source.read(rows).images, test.images)


@pytest.mark.parametrize("make", MAKERS)
def test_what_a_link_leads_to_counts(pool, tmp_path, make):
    make(pool, tmp_path / "linked")
    name = f"folder:{tmp_path / 'linked'}"
    first = load_dataset(name, side=SIDE, follow_links=True)
    picture = pool / "cat" / "8.png"
    before = picture.stat()
    write(picture, 200)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load_dataset(name, side=SIDE, follow_links=True)
    assert second.fingerprint != first.fingerprint
    assert 200 in second.test.load().images


def test_links_and_the_files_themselves_are_the_same_data(pool, tmp_path):
    by_files(pool, tmp_path / "linked")
    linked = load_dataset(f"folder:{tmp_path / 'linked'}", side=SIDE, follow_links=True)
    for link in (tmp_path / "linked").rglob("*.png"):
        data = link.read_bytes()
        link.unlink()
        link.write_bytes(data)
    assert load_dataset(f"folder:{tmp_path / 'linked'}", side=SIDE).fingerprint == (
        linked.fingerprint
    )


@pytest.mark.parametrize("target", ["..", "../..", ".", "../../.."])
def test_a_link_that_leads_round_in_a_circle_is_refused(pool, tmp_path, target):
    by_files(pool, tmp_path / "linked")
    (tmp_path / "linked" / "train" / "cat" / "round").symlink_to(target)
    with pytest.raises(DataError, match=r"leads back to a folder that it lies in") as caught:
        dataset_info(f"folder:{tmp_path / 'linked'}", follow_links=True)
    assert "\n" not in str(caught.value)


def test_two_folders_that_lead_to_one_another_are_refused(pool, tmp_path):
    by_files(pool, tmp_path / "linked")
    for a, b in (("a", "b"), ("b", "a")):
        (tmp_path / a).mkdir()
        (tmp_path / a / "x").symlink_to(tmp_path / b)
    (tmp_path / "linked" / "test" / "cat" / "x").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="leads back to a folder that it lies in"):
        dataset_info(f"folder:{tmp_path / 'linked'}", follow_links=True)


@pytest.mark.parametrize("target", ["nothing.png", "x.png", "/dev/zero"])
def test_a_link_to_no_picture_is_refused_though_links_are_followed(pool, tmp_path, target):
    by_files(pool, tmp_path / "linked")
    (tmp_path / "linked" / "test" / "cat" / "x.png").symlink_to(target)
    with pytest.raises(DataError, match=r"x\.png is (a link to nothing|not a regular file)"):
        dataset_info(f"folder:{tmp_path / 'linked'}", follow_links=True)


def test_many_links_are_refused_at_once(pool, tmp_path):
    for i in range(40):
        write(pool / "cat" / f"more{i}.png")
    for split in ("train", "test"):
        for picture in pool.rglob("*.png"):
            link = tmp_path / "linked" / split / picture.relative_to(pool)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(picture)
    with pytest.raises(DataError) as caught:
        dataset_info(f"folder:{tmp_path / 'linked'}")
    first, *lines, last = caught.value.args
    assert first.endswith("cannot be used:")
    assert len(lines) == 20
    assert last == "  and 80 more"


def test_a_link_that_is_set_elsewhere_is_seen(pool, tmp_path):
    by_splits(pool, tmp_path / "linked")
    name = f"folder:{tmp_path / 'linked'}"
    assert dataset_info(name, follow_links=True).pool == 10
    write(tmp_path / "other" / "cat" / "x.png")
    write(tmp_path / "other" / "dog" / "x.png")
    for folder in tmp_path.rglob("*"):
        if folder.is_dir():
            os.utime(folder, (5, 5))
    assert dataset_info(name, follow_links=True).pool == 10
    (tmp_path / "linked" / "train").unlink()
    (tmp_path / "linked" / "train").symlink_to(tmp_path / "other")
    os.utime(tmp_path / "linked", (5, 5))
    assert dataset_info(name, follow_links=True).pool == 2


def test_pictures_in_a_folder_are_listed_through_links_when_asked(pool, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.png").symlink_to(pool / "cat" / "0.png")
    (tmp_path / "some" / "b").symlink_to(pool / "dog")
    with pytest.raises(DataError, match=WAY_IN):
        list_pictures([tmp_path / "some"])
    listed = list_pictures([tmp_path / "some"], follow_links=True)
    some = tmp_path / "some"
    assert listed == (some / "a.png", *(some / "b" / f"{i}.png" for i in (1, 3, 5, 7, 9)))
    assert list_pictures([tmp_path / "some" / "a.png"]) == (tmp_path / "some" / "a.png",)
