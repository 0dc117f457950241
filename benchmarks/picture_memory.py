"""Memory and time of the worst pictures that the limits admit, of each format.

  python -m benchmarks.picture_memory                 all of them, minutes
  python -m benchmarks.picture_memory --only tiff     those with this word in their name

Each picture is made to need as much as its format allows: nearly 50 million pixels, the mode of
most bytes, alpha, a second frame, metadata up to the limits and to 100 MB of file. Each is read in
a new process by `read_image` and by `decode_square` (to 224 pixels). Memory is the most that was
resident, less what was resident before reading.
"""

import io
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as pillow_version

from benchmarks.harness import RESULTS, make_parser, save
from jaxcifar.data import picture_limits as limits
from jaxcifar.data.image_file import MAX_BYTES

SIDE = 7_071  # 49,999,041 pixels
ORIENTED = b"Exif\0\0II*\0" + struct.pack(
    "<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0
)  # a quarter turn
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# Not getrusage's ru_maxrss: a new process begins with the maximum of the one that started it.
CHILD = """
import sys, time
from pathlib import Path
import jaxcifar.data.image_file as image_file

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1_000

path, how = sys.argv[1:]
idle, start = peak(), time.perf_counter()
try:
    if how == "read_image":
        image_file.read_image(path)
    else:
        image_file.decode_square(Path(path).read_bytes(), 224, path)
    outcome = "read"
except image_file.ImageFileError as error:
    outcome = str(error).removeprefix(path)
print(peak() - idle, time.perf_counter() - start, outcome, sep="\\n")
"""


# Pictures by their bytes; the tests make theirs with these, too.


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """With its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, color: int = 2) -> bytes:
    """A black interlaced PNG with `chunks` before its pixels; `color` 2 is RGB, 6 RGBA."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 1))
    pixel = {2: 3, 6: 4}[color] * bits // 8
    packer, packed = zlib.compressobj(1), []
    for left, top, right, down in _ADAM7:
        columns, rows = len(range(left, width, right)), len(range(top, height, down))
        packed += [
            packer.compress(bytes(1 + columns * pixel)) for _ in range(rows if columns else 0)
        ]
    body = png_chunk(b"IDAT", b"".join(packed) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + png_chunk(b"IEND", b"")


Tag = tuple[int, int, int, bytes]  # number, type, count, value


def short(number: int, *values: int) -> Tag:
    """A tag of 16-bit numbers."""
    return number, 3, len(values), struct.pack(f"<{len(values)}H", *values)


def long(number: int, *values: int) -> Tag:
    """A tag of 32-bit numbers."""
    return number, 4, len(values), struct.pack(f"<{len(values)}I", *values)


def tiff(tags: Iterable[Tag], body: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory at byte 8, with `body` at the file's end."""
    entries, outside = b"", b""
    tags = sorted(tags)
    start = 8 + 2 + 12 * len(tags) + 4
    for number, kind, count, value in tags:
        if len(value) > 4:
            outside += value + b"\0" * (len(value) % 2)
            value = struct.pack("<I", start + len(outside) - len(value) - len(value) % 2)
        entries += struct.pack("<HHI", number, kind, count) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + outside + body


def tiff_picture(
    width: int,
    height: int,
    pieces: Sequence[bytes],
    *tags: Tag,
    tile: tuple[int, int] | None = None,
    compression: int = 8,
    photometric: int = 2,
    bits: tuple[int, ...] = (8, 8, 8),
) -> bytes:
    """A TIFF whose strips (or tiles of width and height `tile`) are `pieces`, deflated or not."""
    body = b"".join(pieces)
    sizes = [len(piece) for piece in pieces]
    where, lengths = (273, 279) if tile is None else (324, 325)
    shape = () if tile is None else (long(322, tile[0]), long(323, tile[1]))

    def build(start: int) -> bytes:
        offsets = [start + int(offset) for offset in np.cumsum([0, *sizes[:-1]])]
        return tiff(
            [
                long(256, width), long(257, height), short(258, *bits), short(259, compression),
                short(262, photometric), short(277, len(bits)), long(where, *offsets),
                long(lengths, *sizes), *shape, *tags,
            ],
            body,
        )  # fmt: skip

    return build(len(build(0)) - len(body))


def zeros(size: int) -> bytes:
    """So many zero bytes, deflated: one block of them over and over."""
    step = 1_000_000
    packer = zlib.compressobj(wbits=-15)
    first, block = (packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in "ab")
    blocks = first + block * (size // step - 1) if size >= step else b""
    packer = zlib.compressobj(wbits=-15)
    rest = packer.compress(bytes(size % step)) + packer.flush()
    return b"\x78\x01" + blocks + rest + struct.pack(">HH", size % 65_521, 1)


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A run-length encoded BMP of 8 bits."""
    palette = bytes(range(256)) * 4
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    size = start + len(runs)
    return b"BM" + struct.pack("<IHHI", size, 0, 0, start) + header + palette + runs


def webp_chunk(kind: bytes, data: bytes) -> bytes:
    """With its length, padded to an even one."""
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """As Pillow saves it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# The worst that is admitted.


def texture(channels: int) -> NDArray[np.uint8]:
    """Noise of 64x64 pixels over and over."""
    block = np.random.default_rng(0).integers(0, 256, (64, 64, channels), np.uint8)
    return np.tile(block, (SIDE // 64 + 1, SIDE // 64 + 1, 1))[:SIDE, :SIDE]


def jpeg_progressive() -> bytes:
    """CMYK, 4:4:4, EXIF that turns it, application segments up to the file's limit."""
    image = Image.fromarray(texture(4), "CMYK")
    data = encoded(image, "JPEG", progressive=True, quality=30, subsampling=0)
    exif = ORIENTED + bytes(65_000)
    exifs = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    exifs += (b"\xff\xe1" + struct.pack(">H", 65_008) + b"Exif\0\0" + bytes(65_000)) * 59
    fill = b"\xff\xe2" + struct.pack(">H", 65_002) + bytes(65_000)
    return data[:2] + exifs + fill * ((MAX_BYTES - len(data) - len(exifs)) // 65_004) + data[2:]


def jpeg_scans() -> bytes:
    """As many scans as are admitted."""
    whole = encoded(Image.new("L", (SIDE, SIDE)), "JPEG", progressive=True)
    scan = whole[whole.rfind(b"\xff\xda") : -2][:14]
    return whole[:-2] + scan * (limits.MAX_SCANS - whole.count(b"\xff\xda")) + b"\xff\xd9"


def png_16_bits() -> bytes:
    """RGBA, interlaced, EXIF that turns it, text, an unknown chunk up to the file's limit."""
    chunks = [png_chunk(b"eXIf", ORIENTED[6:] + bytes(3_999_000))]
    chunks += [png_chunk(b"tEXt", b"a%d\0" % i + bytes(1_000_000)) for i in range(11)]
    plain = png(SIDE, SIDE, *chunks, bits=16, color=6)
    fill = png_chunk(b"juNk", bytes(MAX_BYTES - len(plain) - 12))
    return plain[:33] + fill + plain[33:]


def gif_animated() -> bytes:
    """Two frames that are disposed of, with transparency."""
    image = Image.fromarray(texture(1)[..., 0])
    return encoded(
        image, "GIF", save_all=True, append_images=[Image.new("L", image.size)],
        disposal=2, transparency=0, optimize=False,
    )  # fmt: skip


def bmp_palette() -> bytes:
    """A palette of 256 colours."""
    image = Image.fromarray(texture(1)[..., 0], "P")
    image.putpalette([i * 7 % 256 for i in range(768)])
    return encoded(image, "BMP")


def bmp_runs() -> bytes:
    """Runs of a pixel each, which Pillow decodes in Python."""
    rows = 1_580  # of 3,160 pixels: nearly as many as are admitted
    return rle_bmp(2 * rows, rows, (b"\1\7" * 2 * rows + b"\0\0") * rows)


def webp_animated() -> bytes:
    """Lossless, alpha, two frames, EXIF that turns it, an unknown chunk up to the file's limit."""
    image = Image.new("RGBA", (SIDE, SIDE), (9, 99, 199, 77))
    image.paste(Image.fromarray(texture(4)[:2_000]), (0, 0))
    data = encoded(
        image, "WEBP", save_all=True, append_images=[Image.new("RGBA", image.size)],
        lossless=True, quality=0, method=0, exif=ORIENTED, xmp=bytes(15_900_000),
    )  # fmt: skip
    data += webp_chunk(b"JUNK", bytes(MAX_BYTES - len(data) - 8))
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def tiff_strip() -> bytes:
    """One deflated strip of RGBA, turned, fractions as EXIF, a block up to the file's limit."""
    strip = zeros(SIDE * SIDE * 4)
    count = limits.MAX_NUMBERS // 8 - 1_000
    block = bytes(MAX_BYTES - len(strip) - limits.MAX_NUMBERS)
    tags = [short(274, 6), short(338, 2), (50_000, 7, len(block), block)]
    at = len(tiff_picture(SIDE, SIDE, [strip], *tags, long(34665, 0), bits=(8,) * 4))
    fractions = np.random.default_rng(0).bytes(8 * count)
    exif = struct.pack("<HHHIII", 1, 50_001, 5, count, at + 18, 0) + fractions
    return tiff_picture(SIDE, SIDE, [strip], *tags, long(34665, at), bits=(8,) * 4) + exif


def tiff_ycbcr() -> bytes:
    """One deflated strip of YCbCr, which libtiff converts."""
    return tiff_picture(SIDE, SIDE, [zeros(SIDE * SIDE * 3)], short(530, 1, 1), photometric=6)


def tiff_tiles() -> bytes:
    """Raw tiles of 16x16, as many as the picture needs."""
    tile = np.random.default_rng(0).bytes(256)
    return tiff_picture(
        SIDE, SIDE, [tile] * 442**2, tile=(16, 16), compression=1, photometric=1, bits=(8,)
    )


def tiff_small_in_tile() -> bytes:
    """A small picture in the largest tile that is admitted."""
    side = limits.MAX_TILE_SIDE
    return tiff_picture(
        16, 16, [zeros(side * side * 8)], short(338, 2), tile=(side, side), bits=(16,) * 4
    )


def ppm_grey() -> bytes:
    """16 bits a pixel in the file, 32 in memory."""
    return b"P5 %d %d 65535\n" % (SIDE, SIDE) + bytes(2 * SIDE**2)


def ppm_plain() -> bytes:
    """As many numbers as are decoded one by one."""
    return b"P2 %d 1000 65535\n" % (limits.MAX_PLAIN // 1000) + b"65535 " * limits.MAX_PLAIN


WORST: dict[str, Callable[[], bytes]] = {
    "jpeg, progressive CMYK": jpeg_progressive,
    "jpeg, 1,000 scans": jpeg_scans,
    "png, RGBA of 16 bits": png_16_bits,
    "gif, animated": gif_animated,
    "bmp, palette": bmp_palette,
    "bmp, run-length": bmp_runs,
    "ppm, grey of 16 bits": ppm_grey,
    "ppm, plain": ppm_plain,
    "webp, animated": webp_animated,
    "tiff, one strip of RGBA": tiff_strip,
    "tiff, YCbCr": tiff_ycbcr,
    "tiff, raw tiles of 16x16": tiff_tiles,
    "tiff, 16x16 in a tile of 4,096": tiff_small_in_tile,
}


def measure(path: Path, how: str) -> dict[str, Any]:
    """Megabytes and seconds of `read_image` or `decode_square` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), how], capture_output=True, text=True, check=True
    )
    megabytes, seconds, outcome = done.stdout.splitlines()
    if done.stderr:
        outcome += f"; printed {len(done.stderr.splitlines())} lines"
    return {
        "megabytes": round(float(megabytes)),
        "seconds": round(float(seconds), 2),
        "outcome": outcome,
    }


def main() -> None:
    """Make each picture, read it, print, save."""
    parser = make_parser(__doc__, repeats=None, result="picture_memory", suffix="")
    parser.add_argument("--only", default="", help="a word in the names of pictures")
    parsed = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in WORST.items():
            if parsed.only not in name:
                continue
            path = Path(folder) / "picture"
            path.write_bytes(make())
            results[name] = {"file_megabytes": round(path.stat().st_size / 1e6, 1)}
            for how in ("read_image", "decode_square"):
                results[name][how] = measure(path, how)
                print(f"{name:36}{how:15}", *results[name][how].values(), flush=True)
    # Without the backend in its name, as no device has a part in it.
    out = parsed.out or RESULTS / "picture_memory.json"
    save("picture_memory", {"pillow": pillow_version, "worst": results}, out=out)


if __name__ == "__main__":
    main()
