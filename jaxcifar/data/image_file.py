"""Pictures in files as arrays, decoded within bounds, and pictures made square."""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from jaxcifar.common.errors import ImageFileError
from jaxcifar.common.files import Unusable, read_bytes
from jaxcifar.common.messages import reason_of, shown
from jaxcifar.data.picture_limits import MAX_BYTES, MAX_PIXELS, check_header, check_size
from jaxcifar.data.quiet_pillow import quiet

# Formats that Pillow decodes in this process; it would pass others (EPS) to other programs.
# AVIF is not among them: what its decoder allots stands in the video stream inside, which
# `picture_limits` cannot read, and not only in the header.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_BAND = 4_000_000  # pixels converted at once: each copy of MAX_PIXELS would take 200 MB
_ORIENTATION = 0x0112  # in EXIF
_JPEG_EXIF = re.compile(rb"(\xff\xe1..)Exif\0\0", re.DOTALL)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """The picture in a file, upright: uint8 `[h, w, 3]`, RGB.

    EXIF's orientation is applied; EXIF that cannot be understood is ignored, and the picture is
    returned as it is stored. Transparent pixels become white. Only the first frame or page is read,
    and of 16-bit grey the upper eight bits. Colour profiles are not applied.

    Raises:
        ImageFileError: the file does not exist, is not a picture in one of `FORMATS`, is damaged,
            or is larger than `MAX_BYTES` or `MAX_PIXELS`, or its header declares something else
            beyond the limits of `picture_limits` (all checked before decoding).
    """
    data = _contents(Path(path))
    with quiet():
        return np.asarray(_decode(data, str(path), transparent_on="white"))


def read_square(path: str | Path, side: int, *, keep: int | None = None) -> NDArray[np.uint8]:
    """The picture in a file as `decode_square` makes it.

    Raises:
        ImageFileError: there is no such file, or as `decode_square`.
    """
    return decode_square(_contents(Path(path)), side, str(path), keep=keep)


def square(
    image: Image.Image, side: int, *, keep: int | None = None, name: str = "the image"
) -> NDArray[np.uint8]:
    """A picture in memory as `decode_square` makes it of a file: uint8 `[side, side, 3]`, RGB.

    Raises:
        ImageFileError: its pixels are 32-bit numbers, or it cannot be decoded.
    """
    with quiet():
        if image.mode in ("I", "F"):
            raise _damaged(name, ValueError(f"32-bit numbers (mode {image.mode})"))
        turn = _turn(image)
        try:
            rgb = _to_rgb(image, transparent_on=None)
        except Exception as error:  # Pillow reads a file only now
            raise _damaged(name, error) from None
        rgb = rgb if turn is None else rgb.transpose(turn)
        return np.asarray(rgb if rgb.size == (keep, keep) else _scale_and_crop(rgb, side))


def _contents(path: Path) -> bytes:
    if not os.path.isfile(path):  # reading a pipe would block, reading a device would never end
        raise ImageFileError(f"there is no image file {shown(str(path))[1:-1]}")
    try:
        return read_bytes(path, MAX_BYTES)
    except Unusable as error:
        raise ImageFileError(str(error)) from None


def decode_square(
    data: bytes, side: int, name: str, *, exact: bool = False, keep: int | None = None
) -> NDArray[np.uint8]:
    """An encoded picture as an image to train on: uint8 `[side, side, 3]`, RGB.

    As torchvision's ImageFolder, Resize(side) and CenterCrop(side), but upright: the shorter side
    is scaled to `side` (bilinear, antialiased), then the centre is cropped. Transparency is
    dropped, as Pillow's `convert` does. Otherwise as `read_image`. Several threads may call it at
    once: Pillow releases the interpreter lock.

    Args:
        data: the whole file.
        side: pixels.
        name: what errors call it.
        exact: refuse a picture that is not already side x side.
        keep: leave a picture of exactly this height and width as it is.

    Raises:
        ImageFileError: as `read_image`; or the picture is so narrow that scaling would make it
            larger than `MAX_PIXELS`.
    """
    if len(data) > MAX_BYTES:
        raise ImageFileError(
            f"{name} has {len(data):,} bytes, more than the limit of {MAX_BYTES:,}"
        )

    def check(width: int, height: int) -> None:
        size = f"{width}x{height}"
        if exact and (width, height) != (side, side):
            raise ImageFileError(f"{name} is {size} pixels, not {side}x{side}")
        if side**2 * max(width, height) > MAX_PIXELS * min(width, height):
            raise ImageFileError(
                f"{name} is {size} pixels: too narrow to be scaled to a shorter side of {side}"
            )

    with quiet():
        image = _decode(data, name, check, transparent_on=None)
        return np.asarray(image if image.size == (keep, keep) else _scale_and_crop(image, side))


def make_square(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The central square of `[h, w, 3]`, resized to `[side, side, 3]`.

    It crops instead of squeezing, to keep proportions. Bilinear, antialiased, as torchvision.
    """
    height, width, _ = pixels.shape
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = Image.fromarray(pixels[top : top + shorter, left : left + shorter])
    return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR))


def _decode(
    data: bytes,
    name: str,
    check: Callable[[int, int], None] | None = None,
    *,
    transparent_on: str | None,
) -> Image.Image:
    """The picture upright in RGB; `check` sees its width and height before it is decoded.

    It is turned last, when the decoder and its buffers are gone: those of a WEBP take 600 MB.
    """
    image = _open(data, name)
    if check is not None:
        check(*image.size)
    try:
        with image:
            # Pillow has no 16-bit grey for PPM, but scales its numbers to 16 bits.
            if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                raise ValueError(
                    f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range"
                )
            with _reading_no_exif(image):
                image.load()  # turns a TIFF, and removes its orientation
            turn = _turn(image)
        rgb = _to_rgb(image, transparent_on=transparent_on)
        del image
        return rgb if turn is None else rgb.transpose(turn)
    except Exception as error:  # Pillow's decoders raise many, from OSError to SyntaxError
        raise _damaged(name, error) from None


@contextmanager
def _reading_no_exif(image: Image.Image) -> Iterator[None]:
    """A TIFF is turned when it is loaded, by its own tag, without its EXIF directory.

    Pillow would read that directory first, and fail where it is broken.
    """
    if image.format != "TIFF":
        yield
        return
    vars(image)["load_end"] = partial(ImageOps.exif_transpose, image, in_place=True)
    try:
        yield
    finally:
        del vars(image)["load_end"]  # a circle would keep the decoder's buffers


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The turn that EXIF asks for; None if it cannot be understood, as it is not the picture."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # junk raises many kinds, from SyntaxError to struct.error
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _open(data: bytes, name: str) -> Image.Image:
    """The picture with what it declares checked, not yet decoded."""
    check_header(data, name)
    try:
        image = _open_without_care(data)
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"{name} is too large to be decoded: {error}") from None
    except Exception:  # plug-ins raise many kinds for a file that is something else
        raise ImageFileError(
            f"{name} is not an image, or is damaged ({', '.join(FORMATS)} can be read)"
        ) from None
    check_size(image.width, image.height, name)
    return image


def _open_without_care(data: bytes) -> Image.Image:
    """As `Image.open`, but odd EXIF in a JPEG is no reason to fail.

    Pillow looks for a resolution there: one of a wrong type or count is an IndexError.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise
    except Exception:
        masked = _JPEG_EXIF.sub(rb"\1      ", data) if data.startswith(b"\xff\xd8\xff") else data
        if masked == data:
            raise
        return Image.open(io.BytesIO(masked), formats=FORMATS)


def _damaged(name: str, error: Exception) -> ImageFileError:
    return ImageFileError(f"{name} is a damaged or cut-off image: {reason_of(error)}")


def _scale_and_crop(image: Image.Image, side: int) -> Image.Image:
    """Rounding as in torchvision: the longer side down, the offset of the crop half to even."""
    width, height = image.size
    if width == height == side:
        return image
    shorter = min(width, height)
    size = (side * width // shorter, side * height // shorter)
    scaled = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((length - side) / 2) for length in size)
    return scaled.crop((left, top, left + side, top + side))


def _to_rgb(image: Image.Image, *, transparent_on: str | None) -> Image.Image:
    """A decoded picture in RGB, converted band by band."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    width, height = image.size
    rows = max(1, _BAND // width)
    if rows >= height:
        return _band_to_rgb(image, transparent_on)
    rgb = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        rgb.paste(_band_to_rgb(band, transparent_on), (0, top))
    return rgb


def _band_to_rgb(image: Image.Image, transparent_on: str | None) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, see `_decode`; Pillow would clip them at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if transparent_on is not None:
            background = Image.new("RGBA", image.size, transparent_on)
            image = Image.alpha_composite(background, image)
    return image.convert("RGB")
