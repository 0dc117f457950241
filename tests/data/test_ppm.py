"""PBM, PGM and PPM: what is read, and that a forged header allots nothing."""

import contextlib
import io
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcifar.common.errors import ImageFileError
from jaxcifar.data.image_file import decode_square, read_image
from jaxcifar.data.picture_limits import check_header

RNG = np.random.default_rng(0)


def netpbm(kind, values, maxval, comment=b""):
    """A picture by the definition of the format; `values` is [h, w] or [h, w, 3]."""
    height, width = values.shape[:2]
    head = b"P%d\n%s%d %d\n" % (kind, comment, width, height)
    if kind in (2, 3, 5, 6):
        head += b"%d\n" % maxval
    if kind == 1:
        return head + b"".join(b"%d" % v for v in values.ravel())
    if kind in (2, 3):
        return head + b" ".join(b"%d" % v for v in values.ravel())
    if kind == 4:
        return head + np.packbits(values.astype(bool), axis=1).tobytes()
    return head + values.astype("u1" if maxval < 256 else ">u2").tobytes()


def as_rgb(kind, values, maxval):
    if kind in (1, 4):
        eight = np.where(values, 0, 255)
    elif kind in (2, 5) and maxval > 255:
        eight = np.rint(values / maxval * 65_535).astype(int) >> 8
    else:
        eight = np.rint(values / maxval * 255)
    eight = eight.astype(np.uint8)
    return eight if eight.ndim == 3 else np.stack([eight] * 3, -1)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.integers(1, 6),
    maxval=st.sampled_from([1, 7, 100, 255, 256, 1023, 65_534, 65_535]),
    height=st.integers(1, 9),
    width=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_every_kind_and_depth_is_read(tmp_path_factory, kind, maxval, height, width, seed):
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    maxval = 1 if kind in (1, 4) else maxval
    values = np.random.default_rng(seed).integers(0, maxval + 1, shape)
    path = tmp_path_factory.getbasetemp() / "x.ppm"
    path.write_bytes(netpbm(kind, values, maxval, b"# made by hand\n"))
    np.testing.assert_array_equal(read_image(path), as_rgb(kind, values, maxval))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_what_pillow_writes_is_read(tmp_path, mode):
    pixels = RNG.integers(0, 256, (9, 9), np.uint8)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else image
    image = image.convert(mode)
    image.save(tmp_path / "x", "PPM")
    expected = pixels if mode == "I;16" else np.asarray(image.convert("L"))
    np.testing.assert_array_equal(read_image(tmp_path / "x")[..., 0], expected)


FORGED = {
    "no pixels": (b"P6 7000 7000 255\n", "at least 147,000,000 bytes, and 0 follow"),
    "few pixels": (b"P5 7000 7000 255\n" + bytes(99), "at least 49,000,000 bytes, and 99 follow"),
    "few bits": (b"P4 7000 7000\n" + bytes(99), "at least 6,125,000 bytes, and 99 follow"),
    "few of 16 bits": (b"P5 7000 7000 65535\n" + bytes(99), "at least 98,000,000 bytes"),
    "too large": (b"P6 8000 8000 255\n", "8000x8000 pixels, more than the limit of 50,000,000"),
    "too long": (b"P4 2000000 1\n", "more than the limit of 1,000,000 a side"),
    "huge": (b"P6 9999999999 9999999999 255\n", "more than the limit of 50,000,000"),
    "plain, many": (b"P3 2000 2000 255\n", "12,000,000 numbers to be decoded one by one"),
    "deep, many": (b"P6 2000 2000 65535\n", "12,000,000 numbers to be decoded one by one"),
    "plain, few": (b"P2 1000 1000 255\n1 2 3", "at least 1,999,999 bytes, and 5 follow"),
    "plain, comments": (b"P1 9 9\n" + b"#\n" * 2_000, "2,000 comments"),
    "largest value 0": (b"P5 9 9 0\n" + bytes(81), "without a largest value of 1 to 65,535"),
    "largest value": (b"P5 9 9 65536\n" + bytes(162), "without a largest value of 1 to 65,535"),
    "no largest value": (b"P5 9 9\n" + bytes(81), "without a largest value"),
    "floats": (b"Pf\n9 9\n-1.0\n" + bytes(324), "is not an image, or is damaged"),
    "test format": (b"PyRGBA\n9 9\n255\n" + bytes(324), "is not an image, or is damaged"),
    "CMYK": (b"P0CMYK\n9 9\n255\n" + bytes(324), "is not an image, or is damaged"),
    "negative": (b"P5 -9 -9 255\n" + bytes(81), "is not an image, or is damaged"),
    "header without end": (b"P5 #" + b"a" * 5_000_000, "is not an image, or is damaged"),
    "header of spaces": (b"P5" + b" " * 5_000_000 + b"9 9 255 ", "is not an image"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_header_is_refused_before_anything_is_allotted(kind):
    data, message = FORGED[kind]
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ImageFileError, match=message) as caught:
        decode_square(data, 8, "x")
    assert time.perf_counter() - start < 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageFileError, match=message):
        check_header(data, "x")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 9), st.binary(max_size=40))
def test_junk_after_the_kind_is_one_clear_error(kind, rest):
    with contextlib.suppress(ImageFileError):
        decode_square(b"P%d" % kind + rest, 4, "x")


def test_other_formats_that_begin_with_a_p_are_no_image():
    for data in (b"PK\3\4", b"P", b"P7\nWIDTH 3\n", b"PCD_IPI"):
        with pytest.raises(ImageFileError, match="is not an image, or is damaged"):
            decode_square(data, 8, "x")
    assert Image.open(io.BytesIO(b"P5 1 1 255\n\0")).format == "PPM"
