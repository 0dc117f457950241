from types import SimpleNamespace

import jax
import pytest

from jaxcifar.devices import memory
from jaxcifar.devices.machine import describe_machine
from jaxcifar.devices.memory import free_memory, host_memory, memory_excess

GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """A root directory with the files of Linux, as each test writes them."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))
        return tmp_path

    return write


def test_memory_is_unknown_without_any_report(system):
    assert free_memory(system({})) is None


MEMINFO = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:  {8 * GIB // 1024} kB\n"}


@pytest.mark.parametrize(
    ("group", "free"),
    [
        ({}, 8 * GIB),
        ({"memory.max": "max\n", "memory.current": GIB}, 8 * GIB),
        ({"memory.max": 4 * GIB, "memory.current": GIB}, 3 * GIB),
        (
            {
                "memory.max": 4 * GIB,
                "memory.current": 3 * GIB,
                "memory.stat": f"anon 5\ninactive_file {2 * GIB}\n",
            },
            3 * GIB,
        ),
        ({"memory.max": 64 * GIB, "memory.current": GIB}, 8 * GIB),
        (
            {
                "memory/memory.limit_in_bytes": 4 * GIB,
                "memory/memory.usage_in_bytes": 3 * GIB,
                "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}\n",
            },
            2 * GIB,
        ),
    ],
)
def test_the_smaller_of_linux_and_control_group_memory_counts(system, group, free):
    files = {f"sys/fs/cgroup/{name}": text for name, text in group.items()}
    assert free_memory(system(MEMINFO | files)) == free


@pytest.mark.parametrize(
    ("listed", "limited", "free"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7/memory.max", 3 * GIB),
        ("0::/slurm/job_7\n", "slurm/job_7/memory.max", 3 * GIB),
        ("0::/\n", "slurm/job_7/memory.max", 8 * GIB),
        ("4:cpu:/\n5:memory:/user/x\n", "memory/user/x/memory.limit_in_bytes", 3 * GIB),
    ],
)
def test_the_limit_of_a_group_further_down_counts(system, listed, limited, free):
    folder, _, name = limited.rpartition("/")
    used = "memory.current" if name == "memory.max" else "memory.usage_in_bytes"
    files = {"proc/self/cgroup": listed, f"sys/fs/cgroup/{limited}": 4 * GIB}
    files[f"sys/fs/cgroup/{folder}/{used}"] = GIB
    assert host_memory(system(MEMINFO | files)) == free


@pytest.mark.parametrize(
    ("stats", "free"),
    [({"bytes_limit": 10 * GIB, "bytes_in_use": 3 * GIB}, 7 * GIB), (None, None)],
)
def test_an_accelerator_reports_its_own_memory_or_nothing(system, monkeypatch, stats, free):
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    monkeypatch.setattr(memory.jax, "local_devices", lambda: [device])
    assert free_memory(system(MEMINFO)) == free


def test_this_machine_has_memory_and_a_description():
    assert free_memory() is None or free_memory() > 0
    machine = describe_machine()
    assert machine["backend"] == "cpu"
    assert machine["versions"]["jax"] == jax.__version__


def test_an_excess_names_both_sizes_and_the_share():
    assert memory_excess(GIB, 2 * GIB, 0.5) is None
    assert memory_excess(GIB, None, 0.5) is None
    assert memory_excess(3 * GIB, 2 * GIB, 0.8) == "3.0 GiB, more than 80% of the 2.0 GiB free"
