"""Datasets are shown in a few lines, without their pixels, rows or labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.data import Dataset, LabelledData, Relabelled, Rows, Splits

DATA = Dataset(np.zeros((6, 8, 9, 3), np.uint8), np.arange(6, dtype=np.int32))


def assert_short(thing):
    lines = repr(thing).split("\n")
    assert len(lines) <= 10
    assert all(len(line) <= 100 and line.isprintable() for line in lines)


class Hostile:
    """A user's own source, whose repr is not fit to be shown."""

    side, labels = 8, np.zeros(5, np.int32)

    def __len__(self):
        return 5

    def __repr__(self):
        return "\x1b[31m" * 1000


def test_splits_say_what_a_person_asks():
    splits = Splits("digits", ("cat", "dog"), DATA, DATA, DATA, "ab12" * 16, 3, True)
    assert repr(splits) == (
        "Splits(digits: 6 train, 6 validation, 6 test images of 8x8 pixels; 2 classes: cat, dog;\n"
        "  seed 3, stratified; fingerprint ab12ab12ab12...)"
    )


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (DATA, "Dataset(6 images of 8x9 pixels; in memory)"),
        (Rows(DATA, np.array([1, 2])), "Rows(2 of the 6 images of 8x8 pixels; from a Dataset)"),
        (Rows(Hostile(), np.array([0])), "Rows(1 of the 5 images of 8x8 pixels; from a Hostile)"),
        (
            Relabelled(DATA, np.arange(6, dtype=np.int32)[::-1]),
            "Relabelled(6 images of 8x8 pixels; from a Dataset; labels become [5, 4, 3, 2, 1, 0])",
        ),
        (
            LabelledData("digits", ("cat",), DATA, "ab12" * 16),
            "LabelledData(digits: 6 images of 8x8 pixels; 1 classes: cat; from a Dataset;\n"
            "  fingerprint ab12ab12ab12...)",
        ),
    ],
)
def test_images_are_counted_not_printed(thing, text):
    assert repr(thing) == text


def test_a_memory_map_is_not_said_to_be_in_memory(tmp_path):
    images = np.memmap(tmp_path / "x", np.uint8, "w+", shape=(2, 4, 4, 3))
    assert "read from a file" in repr(Dataset(images, np.zeros(2, np.int32)))


@given(st.text(max_size=200), st.lists(st.text(max_size=50), max_size=300), st.text(max_size=80))
def test_names_from_outside_stay_on_short_lines(name, classes, fingerprint):
    assert_short(Splits(name, tuple(classes), DATA, DATA, DATA, fingerprint, 10**40))
    assert_short(LabelledData(name, tuple(classes), DATA, fingerprint))


def test_a_table_of_a_thousand_labels_is_shortened():
    assert_short(Relabelled(DATA, np.arange(1000, dtype=np.int32)))
