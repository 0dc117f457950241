"""What pictures declare is bounded before a decoder allots it; real pictures pass."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks import picture_memory as made
from benchmarks.picture_memory import (
    encoded,
    long,
    png,
    png_chunk,
    rle_bmp,
    short,
    tiff_picture,
    webp_chunk,
    zeros,
)
from jaxcifar.common.errors import ImageFileError
from jaxcifar.data.image_file import decode_square, read_image
from jaxcifar.data.picture_limits import check_header, check_size

PIXELS = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)
SMALL = Image.new("RGB", (16, 16))
JPEG, GIF, WEBP = (encoded(SMALL, kind) for kind in ("JPEG", "GIF", "WEBP"))
EMPTY = b""


def tile(width, height, **options):
    """A TIFF of 16x16 pixels in one tile, which is really there."""
    planes = 3 if options.pop("planes", 1) == 3 else 1
    pieces = [zeros(width * height * 3 // planes)] * planes
    return tiff_picture(16, 16, pieces, *options.pop("tags", ()), tile=(width, height), **options)


def big_tiff(*tags):
    """Each tag is (number, type, count, value of at most 8 bytes)."""
    entries = b"".join(
        struct.pack("<HHQ", *tag[:3]) + struct.pack("<Q", tag[3]) for tag in sorted(tags)
    )
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags)) + entries + bytes(8)


def exif_directory(tags):
    """A TIFF whose EXIF directory stands at its end."""
    plain = tiff_picture(16, 16, [zeros(768)], long(34665, 0))
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return tiff_picture(16, 16, [zeros(768)], long(34665, len(plain))) + ifd + bytes(4)


def segment(kind, data):
    return bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments):
    """A JPEG with segments before its own."""
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def gif(screen, frame, before=b""):
    header = b"GIF89a" + struct.pack("<HH", *screen) + bytes(3)
    return header + before + b"," + struct.pack("<HHHH", 0, 0, *frame) + b"\0\2\2\x4c\1\0;"


def webp(*chunks):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width, height):
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return webp_chunk(b"VP8X", b"\2" + bytes(3) + sides)


ANIMATION = webp_chunk(b"ANIM", bytes(6)) + webp_chunk(
    b"ANMF", bytes(6) + b"\x0f\0\0" * 2 + bytes(4) + WEBP[12:]
)
DISPOSED = b"!\xf9\4\x08\0\0\0\0"
SHARED = [(number, 7, 90_000, 0) for number in range(50_000, 50_100)]

# The fault's kind, a picture of it, and what its error says.
REFUSED = {
    "tile": (lambda: tile(16_384, 16_384), "tiles of 16384x16384 pixels for a picture of 16x16"),
    "tile, LZW": (
        lambda: tile(16_384, 16_384, compression=5),
        "tiles of 16384x16384 pixels",
    ),
    "tile, raw and wide": (lambda: tile(3_000_000, 16, compression=1), "tiles of 3000000x16"),
    "tile, a plane each": (lambda: tile(16, 200_000, planes=3, tags=[short(284, 2)]), "16x200000"),
    "tile, second of two": (
        lambda: tile(16, 16, tags=[long(322, 16_384), long(323, 16_384)]),
        "16384x16384",
    ),
    "tile, in a BigTIFF": (
        lambda: big_tiff((256, 4, 1, 16), (257, 4, 1, 16), (322, 16, 1, 2**40), (323, 17, 1, 16)),
        "tiles of 1099511627776x16 pixels",
    ),
    "tile, large in a large picture": (
        lambda: tiff_picture(
            7_000, 7_000, [EMPTY], short(338, 2), tile=(8_000, 8_000), bits=(16,) * 4
        ),
        "512,000,000 bytes in a tile or strip, more than the limit of 200,000,000",
    ),
    "strip, of 8 bytes a pixel": (
        lambda: tiff_picture(7_000, 7_000, [EMPTY], short(338, 2), bits=(16,) * 4),
        "392,000,000 bytes in a tile or strip",
    ),
    "strips, too many": (
        lambda: tiff_picture(16, 16, [EMPTY] * 500_001, short(278, 1)),
        "tiles or strips|numbers in tags",
    ),
    "strips, each nearly the whole picture": (
        lambda: tiff_picture(5_000, 5_000, [EMPTY] * 1_000, short(278, 4_999), compression=1),
        "24,995,000,000 pixels in all tiles or strips, more than the limit of 300,000,000",
    ),
    "tags, too many": (
        lambda: tiff_picture(16, 16, [zeros(768)], *(short(n, 1) for n in range(40_000, 44_096))),
        "4,104 tags, more than the limit of 4,096",
    ),
    "tags, of shared data": (
        lambda: exif_directory(SHARED) + bytes(90_000),
        "bytes of tags",
    ),
    "tags, of a million numbers": (
        lambda: tiff_picture(16, 16, [zeros(768)], (50_000, 4, 1_100_000, bytes(4_400_000))),
        "4,400,\\d\\d\\d bytes of numbers in tags, more than the limit of 4,000,000",
    ),
    "tags, of a million numbers in EXIF": (
        lambda: exif_directory([(50_000, 5, 600_000, 8)]) + bytes(4_800_000),
        "bytes of numbers in tags",
    ),
    "jpeg, segments": (
        lambda: jpeg(segment(0xE5, b"") * 10_001),
        "10,001 segments, more than the limit of 10,000; save it again without its metadata",
    ),
    "jpeg, EXIF": (
        lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 67),
        "bytes of EXIF, more than the limit of 4,000,000",
    ),
    "jpeg, components": (
        lambda: jpeg(segment(0xC0, b"\10\0\20\0\20\3" + bytes(60_000)) * 67),
        "bytes of tables and padding",
    ),
    "jpeg, padding": (lambda: jpeg(b"\xff" * 4_000_001), "bytes of tables and padding"),
    "jpeg, junk": (
        lambda: jpeg(segment(0xE5, b"") + b"\0" * 4_000_001),
        "bytes of tables and padding",
    ),
    "png, chunks": (lambda: png(16, 16, png_chunk(b"juNk", b"") * 100_001), "100,001 chunks"),
    "png, packed texts": (
        lambda: png(16, 16, png_chunk(b"zTXt", b"\0\0" + zeros(999_999)) * 257),
        "257 compressed texts and profiles, more than the limit of 256",
    ),
    "png, profiles": (
        lambda: png(16, 16, png_chunk(b"iCCP", b"a\0\0" + zeros(999_999)) * 257),
        "257 compressed texts",
    ),
    "png, text": (
        lambda: png(16, 16, png_chunk(b"tEXt", b"a\0" + bytes(16_000_000))),
        "bytes of metadata, more than the limit of 16,000,000",
    ),
    "png, EXIF": (lambda: png(16, 16, png_chunk(b"eXIf", bytes(4_000_001))), "bytes of EXIF"),
    "png, EXIF as text": (
        lambda: png(16, 16, png_chunk(b"tEXt", b"Raw profile type exif\0" + bytes(4_000_000))),
        "bytes of EXIF",
    ),
    "png, side": (
        lambda: png(1, 1_000_001),
        "1x1000001 pixels, more than the limit of 1,000,000 a side",
    ),
    "gif, frame": (
        lambda: gif((16, 16), (12_000, 12_000), DISPOSED),
        "12000x12000 pixels, more than the limit of 50,000,000 in all",
    ),
    "gif, frame after an odd extension": (
        lambda: gif((16, 16), (12_000, 12_000), b"!\xff\x0bNETSCAPE2.0\0\3,;!\0" + DISPOSED),
        "12000x12000 pixels",
    ),
    "gif, comments": (
        lambda: gif((16, 16), (16, 16), b"!\xfe" + b"\1a" * 250_001 + b"\0"),
        "250,001 blocks before its first frame",
    ),
    "gif, junk": (lambda: gif((16, 16), (16, 16), b"a" * 250_001), "250,001 blocks"),
    "webp, canvas": (lambda: webp(canvas(13_000, 13_000), ANIMATION), "13000x13000 pixels"),
    "webp, lossless": (
        lambda: webp(webp_chunk(b"VP8L", struct.pack("<BI", 0x2F, 12_999 | 12_999 << 14))),
        "13000x13000 pixels",
    ),
    "webp, lossy": (
        lambda: webp(webp_chunk(b"VP8 ", b"\x10\0\0\x9d\1*" + struct.pack("<HH", 13_000, 13_000))),
        "13000x13000 pixels",
    ),
    "webp, XMP": (
        lambda: webp(canvas(16, 16), WEBP[12:], webp_chunk(b"XMP ", bytes(16_000_001))),
        "16,000,001 bytes of metadata",
    ),
    "webp, EXIF": (
        lambda: webp(canvas(16, 16), WEBP[12:], webp_chunk(b"EXIF", bytes(4_000_001))),
        "bytes of EXIF",
    ),
    "bmp, runs": (
        lambda: rle_bmp(5_000, 5_000, b"\1\7\0\0" * 5_000),
        "25,000,000 run-length pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_picture_that_declares_too_much_is_refused_by_its_header(fault):
    make, message = REFUSED[fault]
    data = make()
    start = time.perf_counter()
    with pytest.raises(ImageFileError, match=message) as caught:
        decode_square(data, 16, "x")
    assert time.perf_counter() - start < 1
    assert str(caught.value).startswith("x ")
    assert ";" in str(caught.value)  # the way out
    with pytest.raises(ImageFileError, match=message):
        check_header(data, "x") if fault != "png, side" else check_size(1, 1_000_001, "x")


@pytest.mark.parametrize("how", ["read_image", "decode_square"])
@pytest.mark.parametrize("fault", ["tile", "tile, raw and wide", "jpeg, components"])
def test_it_takes_no_memory_to_refuse(tmp_path, fault, how):
    (tmp_path / "x").write_bytes(REFUSED[fault][0]())
    measured = made.measure(tmp_path / "x", how)
    assert "more than the limit of" in measured["outcome"]
    assert measured["megabytes"] < 40


# These two rest on Pillow, hence the lower bound in pyproject.toml.


def test_tags_that_share_their_data_in_exif_take_no_memory(tmp_path):
    tags = b"".join(struct.pack("<HHII", number, 7, 2_900_000, 8) for number in range(200))
    exif = b"II*\0" + struct.pack("<IH", 8, 200) + tags + bytes(3_000_000)
    (tmp_path / "x").write_bytes(png(16, 16, png_chunk(b"eXIf", exif)))
    measured = made.measure(tmp_path / "x", "read_image")
    assert measured["outcome"] == "read"
    assert measured["megabytes"] < 60  # in Pillow 12.3: 600


def test_rows_that_are_missing_are_not_filled_with_memory_of_the_process():
    bits = tiff_picture(2_000, 2_000, [b"junk"], compression=4, photometric=1, bits=(1,))
    noise = [np.random.default_rng(i).bytes(500_000) for i in range(20)]
    del noise  # what is allotted next holds it
    assert not decode_square(bits, 2_000, "x")[8:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", made.WORST)
def test_the_worst_pictures_that_are_admitted_take_a_gigabyte(tmp_path, name):
    (tmp_path / "x").write_bytes(made.WORST[name]())
    for how in ("read_image", "decode_square"):
        measured = made.measure(tmp_path / "x", how)
        assert measured["outcome"] == "read"
        assert measured["megabytes"] < 1_100


def big_profile():
    return os.urandom(3_000_000)


def photo(kind):
    """A photo with blocks of several MB."""
    xmp = b"<x:xmpmeta>" + b" " * 5_000_000
    if kind == "JPEG":
        data = encoded(PICTURE, kind, quality=95, icc_profile=big_profile())
        return data[:2] + segment(0xED, b"Photoshop 3.0\0" + bytes(60_000)) * 80 + data[2:]
    if kind == "PNG":
        text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        data = encoded(PICTURE, kind, icc_profile=bytes(900_000))
        return data[:33] + text + data[33:]
    if kind == "WEBP":
        return encoded(PICTURE, kind, lossless=True, icc_profile=big_profile(), xmp=xmp)
    layers = {37724: bytes(20_000_000), 34377: bytes(3_000_000), 700: xmp}
    return encoded(PICTURE, kind, icc_profile=big_profile(), tiffinfo=layers)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_with_large_metadata_is_read(tmp_path, kind):
    (tmp_path / "x").write_bytes(photo(kind))
    pixels = read_image(tmp_path / "x")
    plain = encoded(PICTURE, kind, **({"quality": 95} if kind == "JPEG" else {"lossless": True}))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(plain))))


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("side", [16, 256, 512, 1024])
def test_a_tiled_tiff_is_read(tmp_path, side, compression):
    rows, columns = -(-80 // side), -(-100 // side)
    padded = np.zeros((rows * side, columns * side, 3), np.uint8)
    padded[:80, :100] = PIXELS
    tiles = [
        padded[y * side : (y + 1) * side, x * side : (x + 1) * side].tobytes()
        for y in range(rows)
        for x in range(columns)
    ]
    if compression == 8:
        tiles = [zlib.compress(t) for t in tiles]
    data = tiff_picture(100, 80, tiles, tile=(side, side), compression=compression)
    (tmp_path / "x").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "x"), PIXELS)


def test_strips_planes_and_grey_of_16_bits_are_read(tmp_path):
    whole = long(278, 2**32 - 1)
    planes = [zlib.compress(PIXELS[..., i].tobytes()) for i in range(3)]
    grey = PIXELS[..., 0].astype("<u2") * 256 + 77
    for data, expected in (
        (tiff_picture(100, 80, [zlib.compress(PIXELS.tobytes())], whole), PIXELS),
        (tiff_picture(100, 80, planes, whole, short(284, 2)), PIXELS),
        (
            tiff_picture(
                100, 80, [zlib.compress(grey.tobytes())], whole, photometric=1, bits=(16,)
            ),
            np.repeat(PIXELS[..., :1], 3, axis=2),
        ),
    ):
        (tmp_path / "x").write_bytes(data)
        np.testing.assert_array_equal(read_image(tmp_path / "x"), expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    (tmp_path / "x").write_bytes(data)
    assert (read_image(tmp_path / "x") == [255, 0, 0]).all()


def test_a_picture_in_bands_is_the_picture(tmp_path, monkeypatch):
    alpha = np.dstack([PIXELS, PIXELS[..., 0]])
    palette = PICTURE.quantize(256)
    pictures = [
        encoded(Image.fromarray(alpha), "PNG"),
        encoded(palette, "PNG", transparency=bytes(range(0, 256, 2))),
        encoded(palette, "GIF", transparency=3),
        encoded(PICTURE.convert("CMYK"), "JPEG"),
        encoded(PICTURE.convert("L"), "PNG", transparency=7),
        encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256), "PNG"),
    ]
    for data in pictures:
        (tmp_path / "x").write_bytes(data)
        whole, square = read_image(tmp_path / "x"), decode_square(data, 32, "x")
        with monkeypatch.context() as patch:
            patch.setattr("jaxcifar.data.image_file._BAND", 700)
            np.testing.assert_array_equal(read_image(tmp_path / "x"), whole)
            np.testing.assert_array_equal(decode_square(data, 32, "x"), square)


@pytest.mark.parametrize(
    "data",
    [b"RIFF\0\0\0\0WAVEfmt " + b"\xff" * 40, b"II*\0\x08", b"GIF89a\xff\xff", b"BM", JPEG[:30]],
)
def test_what_ends_within_its_header_is_left_to_the_decoder(data):
    check_header(data, "x")
    with pytest.raises(ImageFileError, match="is not an image, or is damaged"):
        decode_square(data, 16, "x")


@pytest.mark.parametrize("start", [JPEG[:2], JPEG[:20], JPEG[:-2]])
def test_a_jpeg_that_ends_in_padding_takes_no_time(start):
    started = time.perf_counter()
    with contextlib.suppress(ImageFileError):
        check_header(start + b"\xff" * 3_000_000, "x")
    assert time.perf_counter() - started < 5  # by squares it would be hours


def test_what_follows_the_end_of_a_jpeg_is_not_counted_as_scans():
    """Phones append a video of many MB."""
    appended = JPEG + b"\xff\xda\x00" * 2_000
    check_header(appended, "x")
    assert np.array_equal(decode_square(appended, 16, "x"), decode_square(JPEG, 16, "x"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_follows_the_end_of_a_picture_is_not_read(kind):
    data = encoded(PICTURE, kind)
    exif = {
        "PNG": png_chunk(b"eXIf", b"MM\0*" + bytes(4_000_000)),
        "WEBP": webp_chunk(b"EXIF", b"Exif\0\0MM\0*" + bytes(4_000_000)),
    }
    for appended in (data + bytes(1_300_000), data + exif[kind]):
        check_header(appended, "x")
        assert np.array_equal(decode_square(appended, 80, "x"), decode_square(data, 80, "x"))
        image = Image.open(io.BytesIO(appended))
        image.load()
        assert "exif" not in image.info  # as the checks suppose


def test_an_end_within_a_segment_hides_no_scans():
    start = JPEG.index(b"\xff\xda")
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    many = JPEG[:start] + (b"\xff\xda\x00\x02" + comment) * 1_100
    with pytest.raises(ImageFileError, match="more than 1,000 scans"):
        check_header(many, "x")


def test_a_webp_of_many_empty_chunks_is_refused_early():
    started = time.perf_counter()
    with pytest.raises(ImageFileError, match=r"declares 100,001 chunks"):
        check_header(webp(WEBP[12:] + b"xxxx\0\0\0\0" * 2_000_000), "x")
    assert time.perf_counter() - started < 1


def test_a_loop_of_directories_ends():
    plain = tiff_picture(16, 16, [zeros(768)], long(34665, 8))
    assert decode_square(plain, 16, "x").shape == (16, 16, 3)
    tags = [(34665, 4, 1, len(plain))] * 1_300
    with pytest.raises(ImageFileError, match="tags, more than the limit"):
        check_header(exif_directory(tags), "x")


def test_an_import_of_the_limits_needs_no_pillow():
    code = "import sys, jaxcifar.data.picture_limits; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
