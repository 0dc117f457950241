"""Odd EXIF is not damage: the picture is read, and lies as it is stored."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.picture_memory import long as long_tag
from benchmarks.picture_memory import png, png_chunk, tiff_picture
from benchmarks.picture_memory import short as short_tag
from jaxcifar.common.errors import ImageFileError
from jaxcifar.data.image_file import decode_square, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
ORIENTATION = 0x0112


def tiff(*tags):
    """EXIF with tags (number, type, count, four bytes of value)."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3].ljust(4, b"\0") for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def short(value):
    return struct.pack("<H", value)


JUNK = {
    "junk": b"years of work",
    "empty": b"",
    "one byte": b"I",
    "header cut": b"II*\0\x08\0",
    "directory beyond the end": b"II*\0\xff\xff\xff\x7f",
    "directory cut": b"II*\0\x08\0\0\0\x05\0\x12\x01",
    "no TIFF": b"XX*\0\x08\0\0\0\0\0",
    "orientation 0": tiff((ORIENTATION, 3, 1, short(0))),
    "orientation 9": tiff((ORIENTATION, 3, 1, short(9))),
    "orientation 65535": tiff((ORIENTATION, 3, 1, short(65_535))),
    "orientation a string": tiff((ORIENTATION, 2, 2, b"6\0")),
    "orientation bytes": tiff((ORIENTATION, 7, 1, b"\6")),
    "orientation a float": tiff((ORIENTATION, 11, 1, struct.pack("<f", 6))),
    "orientation twice": tiff((ORIENTATION, 3, 2, short(9) * 2)),
    "orientation nowhere": tiff((ORIENTATION, 3, 0, b"")),
    "orientation beyond the end": tiff((ORIENTATION, 3, 9_000, struct.pack("<I", 10**6))),
    "orientation of no type": tiff((ORIENTATION, 99, 1, short(6))),
    "resolution a letter": tiff((0x011A, 2, 1, b"7"), (0x0128, 3, 1, short(2))),
    "resolution a byte": tiff((0x011A, 7, 1, b"7"), (0x0128, 3, 1, short(2))),
}
TURNED = tiff((ORIENTATION, 3, 1, short(6)))


def as_jpeg(exif):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", quality=95)
    data = file.getvalue()
    if not data.startswith(b"\xff\xd8\xff\xe0"):
        raise AssertionError
    end = 4 + int.from_bytes(data[4:6], "big")  # without JFIF, which has a resolution itself
    body = b"Exif\0\0" + exif
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    return data[:2] + segment + data[end:]


def as_png(exif):
    whole = io.BytesIO()
    Image.fromarray(PIXELS).save(whole, "PNG")
    data = whole.getvalue()
    return data[:33] + png_chunk(b"eXIf", exif) + data[33:]


def as_late_png(exif):
    data = as_png(b"")
    empty = png_chunk(b"eXIf", b"")
    end = data.index(b"IEND") - 4
    return data[:end].replace(empty, b"") + png_chunk(b"eXIf", exif) + data[end:]


def as_text_png(exif):
    text = b"Raw profile type exif\0\nexif\n    9\n" + exif.hex().encode() + b"zz"
    return as_png(b"").replace(png_chunk(b"eXIf", b""), png_chunk(b"tEXt", text))


def as_webp(exif):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "WEBP", lossless=True, exif=b"Exif\0\0" + exif)
    return file.getvalue()


def as_tiff(exif, pixels=PIXELS, orientation=1, compression=8):
    """Its EXIF directory is what is given; its own orientation is another tag."""
    height, width = pixels.shape[:2]
    piece = zlib.compress(pixels.tobytes()) if compression == 8 else pixels.tobytes()

    def make(at):
        tags = short_tag(ORIENTATION, orientation), long_tag(34665, at)
        return tiff_picture(width, height, [piece], *tags, compression=compression)

    return make(len(make(0))) + exif


MAKERS = [as_jpeg, as_png, as_late_png, as_webp, as_tiff]


def check_as_stored(data, make):
    # Only JPEG loses something; Pillow itself cannot read a TIFF with such EXIF.
    plain = np.asarray(Image.open(io.BytesIO(as_jpeg(tiff()))))
    expected = plain if make is as_jpeg else PIXELS
    np.testing.assert_array_equal(decode_square(data, 8, "x"), expected)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("kind", JUNK)
def test_odd_exif_leaves_the_picture_as_it_is(make, kind):
    check_as_stored(make(JUNK[kind]), make)


def test_a_text_that_is_no_exif_leaves_the_picture_as_it_is(tmp_path):
    (tmp_path / "x.png").write_bytes(as_text_png(b"Exif\0\0" + TURNED))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), PIXELS)


@pytest.mark.parametrize("make", [as_jpeg, as_png, as_late_png, as_webp])
def test_sound_exif_still_turns(make):
    stored = np.asarray(Image.open(io.BytesIO(make(tiff()))))
    np.testing.assert_array_equal(decode_square(make(TURNED), 8, "x"), np.rot90(stored, -1))


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("orientation", [*range(10), 65_535])
@pytest.mark.parametrize("exif", ["junk", "directory cut", "empty"])
def test_a_tiff_is_turned_by_its_own_tag_though_its_exif_is_junk(
    tmp_path, compression, orientation, exif
):
    wide = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)
    turns = {
        2: wide[:, ::-1],
        3: wide[::-1, ::-1],
        4: wide[::-1],
        5: wide.swapaxes(0, 1),
        6: np.rot90(wide, -1),
        7: np.rot90(wide, 2).swapaxes(0, 1),
        8: np.rot90(wide),
    }
    (tmp_path / "x").write_bytes(as_tiff(JUNK[exif], wide, orientation, compression))
    np.testing.assert_array_equal(read_image(tmp_path / "x"), turns.get(orientation, wide))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(MAKERS[:4]), st.booleans())
def test_no_exif_makes_a_sound_picture_unreadable(exif, make, headed):
    decode_square(make(b"II*\0\x08\0\0\0" * headed + exif), 8, "x")


def test_pixels_that_are_cut_are_still_damage():
    data = as_png(b"junk")
    with pytest.raises(ImageFileError, match="damaged or cut-off"):
        decode_square(data[:-40], 8, "x")
    with pytest.raises(ImageFileError, match="is not an image|damaged or cut-off"):
        decode_square(as_jpeg(JUNK["resolution a letter"])[:80], 8, "x")


def test_huge_exif_is_still_refused():
    with pytest.raises(ImageFileError, match="bytes of EXIF, more than the limit"):
        decode_square(png(16, 16, png_chunk(b"eXIf", bytes(4_000_001))), 16, "x")
