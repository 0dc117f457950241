import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.common.errors import DeviceError, ProcessLostError
from jaxcifar.devices.layout import ONE_DEVICE, Layout
from jaxcifar.devices.processes import DeviceOptions, connect, explain_lost_process, make_layout


def train_on(root, dtype, groups, *layouts):
    """The losses, scores and weights of 30 steps under each layout, by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.devices.on_many_devices", dtype, str(groups), *layouts],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def largest_difference(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.max(np.abs(a - b) / np.maximum(np.abs(a), 1e-3))


def check_same(found, tolerance):
    one = found.pop("1")
    assert len(one["losses"]) == 30
    for name, other in found.items():
        np.testing.assert_allclose(other["features"], one["features"], rtol=1e-4, atol=1e-5)
        for what in ("losses", "norms", "stats"):
            assert largest_difference(one[what], other[what]) < tolerance, (name, what)
        assert other["scores"]["count"] == one["scores"]["count"] == 76, name
        assert other["scores"]["loss_sum"] == pytest.approx(one["scores"]["loss_sum"], tolerance)


@pytest.mark.parametrize("layout", ["jit 4", pytest.param("pmap 4", marks=pytest.mark.slow)])
def test_training_on_four_devices_is_that_on_one(root, layout):
    found = train_on(root, "float64", 1, "1", layout)
    assert largest_difference(found["1"]["params"], found[layout]["params"]) < 1e-9
    check_same(found, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-2)])
@pytest.mark.parametrize("groups", [1, 4])
def test_training_on_any_devices_by_any_way_is_that_on_one(root, dtype, tolerance, groups):
    sizes = (2, 4, 8) if groups == 1 else (2, 4)
    layouts = [
        f"{form} {n}{how}" for form in ("jit", "pmap") for n in sizes for how in ("", " stream")
    ]
    check_same(train_on(root, dtype, groups, "1", "1 stream", *layouts), tolerance)


def test_one_device_is_the_default_and_needs_no_mesh():
    layout = make_layout(DeviceOptions(), 128)
    assert layout == ONE_DEVICE
    assert layout.describe() == "one device"
    assert layout.replicated is None
    assert layout.is_main


def test_rows_on_one_device_are_the_rows():
    data = np.arange(20).reshape(10, 2)
    shared = ONE_DEVICE.share_rows(lambda rows: {"x": data[rows]}, 10)
    np.testing.assert_array_equal(shared["x"], data)
    rows = jnp.asarray([3, 9, 0])
    np.testing.assert_array_equal(ONE_DEVICE.take(shared["x"], rows), data[np.asarray(rows)])


def test_a_view_is_taken_from_behind_the_ones_before():
    views = jnp.arange(12)  # three views of four rows
    taken = jax.jit(lambda view: ONE_DEVICE.take(views, jnp.asarray([0, 3]), view=view, views=3))
    np.testing.assert_array_equal(taken(2), [8, 11])


@pytest.mark.parametrize(
    ("options", "batch_size", "message"),
    [
        ({"devices": 3}, 128, "--devices 3: there are 1 (cpu)"),
        ({"devices": 0}, 128, "--devices 0: there are 1"),
    ],
)
def test_devices_that_there_are_not(options, batch_size, message):
    with pytest.raises(DeviceError) as raised:
        make_layout(DeviceOptions(**options), batch_size)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_processes": 2}, "need --coordinator"),
        ({"process_id": 0}, "need --coordinator"),
        ({"coordinator": "here:1"}, "needs --num-processes and --process-id"),
        (
            {"coordinator": "here:1", "num_processes": 2, "process_id": 2},
            "--process-id must be 0 to 1, not 2",
        ),
        (
            {"coordinator": "here", "num_processes": 2, "process_id": 0},
            "--coordinator is HOST:PORT or auto, not 'here'",
        ),
        (
            {"coordinator": "here:1", "num_processes": 2, "process_id": 0, "parallel": "pmap"},
            "pmap is for the devices of one process",
        ),
    ],
)
def test_processes_that_cannot_be(options, message):
    with pytest.raises(DeviceError) as raised:
        connect(DeviceOptions(**options))
    assert message in str(raised.value)


def test_without_a_coordinator_nothing_is_connected():
    connect(DeviceOptions())
    assert jax.process_count() == 1


def test_a_lost_process_is_named_and_other_errors_are_left_alone(monkeypatch):
    gloo = "UNKNOWN: Gloo ReduceScatter failed: Read error [127.0.0.1]: Connection reset by peer"
    with pytest.raises(ValueError, match="Gloo"), explain_lost_process():
        raise ValueError(gloo)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ProcessLostError, match="another process of this run is gone"):
        with explain_lost_process():
            raise ValueError(gloo)
    with pytest.raises(ValueError, match="shapes"), explain_lost_process():
        raise ValueError("shapes do not match")


def test_one_process_agrees_with_itself_and_does_its_work_itself():
    assert ONE_DEVICE.agree(3, 0) == [(3, 0)]
    done = []
    Layout().on_main(lambda: done.append(1))
    assert done == [1]
