"""A picture from a file as an array, decoded within bounds, and pictures made square."""

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Formats that Pillow decodes in this process; it would hand others (EPS) to other programs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
MAX_BYTES = 100_000_000
MAX_PIXELS = 50_000_000  # 150 MB once decoded; a phone's camera makes 12 to 50 million


class ImageFileError(ValueError):
    """A file that is no picture, or not one to be decoded; the message says which and why."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """The picture in a file, upright: uint8 [h, w, 3], RGB.

    EXIF's orientation is followed. What is transparent lies on white. Of several frames or pages it
    is the first; of 16-bit grey the upper eight bits. Colour profiles are not applied.

    Raises:
        ImageFileError: no such file, not a picture in one of `FORMATS`, damaged, cut off, or larger
            than `MAX_BYTES` or `MAX_PIXELS` (decided before it is decoded).
    """
    path = Path(path)
    if not path.is_file():  # a pipe would wait, a device never end
        raise ImageFileError(f"there is no image file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise ImageFileError(f"{path} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    with warnings.catch_warnings():
        # Pillow's warning of a decompression bomb: the check that follows is the stricter one.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = _open(path, str(path))
    with image:
        try:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image), transparent_on="white"))
        except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
            raise _damaged(str(path), error) from None


def decode_square(data: bytes, side: int, name: str, *, exact: bool = False) -> NDArray[np.uint8]:
    """An encoded picture as an image to learn from: uint8 [side, side, 3], RGB.

    What torchvision's ImageFolder, Resize(side) and CenterCrop(side) make of it, but upright: the
    shorter side is scaled to `side`, bilinear and smoothed first where it becomes smaller, and the
    centre cut out. Transparency is dropped, as Pillow's `convert` does. Otherwise as `read_image`.
    May run in several threads at once: Pillow lets go of the interpreter lock.

    Args:
        data: the whole file.
        side: pixels.
        name: what errors call it.
        exact: refuse a picture that is not side x side already.

    Raises:
        ImageFileError: as `read_image`; or so narrow that, scaled, it is larger than `MAX_PIXELS`.
    """
    if len(data) > MAX_BYTES:
        raise ImageFileError(f"{name} has {len(data):,} bytes, more than {MAX_BYTES:,}")
    with _open(io.BytesIO(data), name) as image:
        size = f"{image.width}x{image.height}"
        if exact and image.size != (side, side):
            raise ImageFileError(f"{name} is {size} pixels, not {side}x{side}")
        if side**2 * max(image.size) > MAX_PIXELS * min(image.size):
            raise ImageFileError(
                f"{name} is {size} pixels: too narrow to be scaled to a shorter side of {side}"
            )
        try:
            upright = _to_rgb(ImageOps.exif_transpose(image), transparent_on=None)
        except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
            raise _damaged(name, error) from None
    return np.asarray(_scale_and_crop(upright, side))


def make_square(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The central square of [h, w, 3], resized to [side, side, 3].

    Cut and not squeezed, so that things keep their proportions. Bilinear, and smoothed first where
    it becomes smaller, as torchvision resizes.
    """
    height, width, _ = pixels.shape
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = Image.fromarray(pixels[top : top + shorter, left : left + shorter])
    return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR))


def _open(file: Path | BinaryIO, name: str) -> Image.Image:
    """The picture with its size checked, not yet decoded."""
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFileError(f"{name} is too large to be decoded: {error}") from None
    except Exception:  # whatever a plug-in meets in a file that is something else
        raise ImageFileError(
            f"{name} is not an image, or is damaged ({', '.join(FORMATS)} can be read)"
        ) from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ImageFileError(
            f"{name} is {image.width}x{image.height} pixels, more than {MAX_PIXELS:,} in all: "
            "make it smaller first"
        )
    return image


def _damaged(name: str, error: Exception) -> ImageFileError:
    return ImageFileError(f"{name} is a damaged or cut-off image: {error}")


def _scale_and_crop(image: Image.Image, side: int) -> Image.Image:
    """The lengths are rounded as torchvision does: down for the longer side, the crop's to even."""
    width, height = image.size
    if width == height == side:
        return image
    shorter = min(width, height)
    size = (side * width // shorter, side * height // shorter)
    scaled = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((length - side) / 2) for length in size)
    return scaled.crop((left, top, left + side, top + side))


def _to_rgb(image: Image.Image, *, transparent_on: str | None) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if transparent_on is not None:
            background = Image.new("RGBA", image.size, transparent_on)
            image = Image.alpha_composite(background, image)
    return image.convert("RGB")
