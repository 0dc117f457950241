"""Free memory of the device, and whether something fits into it."""

from pathlib import Path

import jax


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of the default device that arrays can still use, or None if unknown.

    An accelerator reports its own memory. On the CPU it is the memory that Linux calls available,
    or what the control group (version 1 or 2) still allows if that is less; the group's file cache
    counts as free.

    Args:
        root: where `proc` and `sys` are.
    """
    device = jax.local_devices()[0]  # devices of other processes report nothing
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    if device.platform != "cpu":
        return None
    candidates = []
    available = _field(root / "proc/meminfo", "MemAvailable:")
    if available is not None:
        candidates.append(available * 1024)
    group = root / "sys/fs/cgroup"
    for limit_file, used_file, (stat_file, cached_field) in (
        ("memory.max", "memory.current", ("memory.stat", "inactive_file")),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            ("memory/memory.stat", "total_inactive_file"),
        ),
    ):
        limit, used = _number(group / limit_file), _number(group / used_file)
        if limit is not None and used is not None:
            candidates.append(limit - used + (_field(group / stat_file, cached_field) or 0))
    return min(candidates, default=None)


def memory_excess(needed: int, free: int | None, share: float) -> str | None:
    """The part of a message that compares the bytes needed with those free, or None if they fit.

    They fit if they are at most `share` of the free ones, or if those are unknown.
    """
    if free is None or needed <= share * free:
        return None
    return f"{needed / 2**30:.1f} GiB, more than {share:.0%} of the {free / 2**30:.1f} GiB free"


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
