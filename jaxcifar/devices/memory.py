"""Free memory of the device, whether something fits into it, and whether it ran out."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import jax


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of the default device that arrays can still use, or None if unknown.

    An accelerator reports its own memory. On the CPU it is the host's, see `host_memory`.

    Args:
        root: where `proc` and `sys` are.
    """
    device = jax.local_devices()[0]  # devices of other processes report nothing
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    return host_memory(root) if device.platform == "cpu" else None


def host_memory(root: Path = Path("/")) -> int | None:
    """Bytes that Linux calls available, or what a control group of the process still allows if that
    is less; a group's file cache counts as free. None if unknown.

    Args:
        root: where `proc` and `sys` are.
    """
    candidates = []
    available = _field(root / "proc/meminfo", "MemAvailable:")
    if available is not None:
        candidates.append(available * 1024)
    for folder, version in _control_groups(root):
        limit_name, used_name, cached_field = _FILES[version]
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None:
            candidates.append(limit - used + (_field(folder / "memory.stat", cached_field) or 0))
    return min(candidates, default=None)


# Of a control group, version 1 and 2: its limit, what it uses, and its file cache in memory.stat.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def _control_groups(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the process's own groups and of those they lie in, and the version of each.

    In a container the root is the container's own; a batch system (Slurm, systemd) sets the limit
    of a group further down, which `/proc/self/cgroup` names.
    """
    mounted = root / "sys/fs/cgroup"
    own = {1: "/", 2: "/"}
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            own[2] = path
        elif "memory" in controllers.split(","):
            own[1] = path
    for version, mount in ((1, mounted / "memory"), (2, mounted)):
        inside = PurePosixPath(own[version].strip("/"))
        for folder in (inside, *inside.parents):
            yield mount / folder, version


def memory_excess(needed: int, free: int | None, share: float) -> str | None:
    """The part of a message that compares the bytes needed with those free, or None if they fit.

    They fit if they are at most `share` of the free ones, or if those are unknown.
    """
    if free is None or needed <= share * free:
        return None
    return f"{needed / 2**30:.1f} GiB, more than {share:.0%} of the {free / 2**30:.1f} GiB free"


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the host's or a device's."""
    of_a_program = isinstance(error, jax.errors.JaxRuntimeError)
    return isinstance(error, MemoryError) or (of_a_program and "RESOURCE_EXHAUSTED" in str(error))


def on_host() -> bool:
    """Whether the devices are CPUs; they share their memory, however many JAX reports."""
    return jax.default_backend() == "cpu"


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none ("max" means no limit)."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """The number after a name at the start of a line."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return None
