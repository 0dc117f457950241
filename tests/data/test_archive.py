import gzip
import io
import os
import pickle
import resource
import tarfile
import time

import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data.archive import read_archive
from tests.data import made_archives as made


def read(path):
    return read_archive(path, made.FORM)


def test_both_kinds_of_archive_give_their_images(archives, images):
    for path in archives.values():
        contents = read(path)
        for name, expected in zip(("train", "test"), images, strict=True):
            np.testing.assert_array_equal(contents[name].images, expected.images)
            np.testing.assert_array_equal(contents[name].labels, expected.labels)


def test_red_comes_before_green_and_rows_before_columns(tmp_path, images):
    members = made.binary_members(*images)
    pixels = np.zeros((3, 32, 32), np.uint8)
    pixels[0, 1, 2], pixels[2, 31, 0] = 7, 9  # red at row 1, column 2; blue at row 31
    members["test_batch.bin"] = (b"\x04" + pixels.tobytes()) * 20
    test = read(made.write_archive(tmp_path / "a.tar.gz", members))["test"]
    assert test.labels.tolist() == [4] * 20
    assert test.images[0, 1, 2].tolist() == [7, 0, 0]
    assert test.images[0, 31, 0].tolist() == [0, 0, 9]
    assert test.images[0].sum() == 16


def test_a_python_batch_may_be_stored_column_by_column(tmp_path, images):
    members = made.python_members(*images)
    batch = images[1]
    columns = made.planes(batch).T.tobytes()
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in batch.labels) + b"e"
    data = made.pickled_batch(columns, (20, 3072), labels)
    members["test_batch"] = data.replace(b"tb\x89T", b"tb\x88T", 1)  # False to True: Fortran order
    assert members["test_batch"] != data
    contents = read(made.write_archive(tmp_path / "a.tar.gz", members))
    np.testing.assert_array_equal(contents["test"].images, batch.images)


@pytest.mark.parametrize("kind", ["binary", "python"])
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": "../escape"}, "points outside of it, '../escape'"),
        ({"name": "cifar-10-batches/../../escape"}, "points outside"),
        ({"name": "/etc/escape"}, "points outside of it, '/etc/escape'"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link, a device"),
        ({"type": tarfile.LNKTYPE, "linkname": "data_batch_1"}, "a link, a device"),
        ({"type": tarfile.CHRTYPE}, "a link, a device"),
        ({"type": tarfile.BLKTYPE}, "a link, a device"),
        ({"type": tarfile.FIFOTYPE}, "a link, a device"),
    ],
)
def test_a_hostile_member_is_refused(tmp_path, images, kind, attributes, message):
    members = getattr(made, f"{kind}_members")(*images)
    attributes = {"name": "cifar-10-batches/extra", **attributes}
    path = made.write_archive(
        tmp_path / "a.tar.gz", members, lambda tar: made.add(tar, **attributes)
    )
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_sparse_member_is_refused(tmp_path, images):
    def edit(tar):
        headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        made.add(tar, "cifar-10-batches/x", b"1\n0\n9\n".ljust(521, b"\0"), pax_headers=headers)

    path = made.write_archive(tmp_path / "a.tar.gz", made.binary_members(*images), edit)
    with pytest.raises(DataError, match="a link, a device"):
        read(path)


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_too_large_a_member_is_refused_before_it_is_read(tmp_path, images, kind):
    members = getattr(made, f"{kind}_members")(*images)
    name = min(members)
    members[name] = members[name] + b"\0" * (1 << 21)
    path = made.write_archive(tmp_path / "a.tar.gz", members)
    with pytest.raises(
        DataError, match=rf"{name}' in .* bytes, more than the limit of [0-9,]+; refused"
    ):
        read(path)


def test_a_large_unknown_member_is_refused(tmp_path, images):
    members = made.binary_members(*images) | {"notes.txt": b"\0" * (1 << 17)}
    with pytest.raises(
        DataError, match=r"notes.txt' in .* has 131,072 bytes, more than the limit of 65,536"
    ):
        read(made.write_archive(tmp_path / "a.tar.gz", members))


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        ("extended header", "a header of 268,435,456 bytes"),
        ("many small members", "unpacks to more than CIFAR-10 can hold"),
    ],
)
def test_a_decompression_bomb_costs_little_time_and_memory(tmp_path, bomb, message):
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        if bomb == "extended header":  # tarfile reads these completely, before the first member
            header = tarfile.TarInfo("././@PaxHeader")
            header.type, header.size = tarfile.XHDTYPE, 1 << 28
            file.write(header.tobuf())
            for _ in range(1 << 8):
                file.write(b"\0" * (1 << 20))
        else:
            member = tarfile.TarInfo("x")
            member.size = 1 << 16
            block = member.tobuf() + b"\0" * (1 << 16)
            for _ in range(1 << 12):
                file.write(block)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(DataError, match=message):
        read(path)
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kB


@pytest.mark.parametrize("kind", ["binary", "python"])
@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_an_archive_cut_short_is_refused(tmp_path, archives, kind, keep):
    data = archives[kind].read_bytes()
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match="cannot be read as a gzip-compressed tar archive"):
        read(path)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "page.tar.gz"
    path.write_text("<html>We are sorry.</html>")
    with pytest.raises(DataError, match="cannot be read as a gzip-compressed tar archive"):
        read(path)
    path.write_bytes(gzip.compress(b"no tar in here" * 100))
    with pytest.raises(DataError, match="cannot be read as a gzip-compressed tar archive"):
        read(path)


def test_a_flipped_byte_anywhere_is_refused_by_the_checksum_of_gzip(tmp_path, archives):
    data = bytearray(archives["binary"].read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "flipped.tar.gz"
    path.write_bytes(data)
    with pytest.raises(DataError):
        read(path)


def repack(tmp_path, images, kind="binary", drop=(), edit=None, **replaced):
    members = getattr(made, f"{kind}_members")(*images)
    members = {name: data for name, data in members.items() if name not in drop}
    return made.write_archive(tmp_path / "a.tar.gz", members | replaced, edit)


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin", "batches.meta.txt"])
def test_a_missing_member_is_named(tmp_path, images, name):
    with pytest.raises(DataError, match=f"lacks {name}"):
        read(repack(tmp_path, images, drop=[name]))


def test_a_repeated_member_is_refused(tmp_path, images):
    twice = made.binary_members(*images)["test_batch.bin"]
    with pytest.raises(DataError, match=r"holds test_batch\.bin twice"):
        read(
            repack(
                tmp_path, images, edit=lambda tar: made.add(tar, "elsewhere/test_batch.bin", twice)
            )
        )


def test_the_two_kinds_do_not_mix(tmp_path, images):
    with pytest.raises(DataError, match="mixes the binary and the python version"):
        read(repack(tmp_path, images, test_batch=made.python_members(*images)["test_batch"]))


def test_another_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no CIFAR-10 batches"):
        read(made.write_archive(tmp_path / "a.tar.gz", {"hello.txt": b"hello"}))


def test_wrong_contents_of_a_binary_batch_are_refused(tmp_path, images):
    good = made.binary_members(*images)["test_batch.bin"]
    for bad, message in [
        (good[:-1], "61,459 bytes; 20 images take exactly 61,460"),
        (b"", "0 bytes; 20 images"),
        (b"\x0a" + good[1:], "labels from 0 to 10; expected 0 to 9"),
    ]:
        with pytest.raises(DataError, match=message):
            read(repack(tmp_path, images, **{"test_batch.bin": bad}))


def test_other_class_names_are_refused(tmp_path, images):
    with pytest.raises(DataError, match="names the classes cat, dog; expected airplane"):
        read(repack(tmp_path, images, **{"batches.meta.txt": b"cat\ndog\n"}))


class Runs:
    """Creates a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


LABELS = b"](" + b"K\x01" * 20 + b"e"
PIXELS = b"\0" * (20 * 3072)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x02.", id="stack underflow"),
        pytest.param(pickle.dumps([1, 2]), id="no dictionary"),
        pytest.param(pickle.dumps({}), id="no data"),
        pytest.param(pickle.dumps({b"data": b"x", b"labels": [1]}), id="no array"),
        pytest.param(b"cbuiltins\neval\n(U\x011tR.", id="eval"),
        pytest.param(b"cnumpy\nload\n(U\x01xtR.", id="numpy, but not an array"),
        pytest.param(b"cnumpy.core.multiarray\n_reconstruct.shape\n.", id="dotted name"),
        pytest.param(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", id="protocol 4"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension registry"),
        pytest.param(b"U\x01xQ.", id="persistent id"),
        pytest.param(
            made.pickled_batch(PIXELS[:-1], (20, 3072), LABELS), id="array with too few bytes"
        ),
        pytest.param(made.pickled_batch(PIXELS, (10, 6144), LABELS), id="array of another shape"),
        pytest.param(made.pickled_batch(PIXELS, (20, 3072), LABELS, b"i8"), id="another dtype"),
        pytest.param(made.pickled_batch(PIXELS, (20, 3072), LABELS, b"O"), id="array of objects"),
        pytest.param(
            made.pickled_batch(PIXELS, (20, 3072), b"](" + b"K\x01" * 19 + b"e"), id="19 labels"
        ),
        pytest.param(
            made.pickled_batch(PIXELS, (20, 3072), b"](" + b"K\x0a" * 20 + b"e"), id="label 10"
        ),
        pytest.param(
            made.pickled_batch(PIXELS, (20, 3072), b"](" + b"J\xff\xff\xff\xff" * 20 + b"e"),
            id="label -1",
        ),
        pytest.param(
            made.pickled_batch(PIXELS, (20, 3072), b"](" + b"U\x011" * 20 + b"e"), id="text labels"
        ),
    ],
)
def test_a_pickle_that_is_no_batch_is_refused(tmp_path, images, bad):
    with pytest.raises(DataError, match="test_batch in "):
        read(repack(tmp_path, images, "python", test_batch=bad))


def test_a_huge_memo_index_costs_no_memory(tmp_path, images):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="a memo of 134,217,727 entries"):
        read(repack(tmp_path, images, "python", test_batch=b"\x80\x02}r\xff\xff\xff\x07."))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kB


def test_a_pickle_runs_nothing(tmp_path, images):
    made_by_pickle = tmp_path / "made"
    for protocol in range(6):
        bad = pickle.dumps({"data": Runs(made_by_pickle)}, protocol)
        with pytest.raises(DataError, match=r"it asks for (posix|nt|os).mkdir"):
            read(repack(tmp_path, images, "python", test_batch=bad))
    assert not made_by_pickle.exists()
    pickle.loads(bad)
    assert made_by_pickle.exists()  # the pickle does work with an unguarded unpickler


def test_the_made_pickles_are_valid(images):
    # The reader's stand-ins are correct only if NumPy's own unpickling agrees with them.
    batch = pickle.load(io.BytesIO(made.pickled(images[1])), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], made.planes(images[1]))
    assert batch[b"labels"] == images[1].labels.tolist()


def longs(*, count):
    """A dictionary whose keys are long integers of one hash: quadratic, hours for this many."""
    keys = b"".join(
        b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N" for i in range(1, count)
    )
    return b"\x80\x02}(" + keys + b"u."


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(
            b"\x80\x02})" + b"\x85" * 50_000 + b"Ns.",
            "more than 20 tuples",
            id="a deep tuple as key",
        ),
        pytest.param(
            b"\x80\x02})" + b"q\1h\1\x86" * 60 + b"Ns.",
            "more than 20 tuples",
            id="a doubled tuple as key",
        ),
        pytest.param(longs(count=4_000), "a huge number", id="keys with one hash"),
        pytest.param(
            # A number times a string: 6 GB.
            made.pickled_batch(PIXELS, (2**31 - 1, 3), LABELS).replace(
                made._int(3), b"U\x03abc", 1
            ),
            "shape is not made of numbers",
            id="a string in the shape",
        ),
        pytest.param(b"\x80\x02I" + b"9" * 5_000 + b"\n.", "not the pickle", id="5000 digits"),
        pytest.param(b"c\x1b[2J\nx\n.", r"it asks for \\x1b\[2J", id="control characters"),
    ],
)
def test_a_pickle_made_to_exhaust_time_or_memory_is_refused_quickly(tmp_path, images, bad, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(DataError, match=message):
        read(repack(tmp_path, images, "python", test_batch=bad))
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB


def header(kind, body=b""):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(body)
    return info.tobuf() + body + b"\0" * (-len(body) % 512)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # tarfile searches these digits once from each digit: minutes.
        pytest.param(
            header(tarfile.XHDTYPE, b"9" * 500_000), "a header of 500,000 bytes", id="digits"
        ),
        pytest.param(
            header(tarfile.GNUTYPE_LONGNAME, b"x" * 10_000), "a header of 10,000", id="a long name"
        ),
        pytest.param(header(tarfile.XHDTYPE) * 1_500, "cannot be read", id="headers of headers"),
        pytest.param(header(tarfile.REGTYPE) * 3_000, "more than CIFAR-10 can hold", id="members"),
        pytest.param(header(tarfile.XHDTYPE, b"5 \xff\xff="), "cannot be read", id="no UTF-8"),
        pytest.param(
            header(tarfile.XHDTYPE, b"12 size=\xc2\xb2\n") + header(tarfile.REGTYPE),
            "cannot be read|holds no CIFAR-10",
            id="a size of another alphabet",
        ),
    ],
)
def test_headers_made_to_exhaust_time_are_refused_quickly(tmp_path, data, message):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data + b"\0" * 1024, 1))
    start = time.perf_counter()
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.tar.gz")
    assert time.perf_counter() - start < 5
