import os

import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data import parquet_layout as layout

CIFAR = [
    "plain_text/train-00000-of-00001.parquet",
    "plain_text/test-00000-of-00001.parquet",
]


def splits_of(names, config=None):
    groups = layout.group(layout.in_order(names))
    return layout.choose_config(groups, config, "DATA", "hf:a/b/CONFIG")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.parquet", "test.parquet"], {"train", "test"}),
        (CIFAR, {"train", "test"}),
        (["data/train-00000-of-00002-b42abe.parquet"], {"train"}),
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train", "test"}),
        (["data/valid-1.parquet", "data/Train-2.parquet"], {"valid", "train"}),
        (["train/part-00000-c9.snappy.parquet"], {"train"}),
        (["extra-00000-of-00001.parquet", "train-v2.parquet"], {"extra", "train-v2"}),
        (["default/partial-train/0000.parquet"], {"partial-train"}),
    ],
)
def test_splits_are_found_by_the_names_of_files(names, splits):
    assert set(splits_of(names)) == splits


def test_shards_are_in_the_order_of_their_numbers():
    names = [f"train-{i}.parquet" for i in (10, 2, 1)]
    assert splits_of(names)["train"] == [f"train-{i}.parquet" for i in (1, 2, 10)]


def test_several_configurations_are_refused_with_their_list():
    names = [f"{config}/train.parquet" for config in ("small", "full")]
    with pytest.raises(DataError, match="configurations full, small; .* hf:a/b/full"):
        splits_of(names)
    assert splits_of(names, "small") == {"train": ["small/train.parquet"]}
    with pytest.raises(DataError, match="no configuration tiny; it has full, small"):
        splits_of(names, "tiny")


def test_folders_without_a_known_split_are_no_configurations():
    assert set(splits_of(["meta/info.parquet", *CIFAR])) == {"train", "test"}


def test_files_in_the_folder_itself_go_before_those_in_folders_of_it():
    assert splits_of(["train.parquet", "old/train.parquet"]) == {"train": ["train.parquet"]}


def test_without_test_the_validation_split_stands_for_it():
    splits = {"train": [], "val": []}
    assert layout.choose_splits(splits, "DATA") == {"train": "train", "test": "val"}
    assert layout.choose_split(splits, "test", "DATA") == "val"
    splits["test"] = []
    assert layout.choose_splits(splits, "DATA")["validation"] == "val"
    assert layout.choose_split(splits, "validation", "DATA") == "val"


@pytest.mark.parametrize("splits", [["train"], ["test"], ["partial-train", "test"]])
def test_a_split_that_is_missing_is_named(splits):
    with pytest.raises(DataError, match=f"has the splits {', '.join(splits)}; it must hold train"):
        layout.choose_splits(dict.fromkeys(splits, ()), "DATA")


def test_two_validation_splits_are_refused():
    with pytest.raises(DataError, match="both validation and valid; only one"):
        layout.choose_splits(dict.fromkeys(("train", "test", "valid", "validation"), ()), "DATA")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "lacks shard 1 of"),
        (["train-00000-of-00002.parquet"], "lacks shard 1 of the 2"),
        (["train-00000-of-00001-a.parquet", "train-00000-of-00001-b.parquet"], "train twice"),
        (["train.parquet", "train-00000-of-00001.parquet"], "train twice"),
        (["Train.parquet", "train/0000.parquet", "train/0001.parquet"], "train twice"),
        (["train.parquet", "train/a.parquet"], "train twice"),
        (["train/0000.parquet", "train/0002.parquet"], "lacks file 0001.parquet"),
        (["train/0001.parquet"], "lacks file 0000.parquet"),
    ],
)
def test_an_incomplete_split_is_refused(names, message):
    with pytest.raises(DataError, match=message):
        layout.check_complete("train", names, "DATA")


def test_a_complete_split_is_accepted():
    layout.check_complete("train", [f"train-0000{i}-of-00002.parquet" for i in (0, 1)], "DATA")
    layout.check_complete("train", ["train.parquet", "train-1.parquet"], "DATA")
    layout.check_complete("train", ["train/0000.parquet", "train/0001.parquet"], "DATA")
    layout.check_complete("train", ["a.parquet", "b.parquet"], "DATA")


def test_listing_skips_hidden_and_other_files(tmp_path):
    for name in (".hidden.parquet", ".cache/train.parquet", "README.md", "a/b/c/train.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert layout.list_files(tmp_path).names == ("a/b/c/train.parquet",)


def test_links_out_of_the_folder_and_to_folders_are_followed_on_request_only(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "train.parquet").touch()
    (folder / "test.parquet").touch()
    (folder / "val.parquet").symlink_to("test.parquet")  # within
    assert layout.list_files(folder).names == ("test.parquet", "val.parquet")
    for name, target in (("train.parquet", outside / "train.parquet"), ("more", outside)):
        os.symlink(target, folder / name)
        with pytest.raises(DataError, match=f"{name} is a link .*--follow-links"):
            layout.list_files(folder)
        assert len(layout.list_files(folder, follow_links=True).names) == 3
        (folder / name).unlink()


def test_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "train.parquet").touch()
    (tmp_path / "more").symlink_to("more")
    for follow_links in (False, True):
        with pytest.raises(DataError, match="more cannot be read: Too many levels .*; remove it"):
            layout.list_files(tmp_path, follow_links=follow_links)
