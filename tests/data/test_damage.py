"""All damaged pictures are named at once."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcifar.common.errors import DataError
from jaxcifar.data import damage, load_dataset
from jaxcifar.data.reading import open_stream
from tests.data.made_tfds import encoded, prepare

SIDE = 4


@pytest.fixture
def pets(tmp_path):
    for i in range(60):
        path = tmp_path / ("train", "test")[i % 2] / ("cat", "dog")[i // 2 % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (i, i, i)).save(path)
    return tmp_path


def spoil(pets: Path, *numbers: int) -> list[Path]:
    """Of two kinds."""
    paths = [next(pets.rglob(f"{i:02}.png")) for i in numbers]
    for path in paths[::2]:
        path.write_bytes(b"junk")
    for path in paths[1::2]:
        path.write_bytes(path.read_bytes()[:-30])
    return paths


def load(pets, **options):
    return load_dataset(f"folder:{pets}", side=SIDE, split=(20, 10), **options)


def test_all_that_are_damaged_are_named_with_their_reasons(pets):
    paths = spoil(pets, 0, 1, 2, 3, 4, 5)  # in train and in test
    with pytest.raises(DataError) as caught:
        load(pets)
    first, *lines = caught.value.args
    assert first == f"6 pictures of folder:{pets} cannot be read:"
    assert {line.split(" is ")[0] for line in lines} == {f"  {path}" for path in paths}
    assert any("not an image" in line for line in lines)
    assert any("cut-off" in line for line in lines)
    assert str(caught.value) == "\n".join(caught.value.args)


def test_twenty_are_named_and_the_others_counted(pets):
    spoil(pets, *range(27))
    with pytest.raises(DataError) as caught:
        load(pets)
    first, *lines, last = caught.value.args
    assert first.startswith("27 pictures")
    assert (len(lines), last) == (20, "  and 7 more")


def test_one_alone_is_one_line(pets):
    (path,) = spoil(pets, 8)
    with pytest.raises(DataError, match="a picture cannot be read: ") as caught:
        load(pets)
    assert len(caught.value.args) == 1
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("how", ["read", "load", "stream"])
def test_lazy_reading_names_all_of_the_split_when_it_meets_one(pets, how):
    paths = spoil(pets, 0, 10, 20, 30)
    data = load(pets, lazy=True).train
    chunks = np.array_split(np.arange(len(data)), 10)
    ways = {
        "read": lambda: data.source.read(np.array([0])),  # 00.png is the first of the cats
        "load": data.load,
        "stream": lambda: list(open_stream(data, chunks, threads=4)),
    }
    with pytest.raises(DataError) as caught:
        ways[how]()
    assert len(caught.value.args) == 5
    assert {line.split(" is ")[0] for line in caught.value.args[1:]} == {f"  {p}" for p in paths}


def test_lazy_reading_of_sound_ones_is_not_disturbed(pets):
    spoil(pets, 0)
    splits = load(pets, lazy=True)
    rows = np.arange(1, 30)
    assert len(splits.train.source.read(rows)) == 29
    assert len(splits.test.load()) == 30


def test_a_split_is_checked_once_though_several_threads_meet_damage(pets, monkeypatch):
    spoil(pets, 0, 4, 8)
    source = load(pets, lazy=True).train.source
    calls, real, errors = [], damage.find_faults, []
    monkeypatch.setattr(damage, "find_faults", lambda s: calls.append(1) or real(s))

    def read():
        try:
            source.read(np.array([0]))
        except DataError as error:
            errors.append(error.args)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(errors) == 6
    assert len(set(errors)) == 1


def test_a_picture_that_is_gone_or_forbidden_is_one_of_them(pets):
    splits = load(pets, lazy=True)
    (junk,) = spoil(pets, 0)
    gone = next(pets.rglob("04.png"))
    gone.unlink()
    with pytest.raises(DataError, match="2 pictures of ") as caught:
        splits.train.load()
    assert str(junk) in str(caught.value)
    assert f"{gone}'" in str(caught.value)


def test_damage_leaves_nothing_in_the_cache(pets):
    (path,) = spoil(pets, 0)
    with pytest.raises(DataError):
        load(pets)
    Image.new("RGB", (SIDE, SIDE), (200, 0, 0)).save(path)
    splits = load(pets)
    assert 200 in np.concatenate([splits.train.images, splits.validation.images])


@pytest.mark.parametrize("lazy", [False, True])
def test_damaged_pictures_in_a_tfds_dataset_are_named_at_once(tmp_path, lazy):
    good = (encoded(np.zeros((4, 4, 3), np.uint8)), 0)
    rows = [good, (b"junk", 1), good, (b"more junk", 2), good, good]
    prepare(tmp_path, {"train": rows, "test": [good]}, shape=(4, 4, 3))
    with pytest.raises(DataError, match="2 pictures of ") as caught:
        load_dataset("tfds:made", data_dir=tmp_path, lazy=lazy, split=(5, 1)).train.load()
    assert len(caught.value.args) == 3
    assert all(" of train in " in line for line in caught.value.args[1:])


def test_files_that_are_no_pictures_are_named_at_once(pets):
    import os

    for name in ("x", "y"):
        os.mkfifo(pets / "train" / "cat" / f"{name}.png")
    os.truncate(next(pets.rglob("00.png")), 200_000_000)
    with pytest.raises(DataError) as caught:
        load(pets)
    first, *lines = caught.value.args
    assert first == f"{pets} cannot be used:"
    assert sorted("regular" in line for line in lines) == [False, True, True]
