import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.common.errors import DataError
from jaxcifar.data.class_names import match_classes

NAMES = st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True)


def match(known, found):
    return match_classes(known, found, of_known="the run", of_found="the data")


@given(NAMES, st.data())
def test_labels_follow_their_names(known, data):
    found = data.draw(st.permutations(known))[: data.draw(st.integers(1, len(known)))]
    lookup = match(known, found)
    if lookup is None:
        assert found == known
        lookup = np.arange(len(known))
    assert [known[label] for label in lookup] == found


@pytest.mark.parametrize(
    ("known", "found"),
    [("ab", "ac"), ("ab", "abc"), ("aab", "ba"), ("ab", "bb"), (["cat"], ["Cat"])],
)
def test_what_cannot_be_matched_is_refused_with_both_lists(known, found):
    with pytest.raises(DataError) as error:
        match(known, found)
    assert error.value.args == (
        "the data does not have the classes of the run:",
        f"  the run: {', '.join(known)}",
        f"  the data: {', '.join(found)}",
    )


def test_a_thousand_names_are_cut_short():
    with pytest.raises(DataError, match=r"49, \.\.\. \(1,000 classes\)"):
        match([str(i) for i in range(1000)], ["x"])
