import time

import jax
import numpy as np
import pytest

from jaxcifar.common.errors import FreezeError
from jaxcifar.models.names import named_leaves
from jaxcifar.step.freeze import label_params
from jaxcifar.step.freeze_text import parse_rules


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("layer1", 12),
        ("layer1.0", 6),
        ("layer1.0.bn1", 2),
        ("layer1.0.bn1.weight", 1),
        ("layer1.0.bn1.scale", 1),
        ("layer1.0.conv1.weight", 1),
        ("layer?.0.conv1", 4),
        ("layer*.*.bn?", 32),
        ("**.downsample", 9),
        ("**.bn*", 34),
        ("bn1", 2),
        ("*", 62),
    ],
)
def test_a_pattern_matches_whole_words_from_the_front(params, pattern, count):
    rest = () if pattern == "*" else (("*", "trained"),)
    labels = named_leaves(label_params(params, ((pattern, "0.5"), *rest)))
    assert list(labels.values()).count("0.5") == count


def test_many_stars_take_no_time(params):
    """As a single regular expression, every two more of them took ten times as long."""
    start = time.perf_counter()
    for word in ("*" * 40 + "x", "*a" * 40, "**." * 300 + "x", "?*" * 200):
        with pytest.raises(FreezeError, match="matches no parameter"):
            parse_rules(word, params)
    assert time.perf_counter() - start < 5


def test_brackets_and_other_signs_are_literal(params):
    for word in ("[cl]*", "!conv1", "(conv1", "conv1|fc", "conv1$", "^conv1"):
        with pytest.raises(FreezeError, match="matches no parameter"):
            parse_rules(word, params)


def test_layer1_is_not_layer10():
    leaf = np.zeros(1)
    params = {f"layer{i}": {"0": {"conv1": {"kernel": leaf}}} for i in (1, 10)}
    labels = label_params(params, (("layer1", "frozen"), ("*", "trained")))
    assert set(jax.tree.leaves(labels["layer1"])) == {"frozen"}
    assert set(jax.tree.leaves(labels["layer10"])) == {"trained"}
