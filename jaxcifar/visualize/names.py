"""The default names of pictures: another picture has another name.

A name is plain (small ASCII letters, digits, "_", "-" and "="), shorter than 200 bytes whatever is
drawn, and different also where the file system takes capital letters for small ones. What differs
from the defaults is said, as in ``grad_cam_image=cat_target=dog.png``.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from jaxcifar.common.files import Unusable, read_bytes
from jaxcifar.data.image_file import MAX_BYTES
from jaxcifar.visualize.images import as_named

_LONGEST = 16  # characters of a word from outside
_PLAIN = re.compile(rf"[a-z0-9]{{1,{_LONGEST}}}")


def picture_name(kind: str, *words: str, **differing: str | int | None) -> str:
    """The stem of a picture's file.

    Args:
        kind: what it is.
        words: that need no key.
        differing: settings, and words for those that are not the default; None is left out.

    Example:
        >>> picture_name("activations", "8", size=64, channels=None)
        'activations_8_size=64'
    """
    said = [f"{key}={value}" for key, value in differing.items() if value is not None]
    return "_".join([kind, *words, *said])


def image_word(image: str | int, class_names: Sequence[str]) -> str:
    """A word for an image, as `images.load_image` finds it.

    A class and an index are themselves where that is a plain word, and the index of a class's name
    is ``index=8``. A file is its stem and the start of the SHA-256 of its contents.
    """
    image = as_named(image)
    if isinstance(image, int):
        return f"index={image}" if str(image) in class_names else word(str(image))
    if image in class_names:
        return word(image)
    if image.isdecimal():
        return word(str(int(image)) if len(image) < 10 else image)
    try:
        contents = read_bytes(Path(image), MAX_BYTES)
    except Unusable:
        return word(image)  # no picture of it is drawn
    return _with_digest(Path(image).stem, contents)


def images_word(images: Sequence[str | int], class_names: Sequence[str]) -> str:
    """A word for several images, in their order."""
    words = [image_word(image, class_names) for image in images]
    return words[0] if len(words) == 1 else word(" ".join(words))


def word(text: str) -> str:
    """Text from outside as a part of a name: itself if it is plain, else with a digest of it."""
    if _PLAIN.fullmatch(text):
        return text
    return _with_digest(text, text.encode(errors="surrogatepass"))


def _with_digest(text: str, data: bytes) -> str:
    shown = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST].strip("-") or "x"
    return f"{shown}-{hashlib.sha256(data).hexdigest()[:8]}"
