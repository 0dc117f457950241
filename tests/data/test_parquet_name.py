import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data import located
from jaxcifar.data.parquet_name import parse_name


def test_a_path_becomes_absolute_and_the_columns_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("parquet:data") == f"parquet:{tmp_path}/data"
    name = "#image=img,label=fine label"
    assert located(f"parquet:./x/../data{name}") == f"parquet:{tmp_path}/data{name}"
    assert located("parquet:~/data") == f"parquet:{tmp_path}/data"
    assert located("hf:a/b@v1#label=x") == "hf:a/b@v1#label=x"


def test_a_number_sign_may_be_part_of_a_path():
    assert parse_name("parquet:data#2").place == "parquet:data#2"
    assert parse_name("parquet:data#2#label=x") == ("parquet:data#2", {"label": "x"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("parquet:", "name a folder of Parquet files"),
        ("parquet:#label=x", "name a folder of Parquet files"),
        ("parquet:a#labels=x", "unknown option 'labels'; did you mean 'label'"),
        ("parquet:a#label=x,label=y", "unknown option 'label'"),
        ("parquet:a#label=", "label names no column"),
        ("parquet:a\0b", "NUL"),
        ("parquet:" + "a" * 5000, "more than the limit of 4,096"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name, message):
    with pytest.raises(DataError, match=message):
        located(name)
