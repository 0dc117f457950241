"""Data that is scored: one split of any dataset, without one to train on."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcifar.common.errors import DataError, ImageFileError
from jaxcifar.data import (
    Dataset,
    LabelledData,
    Relabelled,
    Rows,
    load_dataset,
    load_labelled,
    located,
    shown_info,
)
from jaxcifar.data.pictures import list_pictures
from tests.data.made_tfds import encoded, prepare

SIDE = 4


def write(path: Path, color: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (color, color, color)).save(path)
    return path


@pytest.fixture
def flat(tmp_path):
    for i in range(6):
        write(tmp_path / "flat" / ("emu", "fox", "gnu")[i % 3] / f"{i}.png", i)
    return tmp_path / "flat"


def colours(data: LabelledData) -> list[int]:
    return data.source.read(np.arange(len(data.source))).images[:, 0, 0, 0].tolist()


def test_classes_alone_are_the_test_split(flat):
    data = load_labelled(f"folder:{flat}", side=SIDE)
    assert data.class_names == ("emu", "fox", "gnu")
    assert colours(data) == [0, 3, 1, 4, 2, 5]
    assert data.source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for split in ("train", "validation", "val", "other"):
        with pytest.raises(DataError, match=f"has no split {split}; it has the splits none"):
            load_labelled(f"folder:{flat}", split, side=SIDE)


@pytest.mark.parametrize("split", ["train", "val", "test", "validation", "extra"])
def test_a_split_is_the_folder_of_its_name(flat, split):
    flat.rename(flat.parent / "x")
    flat.mkdir()
    (flat.parent / "x").rename(flat / split)
    assert colours(load_labelled(f"folder:{flat}", split, side=SIDE)) == [0, 3, 1, 4, 2, 5]


def test_val_is_the_validation_split(flat):
    flat.rename(flat.parent / "x")
    flat.mkdir()
    (flat.parent / "x").rename(flat / "val")
    assert len(load_labelled(f"folder:{flat}", "validation", side=SIDE).source) == 6
    with pytest.raises(DataError, match="has no split test; it has the splits val"):
        load_labelled(f"folder:{flat}", side=SIDE)


def test_classes_are_those_of_the_split_itself(flat):
    write(flat / "train" / "ant" / "x.png", 9)
    write(flat / "test" / "bee" / "x.png", 10)
    assert load_labelled(f"folder:{flat}", "train", side=SIDE).class_names == ("ant",)
    assert load_labelled(f"folder:{flat}", "test", side=SIDE).class_names == ("bee",)


@pytest.mark.parametrize("split", ["", ".", "..", "a/b", "/etc", ".hidden", "a\0b"])
def test_a_split_is_one_word(flat, split):
    with pytest.raises(DataError, match="a split is named by one word"):
        load_labelled(f"folder:{flat}", split, side=SIDE)


def test_a_folder_needs_a_side_and_pictures(flat, tmp_path):
    with pytest.raises(DataError, match="give the side"):
        load_labelled(f"folder:{flat}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no class folder with pictures"):
        load_labelled(f"folder:{tmp_path / 'empty'}", side=SIDE)
    (tmp_path / "empty" / "a").mkdir()
    with pytest.raises(DataError, match="empty/a has no pictures"):
        load_labelled(f"folder:{tmp_path / 'empty'}", side=SIDE)


def test_the_fingerprint_is_of_its_contents(flat, tmp_path):
    first = load_labelled(f"folder:{flat}", side=SIDE).fingerprint
    assert load_labelled(f"folder:{flat.rename(tmp_path / 'm')}", side=SIDE).fingerprint == first
    write(tmp_path / "m" / "emu" / "0.png", 77)
    assert load_labelled(f"folder:{tmp_path / 'm'}", side=SIDE).fingerprint != first


def test_a_bad_picture_is_named_when_it_is_read(flat):
    (flat / "emu" / "0.png").write_bytes(b"junk")
    data = load_labelled(f"folder:{flat}", side=SIDE)
    with pytest.raises(DataError, match=r"emu/0\.png is not an image"):
        colours(data)


def test_built_in_data_has_all_of_its_pool():
    splits = load_dataset("digits")
    train, test = load_labelled("digits", "train"), load_labelled("digits")
    assert (len(train.source), len(test.source)) == (1_437, 360)
    assert train.fingerprint == test.fingerprint == splits.fingerprint
    assert test.class_names == splits.class_names
    np.testing.assert_array_equal(
        test.source.read(np.arange(360)).images, splits.test.load().images
    )
    with pytest.raises(DataError, match="no split validation; it has the splits train, test"):
        load_labelled("digits", "validation")
    with pytest.raises(DataError, match="unknown dataset 'digit'; did you mean 'digits'"):
        load_labelled("digit")


def test_a_tfds_dataset_may_have_a_test_split_only(tmp_path):
    rows = [(encoded(np.full((4, 4, 3), i, np.uint8)), i % 3) for i in range(6)]
    prepare(tmp_path, {"test": rows, "extra": rows[:2]}, shape=(4, 4, 3))
    data = load_labelled("tfds:made", data_dir=tmp_path)
    assert sorted(colours(data)) == [0, 1, 2, 3, 4, 5]
    assert (data.source.side, data.class_names) == (4, ("ant", "bee", "house cat"))
    for color, label in zip(colours(data), data.source.labels, strict=True):
        assert color % 3 == label
    assert len(load_labelled("tfds:made", "extra", data_dir=tmp_path).source) == 2
    with pytest.raises(DataError, match=r"has no split train; it has the splits (test|extra), "):
        load_labelled("tfds:made", "train", data_dir=tmp_path)


def test_labels_are_looked_up_and_images_untouched(flat):
    source = load_labelled(f"folder:{flat}", side=SIDE).source
    lookup = np.array([5, 0, 5], np.int32)
    new = Relabelled(source, lookup)
    assert (len(new), new.side, new.labels.dtype) == (6, SIDE, np.int32)
    assert new.labels.tolist() == [5, 5, 0, 0, 5, 5]
    rows = np.array([4, 0, 4, 2])
    assert new.read(rows).labels.tolist() == [5, 5, 5, 0]
    np.testing.assert_array_equal(new.read(rows).images, source.read(rows).images)
    loaded = new.load()
    assert isinstance(loaded, Dataset)
    assert loaded.labels.tolist() == new.labels.tolist()
    assert Rows(new, np.array([2, 0])).labels.tolist() == [0, 5]
    assert Relabelled(new, np.arange(9, dtype=np.int32)).labels.tolist() == new.labels.tolist()


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        (np.arange(3), r"must be int32 \[m\], not int64 \[3\]"),
        (np.zeros((3, 1), np.int32), r"must be int32 \[m\], not int32 \[3, 1\]"),
        (np.zeros(2, np.int32), "has 2 entries, but the labels go from 0 to 2"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(flat, lookup, message):
    with pytest.raises(DataError, match=message):
        Relabelled(load_labelled(f"folder:{flat}", side=SIDE).source, lookup)


def test_pictures_are_listed_in_order(flat, tmp_path):
    write(flat / "top.png")
    write(flat / "emu" / ".hidden.png")
    write(flat / "emu" / "B.PNG")
    write(flat / "emu" / "deep" / "a.png")
    (flat / "notes.txt").write_text("x")
    odd = write(tmp_path / "odd.png").rename(tmp_path / "odd.data")
    names = ["top.png", "emu/0.png", "emu/3.png", "emu/B.PNG", "emu/deep/a.png"]
    names += ["fox/1.png", "fox/4.png", "gnu/2.png", "gnu/5.png"]
    in_flat = [flat / name for name in names]
    assert list_pictures([odd, flat, str(odd)]) == (odd, *in_flat, odd)
    assert list_pictures([]) == ()


def test_a_listed_path_is_as_it_was_given(flat, monkeypatch):
    monkeypatch.chdir(flat)
    assert list_pictures(["gnu", "emu/0.png"]) == (
        Path("gnu/2.png"),
        Path("gnu/5.png"),
        Path("emu/0.png"),
    )


def test_formats_that_are_not_read_are_a_warning_when_listed(flat):
    (flat / "emu" / "x.HEIC").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"not used: 1 \.heic"):
        assert len(list_pictures([flat])) == 6


def test_nothing_to_list_is_one_clear_error(tmp_path):
    import os

    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "x.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"/e has no pictures .*; \.heic are not read: convert"):
        list_pictures([tmp_path / "e"])
    for path in ("gone.png", "a\0b", "x" * 5_000):
        with pytest.raises(ImageFileError, match="there is no image file") as caught:
            list_pictures([tmp_path / path])
        assert "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageFileError, match="neither a regular file nor a folder"):
        list_pictures([tmp_path / "pipe"])


def test_a_name_is_located(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert located("folder:pets") == f"folder:{tmp_path}/pets"
    assert located("folder:~/pets") == f"folder:{tmp_path}/home/pets"
    assert located("folder:a/../b/") == f"folder:{tmp_path}/b"
    assert located("digits") == "digits"
    assert located("tfds:a/b") == "tfds:a/b"
    (tmp_path / "link").symlink_to("/usr")
    assert located("folder:link/x") == f"folder:{tmp_path}/link/x"
    assert located(located("folder:pets")) == located("folder:pets")


@pytest.mark.parametrize("name", ["val", "validation"])
def test_without_a_test_folder_the_test_images_are_those_of_load_dataset(tmp_path, name):
    for part in ("train", name):
        for label, color in (("cat", "red"), ("dog", "blue")):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8 + i, 8), color).save(tmp_path / part / label / f"{i}.png")
    dataset = f"folder:{tmp_path}"
    splits = load_dataset(dataset, split=(3, 1), side=8)
    data = load_labelled(dataset, "test", side=8)
    np.testing.assert_array_equal(data.source.labels, splits.test.labels)
    np.testing.assert_array_equal(data.source.read(np.arange(4)).images, splits.test.images)


def test_the_contents_are_hashed_when_the_fingerprint_is_asked_for(flat, monkeypatch):
    from jaxcifar.data import contents

    hashed, real = [], contents.sha256_of
    monkeypatch.setattr(contents, "sha256_of", lambda path: hashed.append(path) or real(path))
    data = load_labelled(f"folder:{flat}", side=SIDE)
    assert colours(data) == [0, 3, 1, 4, 2, 5]
    assert "fingerprint" not in repr(data)
    assert not hashed
    first = data.fingerprint
    assert (len(first), len(hashed)) == (64, 6)
    monkeypatch.setattr("jaxcifar.data.folder.file_digests", lambda *_: pytest.fail("again"))
    assert data.fingerprint == first
    assert f"fingerprint {first[:12]}" in repr(data)
    assert dataclasses.replace(data, name="x").fingerprint == first
    assert LabelledData("x", ("a",), data.source, fingerprint="ab").fingerprint == "ab"
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.fingerprint = "cd"


def test_what_is_shown_to_a_network_may_be_there_to_test_on_alone(tmp_path):
    def add(*names):
        for name in names:
            path = tmp_path / "p" / name / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9)).save(path)

    name = f"folder:{tmp_path / 'p'}"
    with pytest.raises(DataError, match="there is no folder"):
        shown_info(name)
    add("test/cat", "test/dog")
    info = shown_info(name)
    assert (info.class_names, info.test, info.pool) == (("cat", "dog"), 2, 0)
    add("train/cat", "train/rat")  # other classes than those to test on
    with pytest.raises(DataError, match="dog"):
        shown_info(name)
    shutil.rmtree(tmp_path / "p" / "train")
    for picture in (tmp_path / "p" / "test").rglob("*.png"):
        picture.rename(picture.with_suffix(".heic"))
    with pytest.raises(DataError, match="heic"):
        shown_info(name)
