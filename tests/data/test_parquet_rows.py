import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.common.errors import DataError
from jaxcifar.data import parquet_rows, parquet_schema
from jaxcifar.data.parquet_rows import (
    Pictures,
    Shard,
    digest_pictures,
    look_at,
    read_numbers,
    read_texts,
)
from jaxcifar.data.parquet_schema import Group, find_columns, read_footer
from tests.data import made_parquet as made


def shard_of(path):
    found, footer = look_at(path), read_footer(path)
    columns = find_columns(footer.schema, path, "parquet:data", image=None, label=None)
    return Shard(path, columns, footer.groups, found)


def write(path, cells, *, plain=False, labels=None, **options):
    image = pa.array(cells, pa.binary()) if plain else made.structs(cells)
    labels = pa.array([0] * len(cells), pa.int64()) if labels is None else pa.array(labels)
    return shard_of(made.write(path, {"image": image, "label": labels}, **options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parquet")


CELLS = st.lists(st.none() | st.binary(max_size=40), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(CELLS, min_size=1, max_size=3),
    group=st.integers(1, 12),
    block=st.integers(1, 7),
    plain=st.booleans(),
    data=st.data(),
)
def test_any_rows_are_read_exactly(folder, parts, group, block, plain, data):
    shards = [
        write(folder / f"{i}.parquet", cells, plain=plain, row_group_size=group)
        for i, cells in enumerate(parts)
    ]
    whole = [cell for cells in parts for cell in cells]
    rows = st.lists(st.integers(0, len(whole) - 1), max_size=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_rows, "_BLOCK_ROWS", block)
        patch.setattr(parquet_rows, "_KEPT_BYTES", 50)
        patch.setattr(parquet_rows, "_OPEN_FILES", 2)
        pictures = Pictures(shards)
        for _ in range(3):
            asked = np.array(data.draw(rows), np.int64)
            assert pictures.read(asked) == [whole[row] for row in asked]


@settings(max_examples=25, deadline=None)
@given(cells=CELLS, cut=st.integers(0, 30), group=st.integers(1, 12))
def test_the_digest_is_of_pictures_and_labels_however_they_are_stored(folder, cells, cut, group):
    labels = np.arange(len(cells), dtype=np.int32)
    ways = [
        [write(folder / "a.parquet", cells)],
        [
            write(folder / f"{i}.parquet", part, row_group_size=group, compression="zstd")
            for i, part in enumerate((cells[:cut], cells[cut:]))
        ],
        [write(folder / "b.parquet", cells, plain=True, use_dictionary=False)],
    ]
    digests = {digest_pictures(shards, labels, lambda _: None) for shards in ways}
    # By hand: the labels, then the digest of each picture.
    expected = hashlib.sha256(labels.astype("<i4").tobytes())
    for cell in cells:
        expected.update(bytes(32) if cell is None else hashlib.sha256(cell).digest())
    assert digests == {expected.digest()}


def test_threads_read_the_same_as_one(folder):
    cells = [bytes([i]) * 50 for i in range(200)]
    pictures = Pictures([write(folder / "many.parquet", cells, row_group_size=30)])
    rows = [np.random.default_rng(i).permutation(200) for i in range(20)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(pictures.read, rows))
    assert found == [[cells[row] for row in each] for each in rows]


def test_rows_in_order_are_read_once(folder, monkeypatch):
    """However large a row group is, and with little kept."""
    cells = [bytes([i]) * 50 for i in range(200)]
    shard = write(folder / "one.parquet", cells)
    monkeypatch.setattr(parquet_rows, "_BLOCK_ROWS", 8)
    monkeypatch.setattr(parquet_rows, "_KEPT_BYTES", 1_000)
    calls, real = [], parquet_rows._blocks
    monkeypatch.setattr(
        parquet_rows, "_blocks", lambda *given: calls.append(given[2]) or real(*given)
    )
    pictures = Pictures([shard])
    for start in range(0, 200, 25):
        assert pictures.read(np.arange(start, start + 25)) == cells[start : start + 25]
    assert calls == [0]


def test_what_is_kept_is_bounded(folder, monkeypatch):
    cells = [bytes([i]) * 100 for i in range(60)]
    monkeypatch.setattr(parquet_rows, "_BLOCK_ROWS", 5)
    monkeypatch.setattr(parquet_rows, "_KEPT_BYTES", 1_200)
    pictures = Pictures([write(folder / "kept.parquet", cells, row_group_size=10)])
    for row in np.random.default_rng(0).integers(0, 60, 100):
        pictures.read(np.array([row]))
        assert pictures._kept_bytes == sum(map(parquet_rows._size, pictures._kept.values())) <= 1200


def test_a_block_of_large_pictures_has_few_rows():
    assert parquet_rows._block_rows(Group(100, 100 * 1_000)) == 256
    assert parquet_rows._block_rows(Group(100, 100 << 20)) == 4
    assert parquet_rows._block_rows(Group(2, 100 << 20)) == 1
    assert parquet_rows._block_rows(Group(0, 0)) == 256


def test_a_row_is_named_by_its_place_in_its_file(folder):
    first = write(folder / "first.parquet", [b"x"] * 5, row_group_size=2)
    empty = write(folder / "empty.parquet", [])
    last = write(folder / "last.parquet", [b"x"] * 3)
    pictures = Pictures([first, empty, last])
    assert pictures.where(4) == f"{folder}/first.parquet, row 4, column image"
    assert pictures.where(5) == f"{folder}/last.parquet, row 0, column image"


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64", "uint64"])
def test_whole_numbers_of_any_size_are_labels(folder, kind):
    shard = write(folder / "n.parquet", [b"x"] * 3, labels=np.array([2, 0, 1], kind))
    assert read_numbers(shard, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1, 1], r"row 2, column label: the label is -1 \(-1 means unlabelled"),
        ([0, 1, 2, 3], "row 3, column label: the label is 3; expected one of 0 to 2"),
        ([0, None, 2, 3], r"row 1, column label: there is no label \(null\)"),
    ],
)
@pytest.mark.parametrize("group", [1, 10])
def test_labels_out_of_range_are_refused_with_file_and_row(folder, labels, message, group):
    shard = write(folder / "r.parquet", [b"x"] * 4, labels=labels, row_group_size=group)
    with pytest.raises(DataError, match=f"r.parquet: {message}"):
        read_numbers(shard, 3)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), "dictionary"])
def test_texts_are_labels(folder, kind):
    labels = pa.array(["b", "a", "b", "c"], pa.string() if kind == "dictionary" else kind)
    labels = labels.dictionary_encode() if kind == "dictionary" else labels
    shard = write(folder / "t.parquet", [b"x"] * 4, labels=labels, row_group_size=2)
    known = {}
    assert read_texts(shard, known, grow=True).tolist() == [0, 1, 0, 2]
    assert list(known) == ["b", "a", "c"]
    with pytest.raises(DataError, match=r"row 3, column label: the label 'c' is not one of the 2"):
        read_texts(shard, {"a": 0, "b": 1}, grow=False)


def test_texts_that_are_no_classes_are_refused(folder):
    for labels in (["a" * 2_000], [None]):
        shard = write(folder / "w.parquet", [b"x"], labels=pa.array(labels, pa.string()))
        with pytest.raises(DataError, match="w.parquet: .*(holds no classes|there is no label)"):
            read_texts(shard, {}, grow=True)


def test_a_gigantic_number_of_rows_is_refused_by_the_footer(folder, monkeypatch):
    monkeypatch.setattr(parquet_schema, "MAX_ROWS", 9)
    with pytest.raises(DataError, match="declares 10 rows, more than the limit of 9"):
        write(folder / "huge.parquet", [b"x"] * 10)


def patch_numbers(path, before, after):
    """Another number of rows in the footer, where it is a Thrift integer of one byte."""
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    changed = footer.replace(bytes([0x16, 2 * before]), bytes([0x16, 2 * after]))
    assert changed != footer
    path.write_bytes(data[: -8 - size] + changed + data[-8:])


def test_a_footer_that_declares_more_rows_than_there_are_is_refused(folder):
    path = write(folder / "f.parquet", [b"x"] * 10).path
    patch_numbers(path, 10, 30)
    with pytest.raises(DataError, match=r"f\.parquet.*(declares|damaged)"):
        read_numbers(shard_of(path), 3)
    with pytest.raises(DataError, match=r"f\.parquet.*(declares|damaged)"):
        digest_pictures([shard_of(path)], np.zeros(30, np.int32), lambda _: None)
    with pytest.raises(DataError, match=r"f\.parquet.*(declares|damaged)"):
        Pictures([shard_of(path)]).read(np.array([29]))


def test_pages_that_are_damaged_are_refused(folder):
    path = write(folder / "d.parquet", [bytes(range(200))] * 50, use_dictionary=False).path
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    shard = shard_of(path)
    with pytest.raises(DataError, match=r"d\.parquet is not a Parquet file, or is damaged"):
        Pictures([shard]).read(np.array([0]))
    with pytest.raises(DataError, match=r"d\.parquet is not a Parquet file, or is damaged"):
        digest_pictures([shard], np.zeros(50, np.int32), lambda _: None)


@pytest.mark.parametrize("change", ["in place", "by a rename", "gone"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_file_that_has_changed_since_is_not_read(folder, monkeypatch, change, begun):
    monkeypatch.setattr(parquet_rows, "_BLOCK_ROWS", 4)
    cells = [bytes([i]) * 50 for i in range(40)]
    shard = write(folder / "c.parquet", cells, row_group_size=10)
    pictures = Pictures([shard])
    if begun:
        assert pictures.read(np.arange(4)) == cells[:4]
    if change == "gone":
        shard.path.unlink()
    else:
        other = shard.path if change == "in place" else folder / "other.parquet"
        write(other, cells[::-1], row_group_size=10).path.rename(shard.path)
        # The clock of a file system may be too coarse, or the time of writing be kept.
        kept = shard.found.modified
        os.utime(shard.path, ns=(1, 1) if change == "in place" else (kept, kept))
    message = r"c\.parquet.* No such file" if change == "gone" else r"c\.parquet changed while"
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            pictures.read(np.arange(20, 24))


def test_a_change_of_rights_changes_nothing(folder):
    shard = write(folder / "r.parquet", [b"x", b"y"], row_group_size=10)
    shard.path.chmod(0o600)
    assert Pictures([shard]).read(np.arange(2)) == [b"x", b"y"]


def test_labels_of_a_file_that_changes_while_they_are_read_are_not_used(folder):
    shard = write(folder / "l.parquet", [b"x"] * 3, labels=[0, 1, 2])
    write(folder / "l.parquet", [b"x"] * 3, labels=[2, 1, 0])
    os.utime(folder / "l.parquet", ns=(1, 1))
    with pytest.raises(DataError, match=r"l\.parquet changed while it was read"):
        read_numbers(shard, 3)
