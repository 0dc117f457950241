"""Pillow prints nothing while a picture is read, and speaks as before to everyone else."""

import io
import logging
import struct
import subprocess
import sys
import threading
import warnings

import pytest
from PIL import Image, UnidentifiedImageError

from benchmarks.picture_memory import encoded, png, png_chunk, short, tiff_picture, zeros
from jaxcifar.common.errors import ImageFileError
from jaxcifar.data.image_file import decode_square, read_image
from jaxcifar.data.quiet_pillow import quiet


def odd_exif(count):
    """Tags whose data are not there."""
    tags = b"".join(struct.pack("<HHII", tag, 1, 10_000, 8) for tag in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4)


JPEG = encoded(Image.new("RGB", (16, 16)), "JPEG")
MPF = b"MPF\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0xB001, 4, 1, 2, 0)
# Each prints on the way that its name says, read without care.
PICTURES = {
    "warnings, 6,000 of them": png(16, 16, png_chunk(b"eXIf", odd_exif(6_000))),
    "warnings, in EXIF of a JPEG": JPEG[:2]
    + b"\xff\xe1"
    + struct.pack(">H", 36_000)
    + (b"Exif\0\0" + odd_exif(2_900)).ljust(35_998, b"\0")
    + JPEG[2:],
    "warnings, a half MPO": JPEG[:2]
    + b"\xff\xe2"
    + struct.pack(">H", len(MPF) + 2)
    + MPF
    + JPEG[2:],
    "warnings, a half APNG": png(16, 16, png_chunk(b"acTL", bytes(8))),
    "warnings, two values for one": tiff_picture(16, 16, [zeros(768)], short(296, 2, 2)),
    "log, samples": tiff_picture(16, 16, [zeros(768)], bits=(8,) * 60),
    "fd 2, not deflated": tiff_picture(16, 16, [b"junkjunk"]),
    "fd 2, not LZW": tiff_picture(16, 16, [b"junkjunk"], compression=5),
    "fd 2, not JPEG": tiff_picture(16, 16, [b"junkjunk"], compression=7),
    "fd 2, not fax": tiff_picture(16, 16, [b"junk"], compression=4, photometric=0, bits=(1,)),
}  # fmt: skip
CHILD = """
import logging, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import jaxcifar.data.image_file as image_file
if sys.argv[2] == "debug":
    logging.basicConfig(level=logging.DEBUG)

def read(path):
    try:
        image_file.read_image(path)
    except image_file.ImageFileError:
        pass
    try:
        image_file.decode_square(path.read_bytes(), 8, "x")
    except image_file.ImageFileError:
        pass

with ThreadPoolExecutor(4) as pool:
    list(pool.map(read, 5 * sorted(Path(sys.argv[1]).iterdir())))
"""


@pytest.mark.parametrize("level", ["default", "debug"])
def test_no_picture_prints_a_line_in_any_thread(tmp_path, level):
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", CHILD, str(tmp_path), level],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", PICTURES)
def test_an_error_filter_from_elsewhere_changes_no_picture(tmp_path, name):
    def outcome():
        try:
            return decode_square(PICTURES[name], 8, "x").tolist()
        except ImageFileError as error:
            return str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = outcome()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outcome() == expected


def open_oddly():
    Image.open(io.BytesIO(PICTURES["warnings, two values for one"])).load()


def test_pillow_warns_others_as_before(tmp_path):
    with pytest.warns(UserWarning, match="tag 296 had too many entries") as caught:
        open_oddly()
    assert caught[0].filename.endswith("TiffImagePlugin.py")
    # Also while another thread reads a picture.
    inside, done = threading.Event(), threading.Event()

    def hold():
        with quiet():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with pytest.warns(UserWarning, match="tag 296"):
        open_oddly()
    done.set()
    thread.join()
    with quiet(), quiet():
        open_oddly()
    with quiet():
        with quiet():
            pass
        open_oddly()


def test_pillow_logs_for_others_as_before(tmp_path, caplog):
    (tmp_path / "x").write_bytes(PICTURES["log, samples"])
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ImageFileError):
        read_image(tmp_path / "x")
    assert not caplog.records
    with pytest.raises(UnidentifiedImageError):
        Image.open(tmp_path / "x")
    assert any("More samples per pixel" in record.message for record in caplog.records)
