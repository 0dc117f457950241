"""A platform that is not there is one line, wherever JAX first needs a device."""

import os
import subprocess
import sys

import jax
import pytest

from jaxcifar.common.errors import DeviceError
from jaxcifar.devices.backend import find_devices

CODE = """
from jaxcifar.common.errors import DeviceError
from jaxcifar.devices.machine import describe_machine
from jaxcifar.devices.processes import DeviceOptions, make_layout

for use in (lambda: make_layout(DeviceOptions(), 8), describe_machine):
    try:
        use()
    except DeviceError as error:
        print(error)
    else:
        print("used")
"""


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "platform",
    ["cuda", "tpu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpu", "nonsense"))],
)
def test_a_platform_that_is_not_there_is_named_with_the_way_out(platform):
    if jax.default_backend() != "cpu":
        pytest.skip("this machine has an accelerator")
    done = run("-c", CODE, JAX_PLATFORMS=platform)
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith(f"JAX_PLATFORMS is '{platform}', and JAX finds no such device here")
    assert "set it to cpu" in first
    assert "jaxcifar[cuda12]" in first
    assert "jaxcifar[cuda13]" in first
    assert "JAX_PLATFORMS=''" not in first


@pytest.mark.slow
def test_a_platform_to_fall_back_on_is_used():
    assert run("-c", CODE, JAX_PLATFORMS="cuda,cpu").stdout.split() == ["used", "used"]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "demo"),
        pytest.param(("sweep", "demo", "--field", "seed", "--values", "0"), marks=pytest.mark.slow),
        pytest.param(("reproduce", "--scale", "smoke"), marks=pytest.mark.slow),
    ],
)
def test_a_command_without_its_device_is_one_line_and_writes_nothing(words, tmp_path, root):
    if jax.default_backend() != "cpu":
        pytest.skip("this machine has an accelerator")
    out = "--out" if words[0] == "reproduce" else "--workdir"
    done = run("-m", "jaxcifar", *words, out, str(tmp_path / "x"), JAX_PLATFORMS="cuda")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: JAX_PLATFORMS is 'cuda'")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_jax_without_any_device_is_explained(monkeypatch):
    def fail():
        raise RuntimeError("no devices\nat all")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    before = jax.config.jax_platforms
    try:
        for asked, text in (
            (None, r"JAX finds no device \(no devices\): set JAX_PLATFORMS=cpu"),
            ("tpu", r"JAX's setting jax_platforms is 'tpu'.*\(no devices\): unset it"),
        ):
            jax.config.update("jax_platforms", asked)
            with pytest.raises(DeviceError, match=text):
                find_devices()
    finally:
        jax.config.update("jax_platforms", before)
