"""Data packed for a machine without TFDS: the oracle is what `load_splits` gives where TFDS is."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import without_tfds
from benchmarks.without_tfds import check, pack, read_packed
from jaxcifar.data import DataError, Dataset, LabelledData, load_labelled
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.splits import load_splits
from tests.conftest import ROOT

# What a machine lent for an hour may lack, and what of it the library needs for pictures only.
ABSENT = ("tensorflow_datasets", "array_record", "grain", "keras", "pyarrow", "importlib_resources")
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "digits"
    pack(folder, "digits")
    return folder


@pytest.fixture
def copy(packed, tmp_path):
    """A copy to damage."""
    for file in packed.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def demo(**changes):
    return replace(get_experiment("demo").recipe, **changes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"split_seed": 3}, {"stratified": True, "train_size": 300}, {"resize": 16, "seed": 5}],
)
def test_the_splits_are_those_of_the_library(packed, changes):
    recipe = demo(**changes)
    ours, theirs = read_packed(packed, recipe), load_splits(recipe)
    for split in ("train", "validation", "test"):
        one, other = getattr(ours, split), getattr(theirs, split).load()
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    for name in ("name", "class_names", "fingerprint", "seed", "stratified", "revision", "info"):
        assert getattr(ours, name) == getattr(theirs, name), name


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 230), side=st.integers(1, 9), seed=st.integers(0, 9))
def test_a_sheet_keeps_every_pixel(tmp_path_factory, count, side, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    path = tmp_path_factory.getbasetemp() / "sheet.webp"
    without_tfds._write_sheet(path, images)
    np.testing.assert_array_equal(without_tfds._read_sheet(path, count, side), images)


def test_many_images_lie_on_several_sheets(tmp_path, monkeypatch):
    monkeypatch.setattr(without_tfds, "PER_SHEET", 500)
    pack(tmp_path / "small", "digits")
    names = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert names == ["index.json", "test-00.webp", *(f"train-0{i}.webp" for i in range(3))]
    assert len(list(check(tmp_path / "small"))) == 3


def test_packed_data_are_not_overwritten(packed):
    before = (packed / "index.json").read_bytes()
    with pytest.raises(DataError, match="already"):
        pack(packed, "digits")
    assert (packed / "index.json").read_bytes() == before


def test_a_packing_that_was_killed_is_packed_again(copy):
    (copy / "index.json").unlink()
    with pytest.raises(DataError, match="pack"):
        read_packed(copy, demo())
    pack(copy, "digits")
    assert len(list(check(copy))) == 3


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def repaint(path):
    with Image.open(path) as picture:
        pixels = np.array(picture)
    pixels[3, 4, 0] ^= 1
    Image.fromarray(pixels).save(path, "WEBP", lossless=True)


def as_png(path):
    with Image.open(path) as picture:
        picture.save(path, "PNG")


def shrink(path):
    Image.new("RGB", (8, 8)).save(path, "WEBP", lossless=True)


@pytest.mark.parametrize("damage", [cut, repaint, as_png, shrink, lambda path: path.unlink()])
@pytest.mark.parametrize("name", ["train-00.webp", "test-00.webp"])
def test_a_damaged_sheet_is_named(copy, name, damage):
    damage(copy / name)
    with pytest.raises(DataError, match=name) as raised:
        read_packed(copy, demo())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(format=2),
        lambda index: index.pop("fingerprint"),
        lambda index: index.update(side="wide"),
        lambda index: index["class_names"].pop(),
        lambda index: index["splits"]["test"]["labels"].append(1 << 40),
        lambda index: index["splits"]["train"]["labels"].pop(),
        lambda index: index["splits"]["train"].update(sheets=[]),
        lambda index: index.update(splits=None),
    ],
)
def test_a_changed_index_is_refused_in_one_line(copy, change):
    index = json.loads((copy / "index.json").read_text())
    change(index)
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError) as raised:
        read_packed(copy, demo())
    assert "\n" not in str(raised.value)


def test_an_index_leads_to_no_file_outside_its_folder(copy, tmp_path):
    index = json.loads((copy / "index.json").read_text())
    index["splits"]["test"]["sheets"][0]["file"] = "../../test-00.webp"
    (copy / "index.json").write_text(json.dumps(index))
    assert len(read_packed(copy, demo()).test) == 360


def test_data_of_another_name_are_refused(packed):
    with pytest.raises(DataError, match="holds digits, and the recipe names cifar10"):
        read_packed(packed, get_experiment("scratch").recipe)


@pytest.mark.parametrize("what", ["images", "labels", "fingerprint"])
def test_a_difference_to_the_librarys_data_is_found(packed, monkeypatch, what):
    def other(name, split, **more):
        there = load_labelled(name, split, **more)
        images, labels = there.source.images.copy(), there.source.labels.copy()
        if what == "images":
            images[7, 0, 0, 0] ^= 1
        if what == "labels":
            labels[7] = (labels[7] + 1) % 10
        digest = "0" * 64 if what == "fingerprint" else there.fingerprint
        return LabelledData(name, there.class_names, Dataset(images, labels), digest)

    monkeypatch.setattr(without_tfds, "load_labelled", other)
    with pytest.raises(
        DataError, match="another digits" if what == "fingerprint" else "first in 7"
    ):
        list(check(packed))


def test_where_the_librarys_data_are_not_the_sheets_are_checked(packed, monkeypatch):
    def absent(*names, **more):
        raise DataError("CIFAR-10 is not prepared")

    monkeypatch.setattr(without_tfds, "load_labelled", absent)
    lines = list(check(packed))
    assert "every sheet" in lines[0]
    assert "not compared" in lines[-1]


def test_checking_downloads_nothing(copy, monkeypatch):
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(index | {"name": "cifar10"}))
    monkeypatch.setattr("jaxcifar.data.cifar.prepare_cifar", pytest.fail)
    lines = list(check(copy, copy))
    assert "CIFAR-10 is not prepared" in lines[-1]


def in_process(code, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, **more,
    )  # fmt: skip


def test_nothing_that_trains_imports_what_may_be_absent(packed):
    code = """
import benchmarks.race, benchmarks.time_to_accuracy, jaxcifar.commands.train, jaxcifar.training.fit
from benchmarks.without_tfds import read_packed
from jaxcifar.recipes.presets import get_experiment
print(len(read_packed(sys.argv[1], get_experiment("demo").recipe).train))
"""
    done = in_process(code, packed)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1216\n"


TRAIN = "import runpy; sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__')"
TINY = ("width=2", "resize=8", "limit_batches=1", "epochs=2")


@pytest.mark.slow
def test_a_run_on_packed_data_is_the_run_of_the_library(packed, tmp_path):
    """Trained where TFDS is absent, continued by the command where it is not."""
    arguments = ("benchmarks.without_tfds", "train", packed, "demo", *TINY)
    done = in_process(TRAIN, *arguments, "--workdir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    again = in_process(
        TRAIN, "jaxcifar", "train", "demo", "--workdir", tmp_path / "run", "--resume",
        "--epochs", "3", "--after-schedule", "final", "--t-max", "2",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 3


@pytest.mark.slow
def test_a_race_on_packed_data_runs_where_tfds_is_absent(packed, tmp_path):
    done = in_process(
        TRAIN, "benchmarks.race", "demo", "--packed", packed, "--set", *TINY,
        "--out", tmp_path / "race.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "race.jsonl").read_text().splitlines()) == 2
