"""No picture is left out, and no split taken for another, without a word."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcifar.common.errors import DataError
from jaxcifar.data import check_split, dataset_info, load_dataset
from jaxcifar.data.split import check_sizes, choose_indices, split_indices
from tests.data.made_tfds import encoded, prepare

SIDE = 4


def write(path: Path, color: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", ".png": "PNG", ".apng": "PNG"}
    image = Image.new("RGB", (SIDE, SIDE), (color, color, color))
    image.save(path, kind.get(path.suffix.lower(), "PPM"))
    return path


@pytest.fixture
def pets(tmp_path):
    for i in range(10):
        write(tmp_path / "train" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    for i, name in enumerate(("cat", "dog")):
        write(tmp_path / "test" / name / f"{i}.png", 100 + i)
    return tmp_path


@pytest.fixture
def with_val(pets):
    for i in range(6):
        write(pets / "val" / ("cat", "dog")[i % 2] / f"{i}.png", 50 + i)
    return pets


def load(folder, **options):
    return load_dataset(f"folder:{folder}", side=SIDE, **options)


def colours(split) -> list[int]:
    return sorted(int(image[0, 0, 0]) for image in split.load().images)


@pytest.mark.parametrize(
    "name", ["a.jfif", "a.JFIF", "a.jpe", "a.ppm", "a.PPM", "a.pgm", "a.pbm", "a.pnm", "a.apng"]
)
def test_a_picture_of_a_readable_format_is_used_whatever_its_suffix(pets, name):
    write(pets / "train" / "cat" / name, 200)
    assert dataset_info(f"folder:{pets}").pool == 11


def test_other_formats_are_named_in_one_warning(pets):
    for i, name in enumerate(["a.heic", "b.HEIC", "c.jp2", "d.avif", "e.txt", "f.json", "g.db"]):
        (pets / ("train", "test")[i % 2] / "cat" / name).write_bytes(b"x")
    write(pets / "train" / "stray.png")
    with pytest.warns(UserWarning, match="not used") as caught:
        load(pets, lazy=True, stratified=True)
    (message,) = [str(w.message) for w in caught]
    assert message == (
        f"folder:{pets} has pictures that are not used: 1 .avif, 2 .heic, 1 .jp2 (formats that are "
        "not read; convert them to PNG or JPEG); 1 outside the class folders (move them into one)"
    )


def test_other_files_are_ignored_silently(pets):
    for name in ("Thumbs.db", "notes.txt", "labels.json", ".hidden.heic", "noext"):
        (pets / "train" / "cat" / name).write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(pets, split=(8, 2), stratified=True)


def test_a_class_of_other_formats_only_is_one_clear_error(pets):
    for file in (pets / "train" / "cat").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"train/cat has no pictures .*; \.heic are not read"):
        dataset_info(f"folder:{pets}")


@pytest.mark.parametrize("name", ["val", "validation"])
@pytest.mark.parametrize("lazy", [False, True])
def test_val_is_validated_on_besides_test(with_val, name, lazy):
    (with_val / "val").rename(with_val / name)
    info = dataset_info(f"folder:{with_val}")
    assert (info.pool, info.validation, info.test, info.default_split) == (10, 6, 2, (10, 6))
    splits = load(with_val, lazy=lazy)
    assert colours(splits.train) == list(range(10))
    assert colours(splits.validation) == list(range(50, 56))
    assert colours(splits.test) == [100, 101]
    assert splits.names_and_sizes is None  # earlier versions validated on other pictures


def test_sizes_choose_from_each_by_the_seed(with_val):
    def chosen(**options):
        splits = load(with_val, split=(4, 4), **options)
        return colours(splits.train), colours(splits.validation), splits

    (train, validation, splits), again, other = chosen(), chosen(), chosen(seed=1)
    assert (train, validation) == again[:2] != other[:2]
    assert set(train) < set(range(10))
    assert set(validation) < set(range(50, 56))
    *_, splits = chosen(stratified=True)
    assert np.bincount(splits.train.labels).tolist() == [2, 2]
    assert np.bincount(splits.validation.labels).tolist() == [2, 2]


@pytest.mark.parametrize("split", [(11, 1), (1, 7), (20, 20)])
def test_sizes_beyond_either_are_refused_naming_both(with_val, split):
    with pytest.raises(DataError, match=r"10 images to train on and 6 in the validation split"):
        check_split(f"folder:{with_val}", split)
    with pytest.raises(DataError, match="10 images to train on and 6"):
        load(with_val, split=split)


def test_without_test_val_stands_for_it(with_val):
    for file in (with_val / "test").rglob("*.png"):
        file.unlink()
    for folder in ("test/cat", "test/dog", "test"):
        (with_val / folder).rmdir()
    info = dataset_info(f"folder:{with_val}")
    assert (info.pool, info.test, info.validation, info.default_split) == (10, 6, None, (8, 2))


def test_val_and_validation_are_one_too_many(with_val):
    write(with_val / "validation" / "cat" / "x.png")
    with pytest.raises(DataError, match="has both val and validation"):
        dataset_info(f"folder:{with_val}")


def test_a_val_with_other_classes_or_none_is_one_clear_error(with_val):
    (with_val / "val" / "emu").mkdir()
    with pytest.raises(DataError, match="val has a class that train lacks: emu"):
        dataset_info(f"folder:{with_val}")
    (with_val / "val" / "emu").rmdir()
    for file in (with_val / "val").rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match=r"val/cat, .*val/dog has no pictures"):
        dataset_info(f"folder:{with_val}")


def test_an_empty_class_in_val_is_a_warning(with_val):
    for file in (with_val / "val" / "dog").iterdir():
        file.unlink()
    with pytest.warns(UserWarning, match="no image of dog among the 3 validation images"):
        assert len(load(with_val).validation) == 3


@pytest.mark.parametrize("stratified", [False, True])
def test_a_class_that_a_split_misses_is_named_in_one_warning(pets, stratified):
    if stratified:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(pets, split=(2, 2), stratified=True)
        return
    with pytest.warns(UserWarning, match="no image of") as caught:
        load(pets, split=(1, 1))
    (message,) = [str(w.message) for w in caught]
    assert "training images, and no image of" in message
    assert "validation images; use more images, or --stratified" in message


def test_one_class_alone_is_a_warning(pets):
    for split in ("train", "test"):
        for file in (pets / split / "dog").iterdir():
            file.unlink()
        (pets / split / "dog").rmdir()
    with pytest.warns(UserWarning, match="one class alone, cat: nothing to tell apart"):
        load(pets)


def test_a_tfds_dataset_with_three_splits_is_validated_on_its_own(tmp_path):
    def rows(count, seed):
        images = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
        return [(encoded(image), i % 3) for i, image in enumerate(images)]

    made = {"train": rows(9, 0), "validation": rows(6, 1), "test": rows(3, 2)}
    prepare(tmp_path, made, shape=(4, 4, 3))
    info = dataset_info("tfds:made", data_dir=tmp_path)
    assert (info.pool, info.validation, info.test, info.default_split) == (9, 6, 3, (9, 6))
    with pytest.raises(DataError, match="9 images to train on and 6 in the validation split"):
        check_split("tfds:made", (9, 7), data_dir=tmp_path)
    for lazy in (False, True):
        splits = load_dataset("tfds:made", data_dir=tmp_path, lazy=lazy)
        for name, pictures in (("train", 9), ("validation", 6), ("test", 3)):
            mine = getattr(splits, name).load()
            assert len(mine) == pictures
            assert {encoded(image) for image in mine.images} == {data for data, _ in made[name]}


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    seed=st.integers(0, 5),
    stratified=st.booleans(),
    data=st.data(),
)
def test_rows_of_a_split_of_its_own_are_the_first_that_training_would_get(
    labels, seed, stratified, data
):
    labels = np.array(labels)
    size = data.draw(st.integers(1, len(labels)))
    rows = choose_indices(labels, size, seed=seed, stratified=stratified)
    assert len(set(rows.tolist())) == size
    assert (np.diff(rows) > 0).all()
    if not stratified and size < len(labels):
        expected, _ = split_indices(labels, (size, 1), seed=seed, stratified=stratified)
        np.testing.assert_array_equal(rows, expected)


@given(st.integers(-2, 9), st.integers(-2, 9), st.integers(1, 5), st.integers(1, 5))
def test_bounds_are_checked_against_each(train, validation, pool, own):
    fits = 0 < train <= pool and 0 < validation <= own
    try:
        sizes = check_sizes(
            (train, validation), pool, classes=1, stratified=False, own_validation=own
        )
    except DataError:
        assert not fits
    else:
        assert fits
        assert sizes == (train, validation)


@pytest.mark.parametrize(
    ("split", "advice"),
    [
        (None, "add images of them"),
        ((4, 3), "add images of them"),
        ((10, 2), "use more images, or --stratified"),
    ],
)
def test_a_class_that_an_own_validation_split_lacks_must_be_added(with_val, split, advice):
    for file in (with_val / "val" / "dog").iterdir():
        file.unlink()
    with pytest.warns(UserWarning, match=f"no image of dog among the . validation .*; {advice}$"):
        load_dataset(f"folder:{with_val}", side=SIDE, split=split, stratified=split == (4, 3))
