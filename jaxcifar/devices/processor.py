"""The processor of this machine: its name, its instructions, and a key of its kind."""

import hashlib
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")  # Linux only
WIDEST_FIRST = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve2": "SVE2", "asimd": "NEON"}


def processor_name() -> str:
    """Model, family and widest vector instructions, such as "AMD EPYC, family 25, AVX2".

    Clouds give processors of several generations one model name, and the speed of a convolution on
    a CPU depends on its vector instructions before anything else.
    """
    lines = _cpuinfo()
    name = lines.get("model name") or platform.processor() or platform.machine()
    family = lines.get("cpu family")
    widest = next((text for flag, text in WIDEST_FIRST.items() if flag in _flags(lines)), None)
    parts = (name, f"family {family}" if family else None, widest)
    return ", ".join(part for part in parts if part)


def processor_key() -> str:
    """A name for the kind of processor, from the features it reports."""
    features = platform.machine() + " ".join(_flags(_cpuinfo()))
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _flags(lines: dict[str, str]) -> list[str]:
    return (lines.get("flags") or lines.get("Features") or "").split()


def _cpuinfo() -> dict[str, str]:
    """Name and value of each line about the first processor; nothing where Linux does not tell."""
    if not CPUINFO.is_file():
        return {}
    first, _, _ = CPUINFO.read_text(errors="replace").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
