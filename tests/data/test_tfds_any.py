import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxcifar.common.errors import DataError, RecipeError
from jaxcifar.data import Dataset, Rows, dataset_info, load_dataset, tfds_store
from jaxcifar.data.tfds_any import find_tfds, open_sources
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits
from tests.data import made_archives as made
from tests.data.made_tfds import encoded, prepare

REAL = os.environ.get("TFDS_DATA_DIR")  # the tests remove it
SHARDS = (("train", 20), ("test", 0))
NAMES = ("ant", "bee", "house cat")


def pictures(count: int, *size: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size), np.uint8))


def rows(images: list[np.ndarray]) -> list[tuple[bytes, int]]:
    """Encoded images with labels 0, 1, 2, 0, ..."""
    return [(encoded(image), i % 3) for i, image in enumerate(images)]


def as_pairs(dataset: Dataset) -> set[tuple[bytes, int]]:
    return {
        (image.tobytes(), int(label))
        for image, label in zip(dataset.images, dataset.labels, strict=True)
    }


@pytest.fixture
def fixed(data_dir: Path) -> Path:
    """20 images of 6x6 to train on and 5 to test on."""
    return prepare(
        data_dir,
        {"train": rows(pictures(20, 6, 6, 3)), "test": rows(pictures(5, 6, 6, 3, seed=1))},
        shape=(6, 6, 3),
    )


def load(data_dir: Path, name: str = "tfds:made", **arguments: object):
    return load_dataset(name, data_dir=data_dir, **arguments)


def test_dataset_info_reads_no_image_and_imports_no_tfds(fixed, data_dir):
    code = (
        "import sys; from jaxcifar.data import dataset_info; print(dataset_info('tfds:made')); "
        "print({'tensorflow_datasets', 'tensorflow', 'PIL'} & set(sys.modules))"
    )
    env = os.environ | {"TFDS_DATA_DIR": str(data_dir)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    info = dataset_info("tfds:made", data_dir=data_dir)
    assert done.stdout == f"{info}\nset()\n"
    assert info.class_names == NAMES
    assert (info.pool, info.test, info.side, info.default_split) == (20, 5, 6, (16, 4))


def test_every_image_comes_with_its_label(fixed, data_dir):
    splits = load(data_dir, split=(15, 5))
    pool = as_pairs(splits.train) | as_pairs(splits.validation)
    assert pool == {(x.tobytes(), i % 3) for i, x in enumerate(pictures(20, 6, 6, 3))}
    assert as_pairs(splits.test) == {
        (x.tobytes(), i % 3) for i, x in enumerate(pictures(5, 6, 6, 3, seed=1))
    }


def test_images_are_in_the_order_of_tfds(fixed, data_dir):
    import tensorflow_datasets as tfds

    theirs = tfds.builder_from_directory(fixed).as_data_source("train")
    pool = open_sources(find_tfds("tfds:made", data_dir), 6)["train"]
    mine = pool.read(np.arange(20))
    for i, record in enumerate(theirs):
        np.testing.assert_array_equal(mine.images[i], record["image"])
        assert mine.labels[i] == record["label"]
    shuffled = np.array([7, 3, 3, 19, 0])
    np.testing.assert_array_equal(pool.read(shuffled).images, mine.images[shuffled])


@pytest.mark.parametrize("stratified", [False, True])
def test_lazy_and_eager_are_the_same(fixed, data_dir, stratified):
    arguments = {"split": (9, 6), "stratified": stratified, "seed": 2}
    eager, lazy = load(data_dir, **arguments), load(data_dir, **arguments, lazy=True)
    for name in ("train", "validation", "test"):
        mine, theirs = getattr(lazy, name), getattr(eager, name)
        assert isinstance(mine, Rows)
        np.testing.assert_array_equal(mine.load().images, theirs.images)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert lazy.fingerprint == eager.fingerprint


def test_grey_becomes_rgb(data_dir):
    images = pictures(6, 5, 5)
    prepare(data_dir, {"train": rows(images), "test": rows(images)}, shape=(5, 5, 1))
    test = as_pairs(load(data_dir, split=(4, 2)).test)
    assert test == {(np.stack([x] * 3, -1).tobytes(), i % 3) for i, x in enumerate(images)}


def test_images_of_several_sizes_are_scaled_to_one(data_dir):
    images = [pictures(1, 8, 8 + i, 3, seed=i)[0] for i in range(0, 8, 2)]
    prepare(data_dir, {"train": rows(images), "test": rows(images)})
    assert dataset_info("tfds:made", data_dir=data_dir).side is None
    with pytest.raises(DataError, match="give the side to scale them to"):
        load(data_dir)
    # Their shorter side is 8, so the middle columns are kept.
    test = load(data_dir, split=(2, 1), side=8).test
    cut = [x[:, (x.shape[1] - 8) // 2 :][:, :8] for x in images]
    assert as_pairs(test) == {(x.tobytes(), i % 3) for i, x in enumerate(cut)}


def test_images_of_one_size_that_are_not_square_are_cropped(data_dir):
    images = pictures(4, 4, 6, 3)
    prepare(data_dir, {"train": rows(images), "test": rows(images)}, shape=(4, 6, 3))
    test = load(data_dir, split=(2, 1), side=4).test
    assert as_pairs(test) == {(x[:, 1:5].tobytes(), i % 3) for i, x in enumerate(images)}


def test_images_of_one_size_keep_it(fixed, data_dir):
    assert load(data_dir, side=3).train.side == 6


def test_a_config_validation_instead_of_test_and_unnamed_classes(data_dir):
    prepared = {"train": rows(pictures(6, 4, 4, 3)), "validation": rows(pictures(3, 4, 4, 3))}
    prepare(data_dir, prepared, config="big", classes=3, shape=(4, 4, 3))
    info = dataset_info("tfds:made/big", data_dir=data_dir)
    assert (info.pool, info.test, info.class_names) == (6, 3, ("0", "1", "2"))
    assert len(load(data_dir, "tfds:made/big", split=(4, 2)).test) == 3
    with pytest.raises(DataError, match=r"has the configs big; name one, as in tfds:made/big"):
        dataset_info("tfds:made", data_dir=data_dir)


def test_the_newest_version_is_used(fixed, data_dir):
    older = fixed.with_name("0.9.0")
    older.mkdir()
    (older / "dataset_info.json").write_text("{}")
    assert dataset_info("tfds:made", data_dir=data_dir).pool == 20


def test_labels_are_read_once(fixed, data_dir, monkeypatch):
    load(data_dir, lazy=True)
    monkeypatch.setattr("jaxcifar.data.tfds_any._read_labels", lambda *_: pytest.fail("read again"))
    assert len(load(data_dir, lazy=True).train) == 16


def test_the_fingerprint_depends_on_the_files_and_not_on_the_folder(fixed, data_dir, tmp_path):
    first = find_tfds("tfds:made", data_dir).fingerprint()
    moved = data_dir.rename(tmp_path / "moved")
    assert find_tfds("tfds:made", moved).fingerprint() == first
    shard = next(moved.glob("made/1.0.0/*train*"))
    data, times = bytearray(shard.read_bytes()), shard.stat()
    data[-1] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert find_tfds("tfds:made", moved).fingerprint() != first


def test_a_recipe_finds_it_in_tfds_data_dir(fixed, data_dir, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"tfds:made is not prepared under .*TFDS_DATA_DIR"):
        Recipe(dataset="tfds:made", batch_size=8)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    recipe = Recipe(dataset="tfds:made", batch_size=8)
    assert (recipe.split_sizes, recipe.image_size) == ((16, 4), 6)
    assert recipe.make_model().num_classes == 3
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert len(load_splits(recipe, data_dir).train) == 16
    assert isinstance(load_splits(recipe, lazy=True).train, Rows)
    other = tmp_path / "other"
    other.mkdir()
    prepare(other, {"train": rows(pictures(9, 6, 6, 3)), "test": rows(pictures(3, 6, 6, 3))})
    with pytest.raises(RecipeError, match="is not the dataset the recipe was checked with"):
        load_splits(recipe, other)


def test_the_option_of_a_command_holds_for_recipes(fixed, data_dir, monkeypatch):
    from jaxcifar.commands.train import make_parser

    monkeypatch.setenv("TFDS_DATA_DIR", "to be put back after the test")
    make_parser("jaxcifar train").parse(["scratch", "--data-dir", str(data_dir)])
    assert Recipe(dataset="tfds:made", batch_size=8).make_model().num_classes == 3


def test_cifar10_can_be_loaded_by_its_tfds_name(data_dir, images):
    tfds_store.write(data_dir, dict(zip(("train", "test"), images, strict=True)), made.FORM)
    splits = load(data_dir, "tfds:cifar10", split=(60, 40), lazy=True)
    assert splits.class_names == made.FORM.class_names
    assert as_pairs(splits.train.load()) | as_pairs(splits.validation.load()) == as_pairs(images[0])
    assert as_pairs(splits.test.load()) == as_pairs(images[1])


def test_the_real_cifar10_is_the_same_under_both_names(tmp_path_factory, monkeypatch):
    if REAL is None or not any(Path(REAL).glob("cifar10/*/dataset_info.json")):
        pytest.skip("TFDS_DATA_DIR names no folder with a prepared cifar10")
    mine = load_dataset("tfds:cifar10", data_dir=REAL, lazy=True)
    theirs = load_dataset("cifar10", data_dir=REAL, lazy=True)
    rows = np.random.default_rng(0).choice(40_000, 200, replace=False)
    actual, expected = mine.train.read(rows), theirs.train.read(rows)
    np.testing.assert_array_equal(actual.images, expected.images)
    np.testing.assert_array_equal(actual.labels, expected.labels)
    np.testing.assert_array_equal(mine.test.labels, theirs.test.labels)
    assert mine.class_names == theirs.class_names


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop_image(directory: Path) -> None:
    path = directory / "features.json"
    features = json.loads(path.read_text())
    del features["featuresDict"]["features"]["image"]
    path.write_text(json.dumps(features))


def set_dtype(directory: Path, dtype: str) -> None:
    path = directory / "features.json"
    path.write_text(path.read_text().replace('"uint8"', f'"{dtype}"'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "dataset_info.json").unlink(), "is not prepared under"),
        (lambda p: (p / "dataset_info.json").write_text("{"), "cannot be understood"),
        (
            lambda p: edit(p / "dataset_info.json", fileFormat="tfrecord"),
            r"holds made as tfrecord.* only array_record can be read; in another folder OTHER, .*"
            r"tfds build made --file_format=array_record --data_dir=OTHER; then use --data-dir OTH",
        ),
        (
            lambda p: edit(p / "dataset_info.json", name="other"),
            r"holds the dataset 'other', not made: rename the folder made .*, or move it away and "
            r"prepare it with TFDS .* --data_dir=/",
        ),
        (lambda p: edit(p / "dataset_info.json", splits=[]), "has the splits none; it needs train"),
        (
            lambda p: edit(
                p / "dataset_info.json",
                splits=[{"name": name, "shardLengths": [n]} for name, n in SHARDS],
            ),
            "has an empty split: train 20, test 0",
        ),
        (lambda p: next(p.glob("*train*")).unlink(), "lacks made-train.array_record-00000-of"),
        (lambda p: (p / "features.json").unlink(), "lacks features.json"),
        (lambda p: (p / "features.json").write_text("[]"), "is damaged or from an old TFDS"),
        (drop_image, "has the features label; it needs an Image called image"),
        (lambda p: set_dtype(p, "uint16"), r"images are uint16 \[6, 6, 3\]"),
        (
            lambda p: (p / "label.labels.txt").write_text("ant\n"),
            "names 1 classes, but features.json has 3",
        ),
    ],
)
def test_an_unusable_dataset_is_one_quick_clear_error(fixed, data_dir, spoil, message):
    spoil(fixed)
    start = time.perf_counter()
    with pytest.raises(DataError, match=message) as caught:
        dataset_info("tfds:made", data_dir=data_dir)
    assert time.perf_counter() - start < 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tfds:", "tfds:../etc", "tfds:a/../b", "tfds:a/b/c", "tfds:a b"])
def test_an_invalid_name_is_refused(data_dir, name):
    with pytest.raises(DataError, match="name a TFDS dataset tfds:NAME or tfds:NAME/CONFIG"):
        dataset_info(name, data_dir=data_dir)


def test_the_error_explains_how_to_prepare_a_dataset(data_dir):
    with pytest.raises(DataError, match=r"tfds build mnist --file_format=array_record"):
        dataset_info("tfds:mnist", data_dir=data_dir)
    with pytest.raises(DataError, match=r"jaxcifar prepare-data cifar10 --data-dir"):
        dataset_info("tfds:cifar10", data_dir=data_dir)


def test_a_label_outside_the_classes_is_refused(data_dir):
    images = rows(pictures(3, 4, 4, 3))
    prepare(data_dir, {"train": images, "test": [(images[0][0], -1)]}, shape=(4, 4, 3))
    with pytest.raises(DataError, match=r"test in .* has a label \[-1\]; expected one of 0 to 2"):
        load(data_dir, lazy=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"years of work", r"image \d of train in .* is not an image"),
        (encoded(pictures(1, 4, 4, 3)[0])[:-40], r"image \d of train in .* cut-off image"),
        (encoded(pictures(1, 5, 4, 3)[0]), r"image \d of train in .* is 4x5 pixels, not 4x4"),
    ],
)
def test_an_unreadable_picture_is_named(data_dir, data, message):
    images = rows(pictures(6, 4, 4, 3))
    prepare(data_dir, {"train": [*images, (data, 0)], "test": images}, shape=(4, 4, 3))
    for lazy in (False, True):
        with pytest.raises(DataError, match=message):
            read_everything(data_dir, lazy)


def read_everything(data_dir: Path, lazy: bool) -> None:
    splits = load(data_dir, split=(6, 1), lazy=lazy)
    splits.train.load()
    splits.validation.load()


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_a_damaged_shard_is_named(fixed, data_dir, how):
    shard = next(fixed.glob("*train*"))
    data = bytearray(shard.read_bytes())
    written = np.flatnonzero(np.frombuffer(bytes(data), np.uint8))
    middle = int(written[len(written) // 2])
    data[middle] ^= 0xFF
    shard.write_bytes({"flipped": data, "cut": data[: len(data) // 2], "empty": b""}[how])
    with pytest.raises(DataError, match=r"cannot (be read|open)") as caught:
        load(data_dir, lazy=True)
    assert str(fixed) in str(caught.value)


def test_a_dataset_that_changes_while_it_is_read_does_not_get_into_the_cache(
    fixed, data_dir, monkeypatch
):
    from jaxcifar.data import contents

    real, shard = contents.sha256_of, next(fixed.glob("*test*"))

    def meddling(path):
        shard.open("ab").close()
        os.utime(shard, (5, 5))
        return real(path)

    monkeypatch.setattr(contents, "sha256_of", meddling)
    with pytest.raises(DataError, match="changed while it was read"):
        load(data_dir, lazy=True)
    monkeypatch.setattr(contents, "sha256_of", real)
    assert load(data_dir, lazy=True).fingerprint == find_tfds("tfds:made", data_dir).fingerprint()


def test_the_fingerprint_of_earlier_versions_is_known(fixed, data_dir):
    digest = hashlib.sha256()
    for name in ("dataset_info.json", "features.json", "label.labels.txt"):
        digest.update(
            f"{hashlib.sha256((fixed / name).read_bytes()).hexdigest()}  {name}\n".encode()
        )
    for shard in sorted(fixed.glob("*array_record*")):
        digest.update(f"{shard.stat().st_size}  {shard.name}\n".encode())
    assert load(data_dir).names_and_sizes == digest.hexdigest()


@pytest.mark.parametrize("begun", [False, True])
def test_pictures_of_shards_that_were_exchanged_do_not_get_the_old_labels(
    fixed, data_dir, tmp_path, begun
):
    splits = load(data_dir, split=(15, 5), lazy=True)
    if begun:
        splits.test.read(np.arange(2))
    for shard in fixed.glob("*test*"):
        shard.chmod(0o600)  # which leaves its contents
    next(fixed.glob("*train*")).touch()  # of another split
    splits.test.read(np.arange(2))
    (tmp_path / "other").mkdir()
    test = rows(pictures(5, 6, 6, 3, seed=1))[::-1]
    other = prepare(tmp_path / "other", {"train": test, "test": test}, shape=(6, 6, 3))
    for shard in other.glob("*test*"):
        shutil.copyfile(shard, fixed / shard.name)
        os.utime(fixed / shard.name, ns=(1, 1))
    with pytest.raises(DataError, match="1.0.0 changed while it was read; load it again"):
        splits.test.load()
    assert as_pairs(load(data_dir, lazy=True).test.load()) == {
        (x.tobytes(), i % 3) for i, x in enumerate(pictures(5, 6, 6, 3, seed=1))
    }


def test_cifar10_in_another_format_is_prepared_in_another_folder(data_dir):
    images = rows(pictures(3, 6, 6, 3))
    made_here = prepare(data_dir, {"train": images, "test": images}, name="cifar10")
    edit(made_here / "dataset_info.json", fileFormat="tfrecord")
    with pytest.raises(DataError, match="jaxcifar prepare-data cifar10 --data-dir OTHER; then"):
        dataset_info("tfds:cifar10", data_dir=data_dir)
