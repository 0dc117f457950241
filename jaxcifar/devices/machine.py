"""What a run was made on: the device, the processor and the package versions."""

import os
import platform
from importlib.metadata import version
from typing import Any

import jax

from jaxcifar.devices.backend import find_devices
from jaxcifar.devices.processor import processor_name

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe_machine() -> dict[str, Any]:
    """Device, processor and versions, as plain values for a JSON file."""
    device = find_devices()[0]
    return {
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
