import json
import os

import pyarrow as pa
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data.parquet_schema import find_columns, read_footer
from tests.data import made_parquet as made

IMAGES = made.structs([b"x", b"y"])
NUMBERS = pa.array([0, 1])


def columns(tmp_path, values, features=None, **asked):
    path = made.write(tmp_path / "train.parquet", values, features)
    options = {"image": None, "label": None} | asked
    return find_columns(read_footer(path).schema, path, "parquet:data", **options)


def test_the_types_of_the_hub_go_before_names(tmp_path):
    values = {"image": NUMBERS, "photo": IMAGES, "label": NUMBERS, "kind": NUMBERS}
    features = {"photo": made.IMAGE, "kind": made.class_label(["a", "b"])}
    found = columns(tmp_path, values, features)
    assert (found.image, found.label, found.class_names) == ("photo", "kind", ("a", "b"))
    assert found.in_struct
    assert not found.as_text


@pytest.mark.parametrize("image", ["image", "img", "picture"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "target"])
def test_columns_are_found_by_their_names(tmp_path, image, label):
    values = {"id": NUMBERS, image: pa.array([b"x", b"y"]), label: pa.array(["a", "b"])}
    found = columns(tmp_path, values)
    assert (found.image, found.label) == (image, label)
    assert (found.in_struct, found.as_text, found.class_names) == (False, True, None)


def test_several_candidates_are_refused_with_the_way_to_choose(tmp_path):
    values = {"img": IMAGES, "fine_label": NUMBERS, "coarse_label": NUMBERS}
    features = {"img": made.IMAGE}
    features |= {name: made.class_label() for name in ("fine_label", "coarse_label")}
    message = "could be the label: fine_label, coarse_label; .* parquet:data#label=fine_label"
    with pytest.raises(DataError, match=message):
        columns(tmp_path, values, features)
    assert columns(tmp_path, values, features, label="coarse_label").label == "coarse_label"
    with pytest.raises(DataError, match="could be the image: image, img; .*#image=image"):
        columns(tmp_path, {"image": IMAGES, "img": IMAGES, "label": NUMBERS})
    with pytest.raises(DataError, match="no column 'fine_labl'; did you mean 'fine_label'"):
        columns(tmp_path, values, features, label="fine_labl")


def test_no_candidate_is_refused_with_the_columns(tmp_path):
    with pytest.raises(DataError, match="columns id, text, .* the image; .*#image=COLUMN"):
        columns(tmp_path, {"id": NUMBERS, "text": NUMBERS})
    with pytest.raises(DataError, match="columns img, text, .* the label; .*#label=COLUMN"):
        columns(tmp_path, {"img": IMAGES, "text": NUMBERS})


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("image", pa.array([[b"x"], [b"y"]])),
        ("image", pa.array(["a.png", "b.png"])),
        ("image", pa.array([{"path": "a"}, {"path": "b"}])),
        ("image", pa.array([[[1, 2]], [[3, 4]]])),
        ("label", pa.array([[0], [1]])),
        ("label", pa.array([0.0, 1.0])),
        ("label", pa.array([{"a": 1}, {"a": 2}])),
        ("label", pa.array([True, False])),
    ],
)
def test_nested_and_other_types_are_refused_with_file_and_column(tmp_path, name, cells):
    values = {"image": IMAGES, "label": NUMBERS} | {name: cells}
    with pytest.raises(DataError, match=f"train.parquet: the column {name} is of type .* must be"):
        columns(tmp_path, values)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([IMAGES, NUMBERS, NUMBERS], names=["image", "label", "label"])
    with pytest.raises(DataError, match="2 columns called label"):
        find_columns(table.schema, tmp_path, "parquet:data", image=None, label="label")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a", "a"], "two classes are called a"),
        ([], "there are 0 names"),
        ("ab", "not a list"),
        (["a", 1], "not a line of text"),
    ],
)
def test_class_names_that_are_none_are_refused(tmp_path, names, problem):
    features = {"image": made.IMAGE, "label": made.class_label(names)}
    with pytest.raises(DataError, match=f"class names of the column label are wrong: .*{problem}"):
        columns(tmp_path, {"image": IMAGES, "label": NUMBERS}, features)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"info": 3}', b"\xff", b"[" * 100_000])
def test_metadata_that_cannot_be_understood_are_refused(tmp_path, text):
    schema = pa.schema([("image", pa.binary())], {b"huggingface": text})
    with pytest.raises(DataError, match="metadata huggingface of .* get the file again"):
        find_columns(schema, tmp_path, "parquet:data", image=None, label=None)


def test_metadata_without_features_say_nothing(tmp_path):
    text = json.dumps({"info": {}, "fingerprint": "x"}).encode()
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], {b"huggingface": text})
    found = find_columns(schema, tmp_path, "parquet:data", image=None, label=None)
    assert found.class_names is None


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="not a regular file"):
        read_footer(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_footer(tmp_path / "test.parquet")


@pytest.mark.parametrize("contents", [b"", b"PAR1", b"not Parquet at all", b"PAR1" + bytes(64)])
def test_what_is_no_parquet_is_one_line(tmp_path, contents):
    path = tmp_path / "train.parquet"
    path.write_bytes(contents)
    with pytest.raises(DataError, match="train.parquet is not a Parquet file, or is") as caught:
        read_footer(path)
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_is_refused(tmp_path):
    path = made.write_hub(tmp_path / "train.parquet", made.pictures(4), [0, 1, 2, 0])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged or cut off"):
        read_footer(path)
