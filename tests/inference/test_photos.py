import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.inference.photos import collect

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (np.stack([GRAY / 255] * 3, axis=-1), '(255 * x).round().astype("uint8")'),
        (GRAY, "np.stack([x] * 3, axis=-1)"),
        (np.stack([GRAY] * 4, axis=-1), "x[..., :3]"),
    ],
)
def test_the_line_in_the_message_makes_an_image(x, line):
    with pytest.raises(DataError, match="an image is a path") as caught:
        collect(x)
    assert line in str(caught.value)
    (photo,) = collect(eval(line))
    np.testing.assert_array_equal(photo.content, np.stack([GRAY] * 3, axis=-1))


@pytest.mark.parametrize("x", [None, np.zeros(3, np.uint8), np.zeros((2, 2, 5), np.int64)])
def test_what_cannot_be_an_image_has_no_such_line(x):
    with pytest.raises(DataError, match=r"not \w+ \w+ \[[\d, ]*\]$"):
        collect(x)
