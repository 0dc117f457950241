"""CIFAR-100 from an archive in its format to splits of fine and of coarse labels."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from jaxcifar import Recipe, load_dataset, load_splits
from jaxcifar.common.errors import DataError
from jaxcifar.data import DATASETS, dataset_info, load_labelled, tfds_store
from jaxcifar.data.archive import max_bytes, read_archive
from jaxcifar.data.cifar import ArchiveSource
from jaxcifar.data.cifar10 import CIFAR10
from jaxcifar.data.cifar100 import (
    CIFAR100,
    CLASS_NAMES,
    COARSE_NAMES,
    load_cifar100,
    prepare_cifar100,
)
from jaxcifar.data.cifar_format import TwiceLabelled
from tests.data import made_archives as made

KINDS = ("binary", "python")


@pytest.fixture(scope="module")
def images_100():
    return made.made_images_100()


@pytest.fixture(scope="module")
def archives_100(tmp_path_factory, images_100):
    folder = tmp_path_factory.mktemp("archives")
    return {
        kind: made.write_archive(folder / f"{kind}.tar.gz", made.members_100(kind, *images_100))
        for kind in KINDS
    }


@pytest.fixture
def source_100(archives_100):
    return ArchiveSource(made.FORM_100, tuple(map(made.remote, archives_100.values())))


@pytest.fixture
def prepared(data_dir, archives_100, source_100):
    return prepare_cifar100(data_dir, from_archive=archives_100["python"], source=source_100)


@pytest.fixture
def small(prepared, monkeypatch, source_100):
    """`load_dataset` on the small archive."""
    load_module = __import__("jaxcifar.data.load", fromlist=["load"])
    monkeypatch.setattr(
        load_module.cifar100,
        "load_cifar100",
        lambda data_dir, **named: load_cifar100(data_dir, source=source_100, **named),
    )
    small = {
        name: dataclasses.replace(DATASETS[name], pool=200, test=100, default_split=(150, 50))
        for name in ("cifar100", "cifar100:coarse")
    }
    monkeypatch.setattr(load_module, "DATASETS", DATASETS | small)
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared.parents[1]))


def as_set(images, *labels):
    """Each image with its labels."""
    return {
        (image.tobytes(), *map(int, each)) for image, *each in zip(images, *labels, strict=True)
    }


def same(loaded, original, coarse):
    expected = original.coarse if coarse else original.labels
    assert as_set(loaded.images, loaded.labels) == as_set(original.images, expected)


def test_the_classes_are_the_official_ones():
    assert (len(CLASS_NAMES), len(COARSE_NAMES)) == (100, 20)
    assert list(CLASS_NAMES) == sorted(set(CLASS_NAMES))  # alphabetical, none twice
    assert list(COARSE_NAMES) == sorted(set(COARSE_NAMES))
    where = {"apple": 0, "baby": 2, "beaver": 4, "keyboard": 39, "possum": 64, "worm": 99}
    assert {name: CLASS_NAMES.index(name) for name in where} == where
    assert COARSE_NAMES[0] == "aquatic_mammals"
    assert COARSE_NAMES[19] == "vehicles_2"
    for name, names in (("cifar100", CLASS_NAMES), ("cifar100:coarse", COARSE_NAMES)):
        info = dataset_info(name)
        assert info.class_names == names
        assert (info.pool, info.test, info.side) == (50_000, 10_000, 32)
        assert info.default_split == (40_000, 10_000)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_its_images_with_both_labels(archives_100, images_100, kind):
    contents = read_archive(archives_100[kind], made.FORM_100)
    for split, expected in zip(("train", "test"), images_100, strict=True):
        np.testing.assert_array_equal(contents[split].images, expected.images)
        np.testing.assert_array_equal(contents[split].labels, expected.labels)
        np.testing.assert_array_equal(contents[split].coarse, expected.coarse)


def test_the_made_pickles_are_valid(images_100):
    batch = pickle.loads(made.pickled_100(images_100[1]), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], made.planes(images_100[1]))
    assert batch[b"fine_labels"] == images_100[1].labels.tolist()
    assert batch[b"coarse_labels"] == images_100[1].coarse.tolist()


def test_both_kinds_are_prepared_as_the_same_dataset(
    tmp_path, archives_100, source_100, images_100
):
    digests = set()
    for kind, archive in archives_100.items():
        (tmp_path / kind).mkdir()
        directory = prepare_cifar100(tmp_path / kind, from_archive=archive, source=source_100)
        assert directory == tmp_path / kind / "cifar100" / "3.0.2"
        for coarse in (False, True):
            train, test, digest = load_cifar100(tmp_path / kind, source=source_100, coarse=coarse)
            same(train, images_100[0], coarse)
            same(test, images_100[1], coarse)
            digests.add(digest)
        assert [file.name for file in (tmp_path / kind).iterdir()] == ["cifar100"]
    assert len(digests) == 1


def test_plain_tfds_reads_it(prepared, images_100):
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar100", data_dir=prepared.parents[1])
    assert type(builder).__module__.startswith("tensorflow_datasets.")
    features = builder.info.features
    assert features["label"].names == list(CLASS_NAMES)
    assert features["coarse_label"].names == list(COARSE_NAMES)
    for name, original in zip(("train", "test"), images_100, strict=True):
        records = list(builder.as_data_source(name))
        assert len(records) == len(original)
        for record in records:
            index = int(record["id"].decode().removeprefix(f"{name}_"))
            np.testing.assert_array_equal(record["image"], original.images[index])
            assert record["label"] == original.labels[index]
            assert record["coarse_label"] == original.coarse[index]


def test_it_is_loaded_by_name_with_either_labels(small, images_100):
    fine, coarse = load_dataset("cifar100"), load_dataset("cifar100:coarse", lazy=True)
    assert (len(fine.class_names), len(coarse.class_names)) == (100, 20)
    assert fine.fingerprint == coarse.fingerprint
    assert fine.data_dir == coarse.data_dir
    assert fine.data_dir is not None
    same(fine.test, images_100[1], coarse=False)
    same(coarse.test.load(), images_100[1], coarse=True)
    for split in ("train", "validation"):  # the same rows, by the same seed
        np.testing.assert_array_equal(
            getattr(fine, split).images, getattr(coarse, split).load().images
        )
    scored = load_labelled("cifar100:coarse")
    assert scored.class_names == COARSE_NAMES
    same(scored.source, images_100[1], coarse=True)
    same(load_dataset("tfds:cifar100").test, images_100[1], coarse=False)


def test_a_warm_load_of_coarse_labels_reads_no_record(prepared, source_100, monkeypatch):
    first = load_cifar100(prepared.parents[1], source=source_100, coarse=True)

    def fail(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr(tfds_store, "_read_split", fail)
    again = load_cifar100(prepared.parents[1], source=source_100, coarse=True)
    np.testing.assert_array_equal(again[0].labels, first[0].labels)


def test_cifar10_and_cifar100_are_prepared_side_by_side(data_dir, prepared, archives, source):
    from jaxcifar.data.cifar10 import load_cifar10, prepare_cifar10

    prepare_cifar10(data_dir, from_archive=archives["binary"], source=source)
    assert sorted(file.name for file in data_dir.iterdir()) == ["cifar10", "cifar100"]
    assert len(load_cifar10(data_dir, source=source)[0]) == 100


def test_the_fine_recipe_wants_the_splits_of_its_name(small):
    recipe = Recipe(dataset="cifar100:coarse", normalization="cifar100", batch_size=50)
    splits = load_splits(dataclasses.replace(recipe, train_size=100, validation_size=50))
    assert set(splits.train.labels.tolist()) <= set(range(20))
    assert recipe.make_model().num_classes == 20


def repack(tmp_path, images_100, kind, **replaced):
    members = made.members_100(kind, *images_100)
    assert set(replaced) <= set(members)
    return made.write_archive(tmp_path / "a.tar.gz", members | replaced)


def relabelled(images_100, **changes):
    return made.pickled_100(dataclasses.replace(images_100[1], **changes))


def test_python_batches_with_wrong_contents_are_refused(tmp_path, images_100):
    test = images_100[1]
    high, wrong = test.labels.copy(), test.coarse.copy()
    high[3], wrong[3] = 100, 20
    good = made.pickled_100(test)
    half = TwiceLabelled(test.images[:50], test.labels[:50], test.coarse[:50])
    no_coarse = good.replace(b"coarse_labels", b"Coarse_labels")
    short = good.replace(made._numbers(test.coarse), made._numbers(test.coarse[:-1]))
    for bad, message in [
        (relabelled(images_100, labels=high), "labels from 0 to 100; expected 0 to 99"),
        (relabelled(images_100, coarse=wrong), "labels from 0 to 20; expected 0 to 19"),
        (relabelled(images_100, coarse=(test.coarse + 1) % 20), "coarse labels .*expected one"),
        (no_coarse, "no list of whole numbers named `coarse_labels`"),
        (short, "99 coarse_labels for 100 images"),
        (b"cos\nsystem\n(U\x02idtR.", "it asks for os.system"),
        (made.pickled_100(half), "no uint8 `data` of 100 x 3,072 pixels"),
    ]:
        with pytest.raises(DataError, match=message):
            read_archive(repack(tmp_path, images_100, "python", test=bad), made.FORM_100)


def test_binary_batches_with_wrong_contents_are_refused(tmp_path, images_100):
    good = made.members_100("binary", *images_100)["test.bin"]
    for bad, message in [
        (good[:-1], "307,399 bytes; 100 images take exactly 307,400"),
        (b"\x14" + good[1:], "labels from 0 to 20; expected 0 to 19"),
        (good[:1] + b"\x64" + good[2:], "labels from 0 to 100; expected 0 to 99"),
    ]:
        path = repack(tmp_path, images_100, "binary", **{"test.bin": bad})
        with pytest.raises(DataError, match=message):
            read_archive(path, made.FORM_100)


@pytest.mark.parametrize("level", ["fine", "coarse"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_class_names_are_refused(tmp_path, images_100, kind, level):
    name = "meta" if kind == "python" else f"{level}_label_names.txt"
    old, new = {"fine": (b"keyboard", b"kexboard"), "coarse": (b"reptiles", b"rextiles")}[level]
    members = made.members_100(kind, *images_100)
    path = repack(tmp_path, images_100, kind, **{name: members[name].replace(old, new)})
    with pytest.raises(DataError, match=f"{name} in .* names the classes .*; expected"):
        read_archive(path, made.FORM_100)


def test_archives_are_not_taken_for_one_another(tmp_path, archives, archives_100):
    with pytest.raises(DataError, match="train' in .* more than the limit of 65,536; refused"):
        read_archive(archives_100["python"], made.FORM)
    with pytest.raises(DataError, match="holds no CIFAR-100 batches; expected .*cifar-100-binary"):
        read_archive(archives["python"], made.FORM_100)


def test_the_original_archives_fit_into_the_limits():
    # 60,000 images, two labels and a file name of 40 bytes each.
    assert 60_000 * (3_072 + 2 * 5 + 40) < max_bytes(CIFAR100.form) < 220e6
    for archive in (*CIFAR100.archives, *CIFAR10.archives):
        assert 160e6 < archive.size < max_bytes(CIFAR100.form)


def test_what_is_wrong_with_prepared_data_names_cifar100(data_dir, prepared, source_100):
    (prepared / "coarse_label.labels.txt").rename(prepared / "x")
    command = f"prepare-data cifar100 --data-dir {data_dir}$"
    with pytest.raises(DataError, match=f"lacks coarse_label.labels.txt; .*{command}"):
        load_cifar100(data_dir, source=source_100)
    (prepared / "coarse_label.labels.txt").write_text("fish")
    with pytest.raises(DataError, match=f"names the classes fish; .*{command}"):
        load_cifar100(data_dir, source=source_100)


def test_without_data_the_message_names_the_command(data_dir):
    command = f"prepare-data cifar100 --data-dir {data_dir}, or"
    with pytest.raises(DataError, match=f"CIFAR-100 is not prepared .*{command}"):
        load_dataset("cifar100:coarse", data_dir=data_dir, download=False)
    with pytest.raises(DataError, match=r"jaxcifar prepare-data cifar100 --data-dir"):
        dataset_info("tfds:cifar100", data_dir=data_dir)


@pytest.mark.slow
def test_an_archive_of_full_size_is_prepared_and_trained_on(tmp_path, run_here, monkeypatch):
    """By the commands, with nothing made smaller but the pictures' variety."""
    generator = np.random.default_rng(0)

    def noise(n):
        fine = (np.arange(n) % 100).astype(np.int32)
        images = generator.integers(0, 4, (n, 32, 32, 3), np.uint8)  # compresses fast
        return TwiceLabelled(images, fine, fine % 20)

    members = made.members_100("python", noise(50_000), noise(10_000))
    archive = made.write_archive(tmp_path / "cifar-100-python.tar.gz", members)
    del members
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    status, _, error = run_here("prepare_data.py", "cifar100", "--from-archive", str(archive))
    assert status == 2
    assert "is neither cifar-100-binary.tar.gz (168,513,733 bytes) nor cifar-100-python" in error
    digest = made.sha256(archive)
    status, out, error = run_here(
        "prepare_data.py", "cifar100", "--from-archive", str(archive), "--sha256", digest
    )
    assert (status, out.strip()) == (0, str(tmp_path / "data" / "cifar100" / "3.0.2")), error
    for name, classes in (("cifar100", 100), ("cifar100:coarse", 20)):
        run = tmp_path / f"run{classes}"
        status, _, error = run_here(
            *("train.py", "scratch", "--dataset", name, "--normalization", "cifar100"),
            *("--width", "4", "--epochs", "1", "--train-size", "256", "--validation-size", "128"),
            *("--workdir", str(run)),
        )
        assert not status, error
        data = json.loads((run / "config.json").read_text())["data"]
        assert (data["num_classes"], data["pool"], data["test"]) == (classes, 50_000, 10_000)
        assert json.loads((run / "summary.json").read_text())
