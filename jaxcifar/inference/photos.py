"""Images from anywhere, as a network's users have them: files, folders, PIL images, arrays."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxcifar.common.errors import DataError, ImageFileError
from jaxcifar.data import pictures
from jaxcifar.data.image_file import read_square, square

OnePhoto = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
Photos = OnePhoto | Sequence[OnePhoto]


class Photo(NamedTuple):
    """An image that is not read yet.

    Attributes:
        name: for people: the path, or "image 3".
        content: a path, a PIL image, or uint8 [h, w, 3].
    """

    name: str
    content: Path | Image.Image | NDArray[np.uint8]

    def read(self, side: int, stored_side: int | None) -> NDArray[np.uint8]:
        """uint8 [side, side, 3], RGB: scaled by its shorter side and cropped to the centre.

        An image of exactly `stored_side` x `stored_side` pixels stays as it is: it is like those of
        the dataset, which the network's preprocessing resizes.

        Raises:
            ImageFileError: the file cannot be used.
        """
        if isinstance(self.content, Path):
            return read_square(self.content, side, keep=stored_side)
        if isinstance(self.content, Image.Image):
            return square(self.content, side, keep=stored_side, name=self.name)
        if self.content.shape[:2] in ((side, side), (stored_side, stored_side)):
            return self.content
        return square(Image.fromarray(self.content), side, name=self.name)


def collect(images: Photos, *, follow_links: bool = False) -> list[Photo]:
    """The photos in what a user passes; nothing is read but the listings of folders.

    Args:
        images: a path (of a picture, or of a folder with pictures in it and in its subfolders), a
            PIL image, a uint8 array [h, w, 3] or [n, h, w, 3], or a sequence of these.
        follow_links: see `data.pictures.list_pictures`.

    Raises:
        ImageFileError, DataError: a file or folder is not there, an array has another dtype or
            shape, or there is no image at all.
    """
    several = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
    photos: list[Photo] = []
    for image in images if several else [images]:  # type: ignore[union-attr]
        photos += _photos_of(image, len(photos), follow_links)
    if not photos:
        raise DataError("there are no images: name at least one picture or folder")
    return photos


def _way_out(array: NDArray[Any]) -> str:
    """The line of Python that makes an image of the array, where there is one; for a message."""
    if array.dtype.kind == "f" and array.ndim in (3, 4):
        return '; of floats from 0 to 1 it is (255 * x).round().astype("uint8")'
    if array.dtype == np.uint8 and array.ndim == 2:
        return "; of gray pixels [h, w] it is np.stack([x] * 3, axis=-1)"
    if array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 4:
        return "; of RGBA it is x[..., :3], without the transparency"
    return ""


def _photos_of(image: object, first: int, follow_links: bool) -> list[Photo]:
    if isinstance(image, (str, os.PathLike)):
        paths = pictures.list_pictures([Path(image)], follow_links=follow_links)
        return [Photo(str(path), path) for path in paths]
    if isinstance(image, Image.Image):
        name = f"image {first}"
        try:
            image.load()  # here, as Pillow reads a file only now, and threads may share the image
        except Exception as error:  # Pillow's decoders raise many
            raise ImageFileError(f"{name} cannot be decoded: {error}") from None
        return [Photo(name, image)]
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise DataError(
            "an image is a path, a PIL image, or a uint8 array [h, w, 3] or [n, h, w, 3] in RGB, "
            f"not {type(image).__name__} {array.dtype} {list(array.shape)}{_way_out(array)}"
        )
    if 0 in array.shape[-3:]:
        raise DataError(f"an image has no pixels: its shape is {list(array.shape)}")
    rows = array if array.ndim == 4 else array[None]
    return [Photo(f"image {first + i}", row) for i, row in enumerate(rows)]
