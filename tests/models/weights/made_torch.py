"""Files in the formats of `torch.save`, valid and hostile, made by hand without PyTorch."""

import io
import struct
import time
import tracemalloc
import zipfile
from contextlib import contextmanager

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
NUMBERS = struct.pack("<6f", 0, 1, 2, 3, 4, 5)


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(full):
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(values):
    return tuple_of(*map(number, values))


def storage(key="0", kind="torch.FloatStorage", count=6, *, more=b""):
    parts = [text("storage"), name(kind), text(key), text("cpu"), number(count), more]
    return tuple_of(*parts) + b"Q"


def tensor(
    size=(2, 3),
    stride=(3, 1),
    offset=0,
    *,
    of=None,
    rebuild="torch._utils._rebuild_tensor_v2",
    more=b"",
):
    parts = [of or storage(), number(offset), numbers(size), numbers(stride), b"\x89"]
    hooks = name("collections.OrderedDict") + b")R"
    return name(rebuild) + tuple_of(*parts, hooks, more) + b"R"


def dictionary(entries):
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def pickled(body):
    return b"\x80\x02" + body + b"."


def one_tensor(*args, **kwargs):
    """The state dict {"w": tensor}."""
    return dictionary({"w": tensor(*args, **kwargs)})


def with_storage(**changes):
    """The state dict of a tensor whose storage is changed."""
    return one_tensor(of=storage(**changes))


def zip_bytes(body, storages=None, extra=None, *, compression=zipfile.ZIP_STORED, edit=None):
    """A zip file; `edit` may change the list of (name, bytes) first."""
    storages = {"0": NUMBERS} if storages is None else storages
    entries = [("archive/data.pkl", pickled(body)), ("archive/version", b"3\n")]
    entries += [(f"archive/data/{key}", data) for key, data in storages.items()]
    entries += (extra or {}).items()
    if edit:
        edit(entries)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return out.getvalue()


def stream_bytes(body, storages=None, *, little=True, magic=MAGIC, protocol=1001, keys=None):
    """The old format; `storages` are (key, declared count, bytes)."""
    storages = [("0", 6, NUMBERS)] if storages is None else storages
    about = text("little_endian") + (b"\x88" if little else b"\x89")
    keys = [key for key, _, _ in storages] if keys is None else keys
    listed = b"](" + b"".join(map(text, keys)) + b"e"
    parts = [magic, pickled(number(protocol)), pickled(b"}(" + about + b"u"), pickled(body)]
    parts.append(pickled(listed))
    for _, count, data in storages:
        parts += [struct.pack("<q", count), data]
    return b"".join(parts)


CONTAINERS = {"zip": zip_bytes, "stream": stream_bytes}
GOOD = one_tensor()


def file_of(make, body):
    """A file of either format; the old one must list exactly the storages that are used."""
    return make(body) if make is zip_bytes or b"storage" in body else make(body, [])


@contextmanager
def little_memory_and_time(most=8 << 20, seconds=5):
    """The code inside may allocate a few MB; memory that is never touched counts too."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
