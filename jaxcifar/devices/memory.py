"""What a result was obtained on, to be stored beside it."""

from pathlib import Path

import jax


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes the default device can still give to arrays, or None where nothing tells.

    An accelerator says itself. On the CPU it is what Linux calls available, or what is left under
    the limit of the control group (of version 1 or 2) if that is less; what the group only caches
    of files counts as free.
    """
    device = jax.local_devices()[0]  # another process's does not say
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    if device.platform != "cpu":
        return None
    found = []
    available = _field(root / "proc/meminfo", "MemAvailable:")
    if available is not None:
        found.append(available * 1024)
    group = root / "sys/fs/cgroup"
    for limit, used, cached in (
        ("memory.max", "memory.current", ("memory.stat", "inactive_file")),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            ("memory/memory.stat", "total_inactive_file"),
        ),
    ):
        allowed, taken = _number(group / limit), _number(group / used)
        if allowed is not None and taken is not None:
            found.append(allowed - taken + (_field(group / cached[0], cached[1]) or 0))
    return min(found, default=None)


def memory_excess(needed: int, free: int | None, share: float) -> str | None:
    """What to say where bytes needed exceed that share of what is free, or None."""
    if free is None or needed <= share * free:
        return None
    return (
        f"{needed / 2**30:.1f} GiB, and of the {free / 2**30:.1f} GiB that are free at most "
        f"{share:.0%} may be used"
    )


def on_host() -> bool:
    """Whether the devices are processors, which share their memory, however many they look like."""
    return jax.default_backend() == "cpu"


def _number(path: Path) -> int | None:
    """The number a file holds, or None: "max" is no limit."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """The number after a name at the beginning of a line."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return None
