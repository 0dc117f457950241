"""What a run was made on: the device, the processor and the package versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxcifar.devices.backend import find_devices

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe_machine() -> dict[str, Any]:
    """Device, processor and versions, as plain values for a JSON file."""
    device = find_devices()[0]
    return {
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
