import pytest

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.preprocessing import Preprocessing

METADATA = {"mean": "0.5 0.5 0.5", "std": "1 1 1", "size": "32"}


def test_metadata_is_read_as_it_was_written():
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), 32)
    assert Preprocessing.from_metadata(METADATA) == preprocessing
    assert Preprocessing.from_metadata(preprocessing.to_metadata()) == preprocessing


def test_metadata_without_a_mean_is_none():
    assert Preprocessing.from_metadata({"std": "1 1 1"}) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mean": "a b c"}, "three numbers"),
        ({"mean": "0.5 0.5"}, "three numbers"),
        ({"mean": "0.5 nan 0.5"}, "three numbers"),
        ({"std": "1 0 1"}, "those of std positive"),
        ({"std": "1 inf 1"}, "three numbers"),
        ({"mean": "0 " * 10**6}, "three numbers"),
        ({"size": "1000000000"}, "a number of pixels"),
        ({"size": "-3"}, "a number of pixels"),
        ({"size": "9" * 5_000}, "a number of pixels"),
        ({"size": "\u0663"}, "a number of pixels"),
    ],
)
def test_malformed_metadata_is_one_short_error(change, problem):
    with pytest.raises(WeightsError, match=f"metadata of w.pth cannot be read: .*{problem}") as e:
        Preprocessing.from_metadata(METADATA | change, "w.pth")
    assert len(str(e.value)) < 200
