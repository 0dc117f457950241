"""A picture from a file as an array, decoded within bounds, and pictures made square."""

import warnings
from pathlib import Path

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
    try:
        with warnings.catch_warnings():
            # Pillow's warning of a decompression bomb: the check below is the stricter one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"{path} is too large to be decoded: {error}") from None
    except Exception:  # whatever a plug-in meets in a file that is something else
        raise ImageFileError(
            f"{path} is not an image, or is damaged ({', '.join(FORMATS)} can be read)"
        ) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageFileError(
                f"{path} is {image.width}x{image.height} pixels, more than {MAX_PIXELS:,} in all: "
                "make it smaller first"
            )
        try:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
        except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
            raise ImageFileError(f"{path} is a damaged or cut-off image: {error}") from None


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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
