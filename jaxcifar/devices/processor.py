"""The processor of this machine: its name, its instructions, and a key of its kind."""

import hashlib
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")  # Linux only
GENERATION = (("family", "cpu family"), ("model", "model"))
WIDEST_FIRST = {
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "sve2": "SVE2",
    "sve": "SVE",
    "asimd": "NEON",
}


def processor_name() -> str:
    """Name, generation and widest vector instructions: "AMD EPYC, family 25, model 1, AVX2".

    Clouds give processors of several generations one name, and the speed of a convolution on a CPU
    depends on its vector instructions before anything else.
    """
    lines = _cpuinfo()
    name = lines.get("model name") or platform.processor() or platform.machine()
    generation = [f"{word} {lines[key]}" for word, key in GENERATION if key in lines]
    flags = _flags(lines)
    widest = [text for flag, text in WIDEST_FIRST.items() if flag in flags][:1]
    return ", ".join([name, *generation, *widest])


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
