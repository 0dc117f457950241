"""The processor's name tells generations apart that have one model name."""

import platform

import pytest

from jaxcifar.devices import processor
from jaxcifar.devices.processor import processor_key, processor_name

EPYC = """processor\t: 0
cpu family\t: {family}
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx {flags}

processor\t: 1
model name\t: another
flags\t\t: avx512f
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve2\nCPU part\t: 0xd4f\n"


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Writes what Linux tells about the processors."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPUINFO", path)
    monkeypatch.setattr(platform, "machine", lambda: "machine")
    monkeypatch.setattr(platform, "processor", lambda: "")
    return path.write_text


@pytest.mark.parametrize(
    ("family", "flags", "name"),
    [
        (25, "avx2", "AMD EPYC, family 25, model 17, AVX2"),
        (26, "avx2 avx512f avx512bw", "AMD EPYC, family 26, model 17, AVX-512"),
        (21, "", "AMD EPYC, family 21, model 17, AVX"),
    ],
)
def test_family_and_widest_instructions_are_in_the_name(cpuinfo, family, flags, name):
    cpuinfo(EPYC.format(family=family, flags=flags))
    assert processor_name() == name


def test_an_arm_processor_has_its_architecture_and_instructions(cpuinfo):
    cpuinfo(ARM)
    assert processor_name() == "machine, SVE2"
    cpuinfo(ARM.replace("sve2", "sve"))
    assert processor_name() == "machine, SVE"


def test_without_cpuinfo_python_says_what_it_is(cpuinfo, monkeypatch):
    assert processor_name() == "machine"
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processor_name() == "arm"


def test_the_key_depends_on_the_instructions_alone(cpuinfo):
    keys = {processor_key()}
    for flags in ("avx2", "avx2 avx512f"):
        cpuinfo(EPYC.format(family=25, flags=flags))
        keys.add(processor_key())
    assert len(keys) == 3
    cpuinfo(EPYC.format(family=26, flags="avx2"))
    assert processor_key() in keys
