import pytest

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights.torch_file import read_torch
from tests.models.weights import made_torch as made


@pytest.fixture
def read(tmp_path):
    """Read bytes as a file within limits on memory and time, and notice if it runs code."""

    def read(data, **bounds):
        path = tmp_path / "w.pth"
        path.write_bytes(data)
        with made.little_memory_and_time(**bounds):
            try:
                return read_torch(path)
            finally:
                assert not (tmp_path / "marker").exists(), "the file ran something"

    return read


@pytest.fixture
def refuse(read):
    def refuse(data, message, **bounds):
        with pytest.raises(WeightsError, match=message) as info:
            read(data, **bounds)
        assert "w.pth" in str(info.value)
        assert len(str(info.value)) < 700

    return refuse
