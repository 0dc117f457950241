"""Files written by PyTorch give the same tensors here as in PyTorch."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights.torch_file import read_torch

torch = pytest.importorskip("torch")

DTYPES = ["float32", "float64", "float16", "bfloat16", "bool"]
DTYPES += ["int64", "int32", "int16", "int8", "uint8"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("oracle") / "w.pth"


@st.composite
def views(draw, base):
    """A view of `base` (or a reordered copy), without overlap."""
    view = base
    for dimension in range(view.ndim):
        start = draw(st.integers(0, view.shape[dimension]))
        view = view.narrow(dimension, start, draw(st.integers(0, view.shape[dimension] - start)))
    view = view.permute(draw(st.permutations(range(view.ndim))))
    if view.ndim and view.shape[0] and draw(st.booleans()):
        view = view[:: draw(st.integers(1, 3))]
    if view.ndim == 4 and draw(st.booleans()):
        view = view.contiguous(memory_format=torch.channels_last)
    return torch.nn.Parameter(view) if view.is_floating_point() and draw(st.booleans()) else view


@st.composite
def state_dicts(draw):
    state = {}
    for index in range(draw(st.integers(1, 3))):
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        dtype = getattr(torch, draw(st.sampled_from(DTYPES)))
        base = (torch.randn(shape) * 100).to(dtype)
        for part in range(draw(st.integers(1, 2))):
            state[f"layer{index}.{part}"] = draw(views(base))
    return state


@settings(max_examples=60, deadline=None, database=None)
@given(
    state=state_dicts(),
    modern=st.booleans(),
    protocol=st.integers(2, 5),
    member=st.sampled_from([None, "state_dict", "model"]),
)
def test_tensors_are_those_that_torch_reads(path, state, modern, protocol, member):
    saved = {member: state, "epoch": 3, "lr": 0.1} if member else state
    torch.save(saved, path, _use_new_zipfile_serialization=modern, pickle_protocol=protocol)
    # weights_only=False, because PyTorch's safe reader does not support protocol 4.
    loaded = torch.load(path, weights_only=False)
    expected = loaded[member] if member else loaded
    arrays = read_torch(path)
    assert list(arrays) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        assert arrays[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize("modern", [True, False])
def test_a_model_on_several_devices_and_its_optimizer_are_read(path, modern):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    parallel = torch.nn.DataParallel(model)
    torch.save(
        {"optimizer": optimizer.state_dict(), "model_state_dict": parallel.state_dict()},
        path,
        _use_new_zipfile_serialization=modern,
    )
    arrays = read_torch(path)
    expected = parallel.state_dict()
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name].numpy(), strict=True)


@pytest.mark.parametrize("modern", [True, False])
def test_a_whole_model_is_refused_with_the_way_out(path, modern):
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=modern)
    with pytest.raises(
        WeightsError, match=r"asks to run torch.nn.modules.linear.Linear.*model.state_dict\(\)"
    ):
        read_torch(path)


@pytest.mark.parametrize("modern", [True, False])
def test_an_expanded_tensor_is_refused_with_the_way_out(path, modern):
    state = {"w": torch.ones(1).expand(5)}
    torch.save(state, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match="save a contiguous copy"):
        read_torch(path)


class Touch:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("modern", [True, False])
def test_code_in_a_file_of_torch_itself_does_not_run(path, tmp_path, modern):
    marker = tmp_path / "marker"
    state = {"w": torch.ones(2), "x": Touch(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match="asks to run (posix|nt).mkdir"):
        read_torch(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so this test proves nothing"
