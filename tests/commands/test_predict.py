import csv
import json
import os

import pytest

import jaxcifar
from tests.conftest import CLASSES


@pytest.fixture
def expected(photo_run, photos):
    return jaxcifar.load(photo_run).predict(photos / "test", top=3)


def test_a_table_of_files_classes_and_runners_up(run_command, photo_run, photos, expected):
    status, out, err = run_command("predict", photo_run, photos / "test", "--top", "2")
    assert (status, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split() == ["file", "class", "probability", "runners-up"]
    for line, each in zip(lines, expected, strict=True):
        assert line.startswith(each.image)
        (other, share) = each.top[1]
        assert f"{each.class_name}  " in line
        assert line.endswith(f"{each.probability:11.3f}  {other} {share:.3f}")


def test_csv_and_json_have_the_same_numbers(run_command, photo_run, photos, expected, tmp_path):
    status, out, _ = run_command("predict", photo_run, photos / "test", "--json")
    values = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [value["file"] for value in values] == [each.image for each in expected]
    assert [value["class"] for value in values] == [each.class_name for each in expected]
    name = jaxcifar.load(photo_run).name
    assert {value["network"] for value in values} == {name}
    table = tmp_path / "out" / "photos.csv"
    status, out, _ = run_command("predict", photo_run, photos / "test", "--csv", table)
    assert (status, out) == (0, f"wrote {table} (9 images) by {name}\n")
    with table.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert ",".join(header) == "file,class,probability,class_2,probability_2,class_3,probability_3"
    for row, each in zip(rows, expected, strict=True):
        assert row[0] == each.image
        assert tuple(row[1::2]) == tuple(name for name, _ in each.top)  # one has a comma
        assert [float(x) for x in row[2::2]] == pytest.approx([x for _, x in each.top], abs=1e-6)
    before = table.read_bytes()
    status, _, err = run_command("predict", photo_run, photos, "--csv", table)
    assert status == 2
    assert "--overwrite" in err
    assert table.read_bytes() == before
    assert run_command("predict", photo_run, photos, "--csv", table, "--overwrite")[0] == 0
    assert len(table.read_bytes()) > len(before)


def test_damaged_files_are_named_and_skipped(run_command, photo_run, photos):
    bad = photos / "test" / CLASSES[0] / "Bild 0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    status, out, err = run_command("predict", photo_run, photos / "test")
    assert status == 1
    assert len(out.splitlines()) == 9
    first, last = err.splitlines()
    assert first.startswith(f"skipped: {bad}")
    assert last == "1 file could not be read and was skipped"


@pytest.mark.skipif(os.sep == "\\", reason="names of bytes")
def test_a_name_that_is_no_text_is_kept_byte_by_byte(run_command, photo_run, photos, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9\n.png"
    os.rename(next((photos / "test").rglob("*.png")), name)
    status, out, _ = run_command("predict", photo_run, os.fsdecode(name))
    assert status == 0
    assert "caf\\udce9\\n.png" in out
    table = tmp_path / "t.csv"
    assert run_command("predict", photo_run, os.fsdecode(name), "--csv", table)[0] == 0
    assert b"caf\xe9" in table.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "x.png"), "there is no run none. There is no file 'none'"),
        (("RUN", "none.png"), "none.png"),
        (("RUN", "PHOTOS", "--top", "0"), "top must be at least 1, not 0"),
        (("RUN", "PHOTOS", "--csv", "x.txt"), "must end in .csv, not 'x.txt'"),
        (("RUN", "PHOTOS", "--csv", "x.csv", "--json"), "choose one"),
        (("RUN", "PHOTOS", "--csv", "/proc/x/y.csv"), "/proc/x/y.csv cannot be written"),
        (("RUN", "PHOTOS", "--size", "32"), "size is for a file of weights"),
        (("RUN",), "PHOTO|FOLDER"),
    ],
)
def test_a_mistake_is_one_line(run_command, photo_run, photos, arguments, message):
    given = [{"RUN": photo_run, "PHOTOS": photos}.get(word, word) for word in arguments]
    status, out, err = run_command("predict", *given)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
