import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxcifar.common.errors import ImageFileError
from jaxcifar.data import image_file
from jaxcifar.data.image_file import make_square, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_give_the_pixels(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(PIXELS).save(path, **({"lossless": True} if suffix == "webp" else {}))
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, PIXELS)


def test_a_jpeg_is_read_whatever_its_name(tmp_path):
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / "x", "JPEG", quality=95)
    assert np.abs(read_image(tmp_path / "x").astype(int) - flat).max() <= 3


def test_other_modes_become_rgb(tmp_path):
    grey = PIXELS[..., 0]
    path = tmp_path / "x.png"
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(read_image(path), np.stack([grey] * 3, axis=-1))
    Image.fromarray(grey.astype(np.uint16) * 256 + 255).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 1], grey)
    Image.fromarray(PIXELS).quantize(256).save(path)
    assert read_image(path).shape == PIXELS.shape


@pytest.mark.parametrize("palette", [False, True])
def test_transparent_pixels_become_white(tmp_path, palette):
    path = tmp_path / "x.png"
    if palette:
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putdata([0, 1])
        image.save(path, transparency=0)
        assert read_image(path).tolist() == [[[255, 255, 255], [0, 0, 255]]]
        return
    alpha = np.array([[[255, 0, 0, 0], [0, 0, 255, 255], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(alpha).save(path)
    assert read_image(path).tolist() == [[[255, 255, 255], [0, 0, 255], [204, 204, 204]]]


def test_the_first_frame_counts(tmp_path):
    path = tmp_path / "x.gif"
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


def png_of_claimed_size(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body)


def whole_png(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        tmp_path / "whole.png"
    )
    return (tmp_path / "whole.png").read_bytes()


def test_a_file_that_is_no_image_is_one_clear_error(tmp_path):
    whole = whole_png(tmp_path)
    broken = bytearray(whole)
    broken[60] ^= 0xFF
    for name, content, message in (
        ("text.png", b"years of work", "text.png is not an image, or is damaged"),
        ("empty.jpg", b"", "is not an image"),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        ("cut.png", whole[: len(whole) // 2], "cut.png is a damaged or cut-off image"),
        ("broken.png", bytes(broken), "damaged"),
        (
            "wide.png",
            png_of_claimed_size(60_000, 1_000),
            "60000x1000 pixels, more than the limit of 50,000,000",
        ),
        ("bomb.png", png_of_claimed_size(60_000, 60_000), "too large to be decoded"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFileError, match=message) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    for missing in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(ImageFileError, match="there is no image file"):
            read_image(missing)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    whole_png(tmp_path)
    monkeypatch.setattr(image_file, "MAX_BYTES", 1_000)
    with pytest.raises(ImageFileError, match="bytes, more than the limit of 1,000"):
        read_image(tmp_path / "whole.png")


def test_numbers_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageFileError, match="32-bit numbers"):
        read_image(tmp_path / "x.tif")


def test_a_square_is_the_centre_resized(tmp_path):
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = 200
    np.testing.assert_array_equal(make_square(wide, 4), wide[:, 3:7])
    np.testing.assert_array_equal(make_square(wide.transpose(1, 0, 2), 8), 200)
    # Bilinear, with pixel centres at one half.
    ramp = np.broadcast_to(np.arange(0, 256, 32, np.uint8)[None, :, None], (8, 8, 3))
    expected = np.interp((np.arange(16) + 0.5) / 2 - 0.5, np.arange(8), np.arange(0, 256, 32))
    assert np.abs(make_square(ramp, 16)[5, :, 1] - expected).max() <= 0.5
    assert make_square(PIXELS, 3).shape == (3, 3, 3)


def test_a_loop_of_links_a_pipe_and_an_endless_name_are_no_images(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("loop.png", "pipe.png", "x" * 5_000, "a\0b"):
        with pytest.raises(ImageFileError, match="there is no image file"):
            read_image(tmp_path / name)


def test_odd_metadata_causes_no_warnings(tmp_path):
    # Pillow would warn once per tag, and pytest turns warnings into errors.
    tags = b"".join(struct.pack("<HHII", tag, 1, 10_000, 8) for tag in range(300))
    exif = b"II*\0" + struct.pack("<IH", 8, 300) + tags + b"\0" * 4
    Image.fromarray(PIXELS).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), PIXELS)


def test_a_jpeg_with_too_many_scans_is_refused(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "x.jpg", progressive=True)
    whole = (tmp_path / "x.jpg").read_bytes()
    scan = whole[whole.rfind(b"\xff\xda") : -2][:14]
    assert read_image(tmp_path / "x.jpg").shape == (64, 64, 3)
    (tmp_path / "x.jpg").write_bytes(whole[:-2] + scan * 1_000 + b"\xff\xd9")
    with pytest.raises(ImageFileError, match="a JPEG of more than 1,000 scans"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation, compression):
    Image.fromarray(PIXELS).save(
        tmp_path / "x.tif", tiffinfo={0x0112: orientation}, compression=compression
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), read_image(tmp_path / "x.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_by_pillow(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), expected)
