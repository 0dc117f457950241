import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcifar.common.errors import DataError
from jaxcifar.data import check_split, dataset_info, decoding, load_dataset, load_labelled
from jaxcifar.data.parquet_any import find_parquet, known_parquet
from tests.data import made_parquet as made
from tests.data.made_tfds import encoded

SIDE = 6


def load(folder, **options):
    return load_dataset(f"parquet:{folder}", **({"side": SIDE} | options))


def pairs(data):
    data = data.load()
    return sorted((x.tobytes(), int(y)) for x, y in zip(data.images, data.labels, strict=True))


@pytest.fixture
def folder(tmp_path):
    return made.write_dataset(tmp_path / "hub", row_group_size=4)


def test_dataset_info_reads_no_picture(folder):
    code = (
        f"import sys; from jaxcifar.data import dataset_info; "
        f"info = dataset_info('parquet:{folder}'); "
        "print(info.class_names, info.pool, info.test, info.side, info.default_split, "
        "{'tensorflow', 'tensorflow_datasets', 'PIL', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == f"{made.NAMES} 20 5 None (16, 4) set()\n"
    assert check_split(f"parquet:{folder}", (15, 5)) == (15, 5)


def test_no_pyarrow_is_imported_without_parquet():
    code = "import sys, jaxcifar.data; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("lazy", [False, True])
def test_every_image_comes_with_its_label(folder, lazy):
    splits = load(folder, split=(15, 5), lazy=lazy)
    pool = sorted(pairs(splits.train) + pairs(splits.validation))
    assert pool == sorted((x.tobytes(), i % 3) for i, x in enumerate(made.pictures(20)))
    test = splits.test.load()
    assert np.array_equal(test.images, made.pictures(5, seed=1))
    assert test.labels.tolist() == [0, 1, 2, 0, 1]
    assert splits.class_names == made.NAMES
    assert (splits.revision, splits.data_dir, splits.names_and_sizes) == (None, None, None)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), side=st.integers(1, 9), group=st.integers(1, 8))
def test_a_round_trip_of_images_and_labels_is_exact(tmp_path_factory, data, side, group):
    folder = tmp_path_factory.mktemp("round")
    count, kind = data.draw(st.integers(2, 12)), data.draw(st.sampled_from(["hub", "text", "int"]))
    images = made.pictures(count, side, seed=data.draw(st.integers(0, 99)))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    names = {"hub": made.NAMES, "text": ("x", "y", "z"), "int": ("0", "1", "2")}[kind]
    labels[0] = 2  # so that the numbers alone say how many classes there are
    if kind == "hub":
        made.write_hub(folder / "train.parquet", images, labels, row_group_size=group)
    else:
        column = pa.array([names[label] for label in labels] if kind == "text" else labels)
        cells = pa.array([encoded(image) for image in images])
        made.write(folder / "train.parquet", {"img": cells, "target": column}, row_group_size=group)
    shutil.copy(folder / "train.parquet", folder / "test.parquet")
    found = load_labelled(f"parquet:{folder}", side=side)
    read = found.source.read(np.arange(count))
    assert np.array_equal(read.images, images)
    assert [found.class_names[label] for label in read.labels] == [names[x] for x in labels]


def test_texts_in_alphabetical_order_are_the_classes(tmp_path):
    for split, texts in (("train", ["dog", "cat", "dog", "ant"]), ("test", ["cat", "dog"])):
        cells = pa.array([encoded(image) for image in made.pictures(len(texts))])
        made.write(tmp_path / f"{split}.parquet", {"image": cells, "label": pa.array(texts)})
    splits = load(tmp_path, split=(3, 1))
    assert splits.class_names == ("ant", "cat", "dog")
    assert splits.test.labels.tolist() == [1, 2]
    assert load_labelled(f"parquet:{tmp_path}", side=SIDE).class_names == ("cat", "dog")


@pytest.mark.parametrize(("test", "row"), [(pa.array([0, 2]), 1), (pa.array(["a", "c"]), 1)])
def test_a_class_that_training_lacks_is_refused(tmp_path, test, row):
    cells = pa.array([encoded(image) for image in made.pictures(2)])
    train = pa.array([0, 1]) if pa.types.is_integer(test.type) else pa.array(["a", "b"])
    for split, labels in (("train", train), ("test", test)):
        made.write(tmp_path / f"{split}.parquet", {"image": cells, "label": labels})
    with pytest.raises(DataError, match=rf"test\.parquet: row {row}, column label: the label"):
        dataset_info(f"parquet:{tmp_path}")


def test_an_own_validation_split_is_validated_on(folder):
    path = folder / "data/validation-00000-of-00001.parquet"
    made.write_hub(path, made.pictures(4), [0, 1, 2, 0])
    info = dataset_info(f"parquet:{folder}")
    assert (info.pool, info.validation, info.test, info.default_split) == (20, 4, 5, (20, 4))
    splits = load(folder)
    assert np.array_equal(splits.validation.images, made.pictures(4))
    (folder / "data/test-00000-of-00001.parquet").unlink()
    info = dataset_info(f"parquet:{folder}")
    assert (info.pool, info.validation, info.test) == (20, None, 4)


def test_one_split_alone_is_read(folder):
    (folder / "data/train-00000-of-00002.parquet").unlink()
    assert len(load_labelled(f"parquet:{folder}", side=SIDE).source) == 5
    with pytest.raises(DataError, match="no split extra; it has the splits test, train"):
        load_labelled(f"parquet:{folder}", "extra", side=SIDE)
    with pytest.raises(DataError, match="lacks shard 0 of the 2 of train"):
        load_labelled(f"parquet:{folder}", "train", side=SIDE)


def test_one_file_is_scored_but_not_trained_on(folder):
    file = f"parquet:{folder}/data/test-00000-of-00001.parquet"
    assert np.array_equal(
        load_labelled(file, side=SIDE).source.read(np.arange(5)).images, made.pictures(5, seed=1)
    )
    with pytest.raises(DataError, match="is one file; name the folder"):
        dataset_info(file)


def test_columns_are_named(tmp_path):
    cells = made.structs([encoded(image) for image in made.pictures(4)])
    values = {"img": cells, "fine_label": pa.array([0, 1, 2, 0]), "coarse_label": pa.array([0] * 4)}
    features = {"img": made.IMAGE, "fine_label": made.class_label()}
    features |= {"coarse_label": made.class_label(["all"])}
    for split in ("train", "test"):
        made.write(tmp_path / f"{split}.parquet", values, features)
    with pytest.raises(DataError, match=f"as in parquet:{tmp_path}#label=fine_label"):
        dataset_info(f"parquet:{tmp_path}")
    splits = load(f"{tmp_path}#label=fine_label")
    assert splits.test.labels.tolist() == [0, 1, 2, 0]
    assert dataset_info(f"parquet:{tmp_path}#label=coarse_label,image=img").class_names == ("all",)
    # The same files under other columns are other data, also in the cache.
    with pytest.warns(UserWarning, match="one class alone"):
        other = load(f"{tmp_path}#label=coarse_label")
    assert other.test.labels.tolist() == [0] * 4
    assert other.fingerprint != splits.fingerprint


def test_the_fingerprint_is_of_the_contents_alone(folder, tmp_path):
    before = load(folder).fingerprint
    other = made.write_dataset(tmp_path / "other", row_group_size=7, compression="gzip")
    assert load(other).fingerprint == before
    images, labels = made.pictures(20), [i % 3 for i in range(20)]
    shutil.rmtree(other)
    made.write_hub(other / "test.parquet", made.pictures(5, seed=1), labels[:5])
    made.write_hub(other / "train.parquet", images, labels)
    assert load(other).fingerprint == before
    made.write_hub(other / "train.parquet", images, labels[1:] + labels[:1])
    assert load(other).fingerprint != before
    made.write_hub(other / "train.parquet", images[1:] + images[:1], labels)
    assert load(other).fingerprint != before
    for split, count in (("train", 20), ("test", 5)):
        kept = made.pictures(count, seed=int(split == "test"))
        made.write_hub(other / f"{split}.parquet", kept, labels[:count], names=["a", "b", "c"])
    assert load(other).fingerprint != before


def test_pictures_are_decoded_once(folder, monkeypatch):
    before = load(folder)
    monkeypatch.setattr(decoding, "decode_all", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(load(folder).train.images, before.train.images)


def test_a_changed_file_is_read_anew(folder):
    before = load(folder)
    made.write_hub(folder / "data/test-00000-of-00001.parquet", made.pictures(7, seed=5), [0] * 7)
    assert dataset_info(f"parquet:{folder}").test == 7
    after = load(folder)
    assert np.array_equal(after.test.images, made.pictures(7, seed=5))
    assert after.fingerprint != before.fingerprint


def test_a_change_while_pictures_are_read_is_noticed(folder):
    found = find_parquet(f"parquet:{folder}")
    os.utime(folder / "data/test-00000-of-00001.parquet", ns=(1, 1))
    with pytest.raises(DataError, match="changed while it was read"):
        found.fingerprint()


def test_what_is_known_is_not_read_again(folder, monkeypatch):
    for file in (folder / "data").iterdir():
        os.utime(file, ns=(1, 1))
    for place in (folder, folder / "data"):
        os.utime(place, ns=(1, 1))
    first = known_parquet(f"parquet:{folder}")
    assert known_parquet(f"parquet:{folder}") is first
    (folder / "data/validation.parquet").touch()
    with pytest.raises(DataError, match=r"validation\.parquet is not a Parquet file"):
        known_parquet(f"parquet:{folder}")


def test_pictures_of_several_sizes_are_resized_upright(tmp_path):
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    tall.save(buffer, "JPEG", exif=exif)
    path = tmp_path / "turned.jpg"
    path.write_bytes(buffer.getvalue())
    images = [buffer.getvalue(), *made.pictures(3, 11)]
    for split in ("train", "test"):
        made.write_hub(tmp_path / f"{split}.parquet", images, [0, 1, 2, 0])
    with pytest.raises(DataError, match="have several sizes; give the side"):
        load(tmp_path, side=None)
    from jaxcifar.data.image_file import read_square

    assert np.array_equal(load(tmp_path, side=8).test.images[0], read_square(path, 8))


def test_all_damaged_and_missing_pictures_are_named(tmp_path):
    good = made.pictures(4)
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0" + bytes(4)
    made.write_hub(tmp_path / "train.parquet", [good[0], None, b"no", good[1]], [0, 1, 2, 0])
    made.write_hub(tmp_path / "test.parquet", [good[0], bomb, b"", good[1]], [0, 1, 2, 0])
    expected = (
        r"4 pictures of parquet:.* cannot be read:\n"
        r"  .*/train\.parquet, row 1, column image: there is no picture \(null\).*\n"
        r"  .*/train\.parquet, row 2, column image is not an image.*\n"
        r"  .*/test\.parquet, row 1, column image is .*\n"
        r"  .*/test\.parquet, row 2, column image is not an image"
    )
    with pytest.raises(DataError, match=expected):
        load(tmp_path)
    test = load(tmp_path, lazy=True).test
    assert len(test.read(np.array([0, 3])).images) == 2
    with pytest.raises(DataError, match=r"2 pictures of test in .* cannot be read"):
        test.read(np.array([1]))


@pytest.mark.parametrize(
    ("names", "third"), [(("ant", "bee", "cat"), "'cat'"), (made.NAMES[:2], "none")]
)
@pytest.mark.parametrize("file", ["train-00001-of-00002", "test-00000-of-00001"])
def test_class_names_that_differ_between_files_are_refused(folder, names, third, file):
    message = f"class 2 of label is 'house cat' in one and {third} in the other"
    made.write_hub(folder / f"data/{file}.parquet", made.pictures(2), [0, 1], names=names)
    with pytest.raises(DataError, match=f"{file}.parquet do not go together: {message}"):
        dataset_info(f"parquet:{folder}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"image": pa.array([b"x"]), "label": pa.array([0])},
            r"image \(struct\).* image \(binary\)",
        ),
        (
            {"image": made.structs([b"x"]), "label": pa.array(["a"])},
            r"\(numbers\).* label \(texts\)",
        ),
    ],
)
def test_schemas_that_differ_between_files_are_refused(folder, values, message):
    features = {"image": made.IMAGE, "label": made.class_label()}
    if pa.types.is_string(values["label"].type):
        features = {"image": made.IMAGE}
    path = folder / "data/train-00001-of-00002.parquet"
    made.write(path, values, features)
    with pytest.raises(DataError, match=f"do not go together: .*{message}"):
        dataset_info(f"parquet:{folder}")


def test_a_column_that_is_missing_in_one_file_is_refused(folder):
    made.write(folder / "data/train-00001-of-00002.parquet", {"image": made.structs([b"x"])})
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet has the columns image,"):
        dataset_info(f"parquet:{folder}")


def test_an_empty_split_is_refused(folder):
    made.write_hub(folder / "data/test-00000-of-00001.parquet", [], [])
    with pytest.raises(DataError, match="empty split: test"):
        dataset_info(f"parquet:{folder}")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nothing", "there is no folder or Parquet file .*nothing; it must hold train.parquet"),
        ("empty", "has no Parquet files"),
        ("several", "configurations large, small; name one, as in parquet:.*/several/large"),
        ("text.txt", "is one file"),
    ],
)
def test_a_place_without_a_dataset_is_one_line(tmp_path, place, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    for config in ("large", "small"):
        made.write_hub(tmp_path / "several" / config / "train.parquet", made.pictures(1), [0])
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / place)
    assert "\n" not in str(caught.value)


def test_pictures_of_a_file_that_was_exchanged_do_not_get_the_old_labels(tmp_path):
    images = made.pictures(6)
    for split in ("train", "test"):
        made.write_hub(tmp_path / f"{split}.parquet", images, [0, 1, 2] * 2)
    splits = load(tmp_path, lazy=True)
    made.write_hub(tmp_path / "test.parquet", images[::-1], [2, 1, 0] * 2)
    with pytest.raises(DataError, match=r"test\.parquet changed while it was read; load it again"):
        splits.test.load()
    expected = sorted(pairs(splits.train) + pairs(splits.validation))
    assert pairs(load(tmp_path, lazy=True).test) == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("round", "round cannot be opened: Too many levels of symbolic links"),
        ("round/data", "round/data cannot be opened: Too many levels"),
        ("nowhere", "there is no folder or Parquet file .*nowhere; it must hold"),
        ("file/data", "file/data cannot be opened: Not a directory"),
    ],
)
@pytest.mark.parametrize("ask", [dataset_info, load_labelled])
def test_a_path_that_leads_nowhere_is_one_line(tmp_path, path, message, ask):
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=message) as caught:
        ask(f"parquet:{tmp_path / path}")
    assert len(caught.value.args) == 1


def test_without_the_files_of_a_test_split_without_labels_validation_stands_for_it(folder):
    made.write_hub(folder / "data/validation.parquet", made.pictures(4), [0, 1, 2, 0])
    test = folder / "data/test-00000-of-00001.parquet"
    made.write_hub(test, made.pictures(2), [-1, -1])
    with pytest.raises(DataError, match="copy the files of the other splits to a folder"):
        dataset_info(f"parquet:{folder}")
    test.unlink()
    assert dataset_info(f"parquet:{folder}").test == 4
