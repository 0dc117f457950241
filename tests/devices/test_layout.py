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
    """The losses, scores and weights of 30 steps under each layout, from a separate process."""
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


def check_same(results, tolerance):
    one = results.pop("1")
    assert len(one["losses"]) == 30
    for name, other in results.items():
        np.testing.assert_allclose(other["features"], one["features"], rtol=1e-4, atol=1e-5)
        for key in ("losses", "norms", "stats"):
            assert largest_difference(one[key], other[key]) < tolerance, (name, key)
        assert other["scores"]["count"] == one["scores"]["count"] == 76, name
        assert other["scores"]["loss_sum"] == pytest.approx(one["scores"]["loss_sum"], tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["jit 4", "pmap 4"])
def test_four_devices_train_as_one_does(root, layout):
    results = train_on(root, "float64", 1, "1", layout)
    assert largest_difference(results["1"]["params"], results[layout]["params"]) < 1e-9
    check_same(results, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-2)])
@pytest.mark.parametrize("groups", [1, 4])
def test_any_layout_trains_as_one_device_does(root, dtype, tolerance, groups):
    sizes = (2, 4, 8) if groups == 1 else (2, 4)
    layouts = [
        f"{form} {n}{mode}" for form in ("jit", "pmap") for n in sizes for mode in ("", " stream")
    ]
    check_same(train_on(root, dtype, groups, "1", "1 stream", *layouts), tolerance)


def test_one_device_is_the_default_and_needs_no_mesh():
    layout = make_layout(DeviceOptions(), 128)
    assert layout == ONE_DEVICE
    assert layout.describe() == "one device"
    assert layout.replicated is None
    assert layout.is_main


def test_one_device_holds_all_rows():
    data = np.arange(20).reshape(10, 2)
    shared = ONE_DEVICE.share_rows(lambda rows: {"x": data[rows]}, 10)
    np.testing.assert_array_equal(shared["x"], data)
    rows = jnp.asarray([3, 9, 0])
    np.testing.assert_array_equal(ONE_DEVICE.take(shared["x"], rows), data[np.asarray(rows)])


def test_a_view_is_taken_from_those_stored_one_after_the_other():
    views = jnp.arange(12)  # three views of four rows
    taken = jax.jit(lambda view: ONE_DEVICE.take(views, jnp.asarray([0, 3]), view=view, views=3))
    np.testing.assert_array_equal(taken(2), [8, 11])


@pytest.mark.parametrize(
    ("options", "batch_size", "message"),
    [
        ({"devices": 3}, 128, "--devices 3 is not between 1 and 1, the number of cpu devices"),
        ({"devices": 0}, 128, "--devices 0 is not between 1 and 1"),
    ],
)
def test_unavailable_devices_are_refused(options, batch_size, message):
    with pytest.raises(DeviceError) as raised:
        make_layout(DeviceOptions(**options), batch_size)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "streamed"}, "unknown input 'streamed'; did you mean 'stream'?"),
        ({"input": None}, "unknown input None; choose from auto, resident, stream"),
        ({"parallel": "jitt"}, "unknown parallel 'jitt'; did you mean 'jit'?"),
        ({"devices": "2"}, "devices must be a whole number, such as 2, or None, not '2'"),
        ({"devices": True}, "devices must be a whole number, such as 2, or None, not True"),
        ({"num_processes": 2.0}, "num_processes must be a whole number, such as 2, or None"),
        ({"coordinator": 1234}, "coordinator must be HOST:PORT, auto or None, not 1234"),
    ],
)
def test_options_of_another_kind_are_refused(options, message):
    with pytest.raises(DeviceError) as raised:
        DeviceOptions(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize("use", [connect, lambda options: make_layout(options, 8)])
def test_a_number_in_place_of_the_options_is_refused(use):
    message = r"devices must be DeviceOptions, such as DeviceOptions\(devices=2\), or None, not 2"
    with pytest.raises(DeviceError, match=message):
        use(2)


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
            "--coordinator must be HOST:PORT or auto, with a port from 1 to 65535, not 'here'",
        ),
        (
            {"coordinator": "here:1", "num_processes": 2, "process_id": 0, "parallel": "pmap"},
            "--parallel pmap works in one process only",
        ),
    ],
)
def test_contradicting_process_options_are_refused(options, message):
    with pytest.raises(DeviceError) as raised:
        connect(DeviceOptions(**options))
    assert message in str(raised.value)


def test_without_a_coordinator_nothing_is_connected():
    connect(DeviceOptions())
    assert jax.process_count() == 1


def test_a_lost_process_is_explained_and_other_errors_pass(monkeypatch):
    gloo = "UNKNOWN: Gloo ReduceScatter failed: Read error [127.0.0.1]: Connection reset by peer"
    with pytest.raises(ValueError, match="Gloo"), explain_lost_process():
        raise ValueError(gloo)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ProcessLostError, match="another process of this run is gone"):
        with explain_lost_process():
            raise ValueError(gloo)
    with pytest.raises(ValueError, match="shapes"), explain_lost_process():
        raise ValueError("shapes do not match")


def test_one_process_agrees_with_itself_and_is_the_main_one():
    assert ONE_DEVICE.agree(3, 0) == [(3, 0)]
    calls = []
    Layout().on_main(lambda: calls.append(1))
    assert calls == [1]
